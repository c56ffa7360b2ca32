# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The packaged weights on real scans of drives that they were not trained on: the bars that they were released with."""

from __future__ import annotations

from pathlib import Path

import pytest

from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS, open_runner
from copilot4d_core.evaluation.evaluate import evaluate_scans

LARGEST_WEIGHTS_BYTES = 32_000_000


def test_weights_are_small() -> None:
    assert PACKAGED_WEIGHTS.stat().st_size <= LARGEST_WEIGHTS_BYTES


@pytest.mark.parametrize(("folder", "index"), [("kitti_odometry_00", 0), ("kitti_odometry_00", 9), ("kitti_object", 1)])
def test_depth_within_40_m_on_drives_that_were_not_trained_on(lidar_data: Path, folder: str, index: int) -> None:
    with open_runner() as runner:
        assert (runner.config.name, runner.config.grid.x_max_m) == ("mini", 40.0)
        metrics = evaluate_scans(runner, [open_scans(lidar_data / folder)[index]])
    assert metrics["depth_l1_mean_m"] <= 1.0
    assert metrics["depth_l1_median_m"] <= 0.25
    assert metrics["rays_within_1m"] >= 0.8
    assert metrics["code_usage_occupied"] > 0.2, "a scan of a street needs many codes"
