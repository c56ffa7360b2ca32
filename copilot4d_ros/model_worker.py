# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The one thread that owns a runner: it opens the model, works through a mailbox, and opens again after a fault of the GPU.

What goes in: how to open a runner, and what to do with an item. What comes out: nothing; the work publishes by itself.
Unusual: opening takes seconds on a CPU and minutes where engines are built, so whoever waits for it is told when it is
ready, may give up, and never holds the model itself.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.runner import Runner
from copilot4d_ros.mailbox import Mailbox

T = TypeVar("T")
Handler = Callable[[T], None]

CLEANUP_S, EXIT_S = 4.0, 0.5
"""How long `cleanup` waits for an item in work, and how long the end of the process does, which has one second for everything."""


class ModelWorker(Generic[T]):
    """Thread with a mailbox of one slot; `close` ends it."""

    def __init__(self, open_model: Callable[[], Runner], prepare: Callable[[Runner], Handler[T]], tell: Callable[[str], Any],
                 failed: Callable[[str], None]) -> None:
        """Start to open the model.

        Args:
            open_model: opens a runner; called again after a fault of the GPU.
            prepare: warms a fresh runner up and gives what handles an item with it. The handler lets a GpuError through,
                and nothing else.
            tell: takes a line for the log.
            failed: takes the reason when the thread ends because of an error after it was ready.
        """
        self._open_model, self._prepare, self._tell, self._failed = open_model, prepare, tell, failed
        self._mailbox: Mailbox[T] = Mailbox()
        self._handled = 0
        self._is_closed = False
        self.settled = threading.Event()
        """Set when the model is ready, or when `failure` says why it never will be."""
        self.failure = ""
        self._thread = threading.Thread(target=self._run, name="model-worker", daemon=True)
        self._thread.start()

    def put(self, item: T) -> T | None:
        """Leave an item; returns the older one that nobody had read and that is lost now.

        Raises:
            RuntimeError: the worker is closed.
        """
        return self._mailbox.put(item)

    def close(self, wait_s: float = CLEANUP_S) -> bool:
        """End the thread.

        Args:
            wait_s: how long to wait for an item in work.
        Returns:
            Whether it ended in time; if not, it still uses the model.
        """
        self._is_closed = True
        self._mailbox.close()
        self._thread.join(wait_s if self.settled.is_set() else 0.0)  # A model that is being opened may take minutes, and nobody wants it.
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether the thread has ended; until then it uses the model."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._work():
                self._tell("the GPU failed; opening the model again")
        except Exception as error:
            self.failure = str(error) if isinstance(error, (ValueError, OSError)) else traceback.format_exc()
            if self.settled.is_set() and not self._is_closed:
                self._failed(self.failure)
            self.settled.set()

    def _work(self) -> bool:
        """Until the mailbox closes; False after a fault of the GPU between two good items.

        Raises:
            GpuError: the GPU failed before the first item was done: opening again would fail again.
        """
        before = self._handled
        with self._open_model() as runner:
            handle = self._prepare(runner)
            self.settled.set()
            try:
                for item in self._mailbox:
                    handle(item)
                    self._handled += 1
            except GpuError:
                if self._handled == before:
                    raise
                return False
        return True
