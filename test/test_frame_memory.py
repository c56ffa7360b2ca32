# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""After the first frames no frame takes memory but for what it returns: counted by NumPy and Python, and by Warp; kernels take none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import warp as wp

from copilot4d_core.data.rays import rays_from_points
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.kernel_runner import kernel_runner
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS

POINTS, RAYS = 120_000, 65_536
BESIDES_BYTES = 100_000
"""For the launches: arguments, futures, array headers."""


def peak_bytes(work: Callable[[], object]) -> int:
    """Largest amount that Python and NumPy held during a call beyond what they held before."""
    tracemalloc.start()
    try:
        work()  # what Python keeps of a first call, such as the tables of a line that never ran, is no allocation of a frame
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_the_counter_counts() -> None:
    assert 4_000_000 <= peak_bytes(lambda: np.ones(1_000_000, dtype=np.float32)) < 4_000_000 + BESIDES_BYTES


def test_a_frame_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = next(iter(simulate_drive(3, 1, "hdl64")))
    points_m = np.resize(scan.points_m, (POINTS, 3))
    rays, _ = rays_from_points(np.resize(scan.points_m, (RAYS, 3)), scan.origin_m)
    written_bytes = 7 * 4 * RAYS  # four values of the march and three of the rendering
    taken: list[int] = []
    allocator = type(wp.get_device("cpu").get_allocator())
    allocate = allocator.allocate

    def counted(self: object, size_in_bytes: int) -> int:
        taken.append(size_in_bytes)
        return int(allocate(self, size_in_bytes))

    with kernel_runner(PACKAGED_WEIGHTS) as runner:
        for _ in range(3):
            tokens = runner.encode(points_m)
            runner.decode(tokens, rays)
        monkeypatch.setattr(allocator, "allocate", counted)
        assert peak_bytes(lambda: runner.encode(points_m)) <= tokens.nbytes + BESIDES_BYTES
        assert peak_bytes(lambda: runner.decode(tokens, rays)) <= written_bytes + BESIDES_BYTES
        assert taken == [], "Warp took memory"
        wp.zeros(1000, dtype=wp.float32, device="cpu")
        assert taken, "and would have been seen to"
