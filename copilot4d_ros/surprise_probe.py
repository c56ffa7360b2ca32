# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Now and then, how badly the tokens of a scan explain it: rays to one of its returns in each token cell, beside what is rendered anyway.

What goes in: the returns of a scan. What comes out: rays when it is time, and the scan's surprise once they are rendered; knows no node.
Unusual: one return of a cell, drawn evenly, stands for all of them, so the mean over the cells is on average that of `evaluation/surprise.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.evaluation.surprise import scan_surprise_m, surprise_map
from copilot4d_core.grid import FloatArray, Grid


class Probe(NamedTuple):
    """Rays to some returns of one scan."""

    rays: Rays
    returns_m: FloatArray
    """(R, 3) float32, metres."""
    distance_m: FloatArray
    """(R,) float32, metres."""

    def surprise_m(self, depth_m: FloatArray, grid: Grid) -> float:
        """Mean over the probed cells, metres; `depth_m` is (R,) float32, NaN for a ray that met nothing."""
        return scan_surprise_m(surprise_map(self.returns_m, self.distance_m, depth_m, grid))


class SurpriseProbes:
    """Aims a probe whenever the period has passed."""

    def __init__(self, grid: Grid, period_s: Callable[[], float]) -> None:
        """Args: `period_s` gives the seconds between two probes that hold at the moment; 0: none at all."""
        self._grid, self._period_s = grid, period_s
        self._random = np.random.default_rng(0)
        self._aimed_s: float | None = None

    def aim(self, points_m: FloatArray) -> Probe | None:
        """A probe of a scan; None when it is not time yet, or there is nothing to aim at.

        Args:
            points_m: (N, 3) float32, metres, in the sensor's frame.
        """
        now_s, period_s = time.monotonic(), self._period_s()
        if period_s == 0 or (self._aimed_s is not None and now_s - self._aimed_s < period_s):
            return None
        inside = self._grid.inside(points_m)
        if not inside.any():
            return None
        self._aimed_s, returns_m = now_s, points_m[inside]
        chosen_m = returns_m[self._one_of_each_cell(returns_m)]
        rays, distance_m = rays_from_points(chosen_m, np.zeros(3, dtype=np.float32))
        return Probe(rays, chosen_m, distance_m)

    def _one_of_each_cell(self, returns_m: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        order = self._random.permutation(len(returns_m))
        row, column, _ = self._grid.voxel_index(returns_m[order]).T // (2 * self._grid.config.grid.patch_voxels)
        chosen = np.full(self._grid.tokens_HW, -1)
        chosen[row, column] = order
        return chosen[chosen >= 0]
