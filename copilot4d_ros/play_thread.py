# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A thread that plays on time: it can be paused, goes on where it was, and ends when it is told to.

What goes in: a function that does everything inside `with thread.due(...)`. What comes out: each of its steps on time, none
while it is paused. Unusual: its clock stands still during a pause, so what was due in a second is still due in a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_JOIN_S = 5.0


class ClosedError(Exception):
    """The thread is to end; goes through the playing function and is no fault."""


class PlayThread:
    """One thread; it starts paused."""

    def __init__(self, play: Callable[[PlayThread], None], ended: Callable[[Exception | None], None]) -> None:
        """Start the thread.

        Args:
            play: gets this object; runs until it returns, fails or is closed.
            ended: called in the thread with None when `play` returned, or with its error; not called after `close`.
        """
        self._play, self._ended = play, ended
        self._changed = threading.Condition()
        self._is_closing = False
        self._played_s = 0.0
        self._resumed_s: float | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now_s(self) -> float:
        """Seconds played so far; stands still while paused."""
        with self._changed:
            return self._played_s + (0.0 if self._resumed_s is None else time.monotonic() - self._resumed_s)

    @contextmanager
    def due(self, due_s: float) -> Iterator[None]:
        """Wait until `now_s` reaches a time and the thread is not paused; what stands inside cannot be cut by `pause`.

        Raises:
            ClosedError: the thread is to end.
        """
        with self._changed:
            while self._is_closing or self._resumed_s is None or self.now_s() < due_s:
                if self._is_closing:
                    raise ClosedError
                self._changed.wait(None if self._resumed_s is None else due_s - self.now_s())
            yield

    def sleep(self, seconds: float) -> None:
        """Let seconds of playing pass; errors as for `due`."""
        with self.due(self.now_s() + seconds):
            pass

    def resume(self) -> None:
        """Play, or go on."""
        with self._changed:
            if self._resumed_s is None:
                self._resumed_s = time.monotonic()
            self._changed.notify()

    def pause(self) -> None:
        """Stop playing; when this returns, nothing is under way."""
        with self._changed:
            self._played_s, self._resumed_s = self.now_s(), None
            self._changed.notify()

    def close(self) -> bool:
        """End the thread, from another one.

        Returns:
            Whether it ended in time.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_JOIN_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._play(self)
        except ClosedError:
            return
        except Exception as caught:
            error = caught
        if not self._is_closing:
            self._ended(error)
