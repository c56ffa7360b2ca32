# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The same scan gives the same tokens and depths in every run, on any number of cores and in any order of its points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A process of its own, because a runner chooses its threads when it starts. Prints a digest of the tokens, and one of the depths.
PROGRAM = """
import hashlib, os, sys
import numpy as np
cores, order, runner = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from copilot4d_core.data.rays import rays_from_points
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS, open_runner
scan = next(iter(simulate_drive(17, 1, "hdl64")))
points_m = scan.points_m if order == 0 else scan.points_m[np.random.default_rng(order).permutation(len(scan.points_m))]
with open_runner(PACKAGED_WEIGHTS, runner) as opened:
    for _ in range(2):
        tokens = opened.encode(points_m)
        rendering = opened.decode(tokens, rays_from_points(scan.points_m[::20], scan.origin_m)[0])
        print(opened.backend, len(np.unique(tokens)) > 50, *(hashlib.sha256(array.tobytes()).hexdigest() for array in (tokens, rendering.depth_m)))
"""


def run(cores: int, order: int, runner: str) -> set[str]:
    """What a process printed: one line if both of its frames were equal."""
    words = [sys.executable, "-c", PROGRAM, str(cores), str(order), runner]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=True)
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("runner", ["kernels", "onnx"])
def test_runs_cores_and_orders_change_nothing(runner: str) -> None:
    cores = len(os.sched_getaffinity(0))
    lines = set().union(*(run(count, order, runner) for count, order in ((cores, 0), (cores, 1), (1, 0), (1, 2))))
    assert len(lines) == 1, lines
    assert lines.pop().startswith(f"{runner} True "), "the tokens of a scan, not of nothing"
