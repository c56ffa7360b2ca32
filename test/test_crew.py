# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Many steps in one launch: each row once, each step after the one before, whoever comes when."""

from __future__ import annotations

import numpy as np
import pytest
import warp as wp

from copilot4d_core.kernels import crew as crew_module
from copilot4d_core.kernels.crew import STEPS, Crew

ROWS = 500

CODE = """
    side_by_side(ROWS, [&](int i) { seen.data[i] += 1; });
    side_by_side(1, [&](int) { for (int i = 0; i < ROWS; ++i) total.data[0] += seen.data[i]; });
    side_by_side(0, [&](int) { total.data[0] = -1; });
    side_by_side(ROWS, [&](int i) { seen.data[i] += total.data[0]; });
"""


@wp.func_native(f"{STEPS} constexpr int ROWS = {ROWS}; {CODE}")
def run(counters: wp.array(dtype=wp.int32), seen: wp.array(dtype=wp.int32), total: wp.array(dtype=wp.int32)):  # type: ignore[valid-type]
    ...


@wp.kernel(module="unique")
def steps(first: int, counters: wp.array(dtype=wp.int32), seen: wp.array(dtype=wp.int32), total: wp.array(dtype=wp.int32)):  # type: ignore[valid-type]
    run(counters, seen, total)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_row_runs_once_and_after_the_step_before(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "num_cores", lambda: threads)  # more of them than cores, too: those that wait leave the core
    crew = Crew(4)
    seen, total = (wp.zeros(length, dtype=wp.int32, device="cpu") for length in (ROWS, 1))
    for _ in range(200):
        seen.zero_()
        total.zero_()
        crew.launch(steps, [seen, total])
        assert total.numpy()[0] == ROWS and (seen.numpy() == ROWS + 1).all()


def test_who_comes_late_finds_the_steps_done() -> None:
    crew = Crew(4)
    seen, total = (wp.zeros(length, dtype=wp.int32, device="cpu") for length in (ROWS, 1))
    for _ in range(2):
        wp.launch(steps, dim=1, inputs=[0, crew.counters, seen, total], device="cpu")
    assert total.numpy()[0] == ROWS and (seen.numpy() == ROWS + 1).all()


def test_counters_of_two_steps_share_no_line_of_a_cache() -> None:
    assert Crew(3).counters.shape == (96,) and Crew(3).counters.dtype is wp.int32
    assert (np.asarray(Crew(3).counters.numpy()) == 0).all()
