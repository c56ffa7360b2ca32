# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One scan beside its reconstruction, pixel by pixel of a sensor's depth image.

What goes in: a runner, a scan and the sensor's pattern. What comes out: two depth images, tokens, and numbers about them.
Unusual: both images hold distances along the same rays; only returns inside the model's region count as input.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.data.scan import Rays, Scan
from copilot4d_core.data.sensors import SensorPattern
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.deploy.stage_clock import StageClock
from copilot4d_core.evaluation.metrics import DepthMetrics, depth_errors, depth_metrics, region_exit_m
from copilot4d_core.evaluation.surprise import surprise_of
from copilot4d_core.grid import BoolArray, FloatArray, Grid


class Reconstruction(NamedTuple):
    """What the model makes of one scan."""

    tokens: TokenArray
    """(H, W) uint16."""
    occupied: BoolArray
    """(H, W) bool: token cells that hold a point of the input."""
    rays: Rays
    """rows * columns rays, row by row."""
    input_m: FloatArray
    """(rows, columns) float32, metres: nearest return inside the region in each pixel; NaN for none."""
    depth_m: FloatArray
    """(rows, columns) float32, metres, along the rays; NaN where the ray met nothing."""
    surprise_m: FloatArray
    """(H, W) float32, metres: how badly the tokens explain the returns of each cell; NaN in a cell without one."""
    ms: dict[str, float]
    """Milliseconds of encoding and decoding together (`total`), and of the runner's stages."""

    @property
    def error_m(self) -> FloatArray:
        """(rows, columns) float32, metres: depth - input; NaN where either has nothing."""
        return self.depth_m - self.input_m

    @property
    def codes(self) -> int:
        """Different codes in the cells that hold a point."""
        return len(np.unique(self.tokens[self.occupied]))

    def metrics(self, grid: Grid) -> DepthMetrics:
        """Depth error over the pixels that have an input."""
        exit_m = region_exit_m(self.rays.origins_m, self.rays.directions, grid)
        input_m = self.input_m.ravel()
        seen = np.isfinite(input_m) & np.isfinite(exit_m)
        return depth_metrics([depth_errors(self.depth_m.ravel()[seen], input_m[seen], exit_m[seen])])


def reconstruct(runner: Runner, scan: Scan, pattern: SensorPattern) -> Reconstruction:
    """Encode a scan and decode it along the rays of a pattern.

    Args:
        scan: at least one of its points inside the region.
        pattern: where the sensor looks.
    """
    grid, clock = Grid(runner.config), StageClock()
    rays = pattern.rays(scan.origin_m)
    with clock("total"):
        tokens = runner.encode(scan.points_m)
        depth_m = runner.depth(tokens, rays).reshape(pattern.rows, pattern.columns)
    ms = {**runner.stage_ms, **clock.ms}
    inside = grid.inside(scan.points_m)
    inside_m = scan.points_m[inside]
    return Reconstruction(tokens, grid.occupied_tokens(inside_m), rays, pattern.range_image(inside_m, scan.origin_m), depth_m,
                          surprise_of(runner, tokens, inside_m, scan.point_origins_m[inside]), ms)
