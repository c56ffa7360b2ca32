# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How the process of a node begins and ends: refusals, signals, and the exit code.

What goes in: how to make the node. What comes out: the end of the process. Unusual: a signal may come at any moment, also while
a native call runs that nothing can stop; the process then ends around it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.logging import get_logger

from copilot4d_ros.dead_segments import remove_dead_segments
from copilot4d_ros.entry import ENDING_SIGNALS

_LOOK_EVERY_S = 0.2
"""How soon the end of the context is seen when nothing else wakes the process."""
_END_S = 0.8
"""From a signal to the end, whatever still runs then; nothing that is kept is written after a signal."""


class RunnableNode(Protocol):
    """A node that starts itself and can be ended."""

    failure: str | None
    """Why the process ends with 1."""

    def start(self) -> bool:
        """Start by itself where that is asked for; whether there is something to spin for."""
        ...

    def release(self) -> bool:
        """Give everything back; whether its threads ended in time."""
        ...

    def destroy_node(self) -> None: ...


class _Signals:
    """SIGINT and SIGTERM: noted, and obeyed within `_END_S` also where nothing else ends the process.

    rclpy's own handlers, which `rclpy.init` puts in front of these, end the spin. Python's would throw KeyboardInterrupt into whatever runs then.
    """

    def __init__(self) -> None:
        self.came = False
        for number in ENDING_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        if not self.came:
            self.came = True
            timer = threading.Timer(_END_S, os._exit, (0,))
            timer.daemon = True
            timer.start()


def run_node(name: str, make: Callable[[], RunnableNode], args: Sequence[str] | None) -> None:
    """Run a node until it ends or SIGINT or SIGTERM comes; leaves the process with 0, or 1 after a refusal that was printed.

    Args:
        name: for refusals.
        make: makes the node; a ValueError or ParameterException is a refusal.
        args: of the command line; None for the process's own.
    """
    signals = _Signals()
    freed_mb = remove_dead_segments() / 1e6  # or a node that dies and is started again would fill the memory
    rclpy.init(args=None if args is None else list(args))
    if signals.came:
        os._exit(0)  # Before rclpy listened; its context knows nothing of it.
    if freed_mb:
        get_logger(name).info(f"freed {freed_mb:.1f} MB of shared memory that processes left which had died")
    try:
        node = make()
    except (ValueError, ParameterException) as error:
        # The half-made node cannot be destroyed, and an interpreter that ends around it may hang: seen once, after this line.
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    except Exception:
        if not signals.came:
            raise
        os._exit(0)  # The context closed under the node that was being made.
    if node.start():
        _spin(node)
    ended = node.release()
    if node.failure:
        print(f"{name}: {node.failure}", file=sys.stderr)
    code = 1 if node.failure else 0
    if not ended:
        # A thread inside native code cannot be stopped, and tearing the interpreter down around it crashes.
        sys.stderr.flush()
        os._exit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    del node
    gc.collect()  # Only now the participant goes, and its shared memory with it.
    # Ctrl-C under launch may bring a second one, which would kill the interpreter while it ends.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _spin(node: RunnableNode) -> None:
    try:
        # With a limit: rclpy may begin to wait between a signal and the end of the context, and nothing might wake it.
        while rclpy.ok():
            rclpy.spin_once(node, timeout_sec=_LOOK_EVERY_S)  # type: ignore[arg-type]  # an rclpy node, as far as it needs one
    except Exception:
        if rclpy.ok():
            raise
        # The context closed, perhaps under a publish call: an exit, not a fault.
