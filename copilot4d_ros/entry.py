# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The executables of the package, as an installation names them.

What goes in: the command line. What comes out: the end of the process. Unusual: the nodes are imported late, because that takes a second or more,
and a signal that comes meanwhile must end the process cleanly, too. Nothing has been opened then, so it ends at once. At the other end Python
would take its modules apart, object by object, which takes a third of a second of computing for nothing: it is left out.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from importlib import import_module

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def tokenizer_node() -> None:
    """Run the node `tokenizer`; see `copilot4d_ros.tokenizer_node.main`."""
    _run("copilot4d_ros.tokenizer_node")


def detokenizer_node() -> None:
    """Run the node `detokenizer`; see `copilot4d_ros.detokenizer_node.main`."""
    _run("copilot4d_ros.detokenizer_node")


def token_recorder() -> None:
    """Run the node `token_recorder`; see `copilot4d_ros.token_recorder.main`."""
    _run("copilot4d_ros.token_recorder")


def bag_player() -> None:
    """Run the node `bag_player`; see `copilot4d_ros.bag_player.main`."""
    _run("copilot4d_ros.bag_player")


def demo_source() -> None:
    """Run the node `demo_source`; see `copilot4d_ros.demo_source.main`."""
    _run("copilot4d_ros.demo_source")


def _run(module: str) -> None:
    code = 1  # of an error that nobody caught

    def leave() -> None:
        sys.stdout.flush()
        os._exit(code)

    atexit.register(leave)  # before any other is registered, so that it is called after them
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    try:
        import_module(module).main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
