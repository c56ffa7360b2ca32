# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Threads that work beside the one that calls them, each woken on a core of its own.

In: something to do, of which each thread takes parts until none is left. Out: all of it is done.
Unusual: Linux, left alone, often wakes a thread on the core of the very thread that calls it, as if that one were about to wait. It works on, so
the helper waits for the end of its slice, some milliseconds, while the other core sleeps: after a pause most launches ran on one core alone.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress


class HelperThreads:
    """Started when first called, and asleep between two calls."""

    def __init__(self, most: int) -> None:
        """`most`: how many there can be."""
        self._thread_ids: list[int] = []
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="kernel", initializer=self._enter)
        self._core_now: Callable[[], int] | None = ctypes.PyDLL(None).sched_getcpu if hasattr(os, "sched_setaffinity") else None

    def _enter(self) -> None:
        self._thread_ids.append(threading.get_native_id())

    def work_with(self, work: Callable[[], None], threads: int) -> None:
        """Do `work` here, and in so many of them at the same time; who comes too late to find something left is not waited for.

        Raises:
            Exception: what `work` raised, here or there.
        """
        called = [self._pool.submit(task) for task in [self._woken_elsewhere(work)] * threads]
        work()
        for helper in called:
            if not helper.cancel():
                helper.result()

    def _woken_elsewhere(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` for the helpers, which now wake on another core than this one and then may go where the scheduler likes."""
        if self._core_now is None:
            return work
        allowed = os.sched_getaffinity(0)
        for thread_id in self._thread_ids:
            _allow(thread_id, allowed - {self._core_now()} or allowed)

        def work_anywhere() -> None:
            _allow(0, allowed)  # a core that is busy with other work must not hold it
            work()

        return work_anywhere


def _allow(thread_id: int, cores: set[int]) -> None:
    with suppress(OSError):  # a wish: a sandbox may refuse it, and then the scheduler decides
        os.sched_setaffinity(thread_id, cores)
