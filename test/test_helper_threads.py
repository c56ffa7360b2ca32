# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Threads beside the caller: on another core when woken, free to go afterwards, and never waited for in vain."""

from __future__ import annotations

import ctypes
import os
import threading
import time

import pytest

from copilot4d_core.kernels import launch
from copilot4d_core.kernels.helper_threads import HelperThreads

needs_two_cores = pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
                                     reason="where a thread wakes is a choice only on Linux with two cores or more")


@needs_two_cores
def test_a_helper_wakes_on_another_core_than_the_one_that_calls_it() -> None:
    core_now = ctypes.PyDLL(None).sched_getcpu
    helpers, caller, shared = HelperThreads(1), threading.get_ident(), 0
    for _ in range(30):
        met = threading.Barrier(2)
        cores: dict[bool, int] = {}

        def work(met: threading.Barrier = met, cores: dict[bool, int] = cores) -> None:
            cores[threading.get_ident() == caller] = core_now()
            met.wait(timeout=10)

        time.sleep(0.005)  # the other core goes to sleep
        helpers.work_with(work, 1)
        shared += cores[True] == cores[False]
    assert shared <= 5  # the first, before the thread's number is known, and where the scheduler has moved the caller meanwhile


@needs_two_cores
def test_a_helper_may_go_to_any_core_while_it_works() -> None:
    helpers, caller, allowed = HelperThreads(1), threading.get_ident(), []
    for _ in range(3):
        met = threading.Barrier(2)

        def work(met: threading.Barrier = met) -> None:
            if threading.get_ident() != caller:
                allowed.append(os.sched_getaffinity(0))
            met.wait(timeout=10)

        helpers.work_with(work, 1)
    assert allowed == [os.sched_getaffinity(0)] * 3


def test_who_has_not_begun_is_not_waited_for() -> None:
    helpers, begun, leave = HelperThreads(1), threading.Event(), threading.Event()

    def hold() -> None:
        if threading.current_thread().name.startswith("kernel"):
            begun.set()
            leave.wait(timeout=60)
        else:
            begun.wait(timeout=60)

    holding = threading.Thread(target=helpers.work_with, args=(hold, 1))
    holding.start()
    begun.wait(timeout=60)
    did = []
    helpers.work_with(lambda: did.append(threading.get_ident()), 1)
    assert did == [threading.get_ident()] and holding.is_alive()
    leave.set()
    holding.join(timeout=60)
    assert not holding.is_alive()


@needs_two_cores
def test_where_a_sandbox_refuses_to_place_threads_they_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(thread_id: int, cores: set[int]) -> None:
        asked.append(cores)
        raise PermissionError("not in here")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    helpers, workers = HelperThreads(1), set()
    for _ in range(2):
        met = threading.Barrier(2)

        def work(met: threading.Barrier = met) -> None:
            workers.add(threading.get_ident())
            met.wait(timeout=10)

        helpers.work_with(work, 1)
    assert len(workers) == 2 and asked


def test_what_a_helper_raises_is_raised_here() -> None:
    helpers, caller, met = HelperThreads(1), threading.get_ident(), threading.Barrier(2)

    def work() -> None:
        met.wait(timeout=10)
        if threading.get_ident() != caller:
            raise ValueError("from a helper")

    with pytest.raises(ValueError, match="from a helper"):
        helpers.work_with(work, 1)


@pytest.mark.parametrize(("processes", "cores"), [(None, 6), ("1", 6), ("2", 3), ("4", 1), ("7", 1)])
def test_processes_that_torchrun_started_share_the_cores(processes: str | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert launch.num_cores() == cores
