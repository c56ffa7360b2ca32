# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How badly the tokens of a scan explain its own returns, cell by cell: high where a scene is unlike what the model learned.

What goes in: returns, and the depth that the tokens give along their rays. What comes out: a map over the token cells, and one number a scan.
Unusual: nothing but the scan itself is needed, so it can be asked while driving. The error of a return counts up to `CAP_M` only, so that a
few rays through a window do not outweigh a cell; a scan counts its cells alike, so that the many returns near the sensor do not outweigh the rest.
"""

from __future__ import annotations

import numpy as np

from copilot4d_core.data.rays import rays_from_points
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.grid import FloatArray, Grid

CAP_M = 1.0
"""A return that is missed by more is not explained at all."""


def surprise_map(returns_m: FloatArray, distance_m: FloatArray, depth_m: FloatArray, grid: Grid) -> FloatArray:
    """Mean error of the returns in each token cell, each at most `CAP_M`.

    Args:
        returns_m: (N, 3) float32, metres, inside the region.
        distance_m: (N,) float32, metres: how far each return is from the sensor.
        depth_m: (N,) float32, metres: what the tokens give along its ray; NaN for a ray that met nothing, which counts `CAP_M`.
    Returns:
        (H, W) float32, metres, 0 to `CAP_M`; NaN in a cell without a return.
    """
    error_m = np.minimum(np.abs(np.where(np.isfinite(depth_m), depth_m, np.inf) - distance_m), CAP_M)
    rows, columns = grid.tokens_HW
    row, column, _ = grid.voxel_index(returns_m).T // (2 * grid.config.grid.patch_voxels)
    cell = row * columns + column
    count = np.bincount(cell, minlength=rows * columns)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(cell, weights=error_m, minlength=rows * columns) / count
    return mean.astype(np.float32).reshape(rows, columns)


def scan_surprise_m(surprise_HW: FloatArray) -> float:
    """Mean over the cells that hold a return, metres; NaN where none does."""
    there = np.isfinite(surprise_HW)
    return float(surprise_HW[there].mean(dtype=np.float64)) if there.any() else float("nan")


def surprise_of(runner: Runner, tokens: TokenArray, returns_m: FloatArray, origin_m: FloatArray) -> FloatArray:
    """The map of a scan whose tokens are known; decodes them along its returns.

    Args:
        tokens: (H, W) uint16, of the scan.
        returns_m: (N, 3) float32, metres, those of the scan inside the region.
        origin_m: (3,) float32, metres: where the rays start, or (N, 3): where each does.
    Returns:
        See `surprise_map`.
    """
    rays, distance_m = rays_from_points(returns_m, origin_m)
    return surprise_map(returns_m, distance_m, runner.depth(tokens, rays), Grid(runner.config))
