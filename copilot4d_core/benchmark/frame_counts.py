# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a real frame holds, counted in NumPy: points, occupied cells, listed cells, samples.

What goes in: a cloud, the skip mask, rays and what they met. What comes out: the counts that `work.py` turns into bytes and operations.
Unusual: of a ray that meets something only the samples up to its median depth count, because half of it has to be met before a march may
stop; of one that meets nothing all samples in the mask.
"""

from __future__ import annotations

import numpy as np

from copilot4d_core.benchmark.work import Counts, Sizes
from copilot4d_core.config import Config
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.kernel_weights import KernelWeights
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.ray_samples import sample_rays


def frame_counts(points_m: FloatArray, mask_YXZ: BoolArray, rays: Rays, median_m: FloatArray, grid: Grid) -> Counts:
    """Count a frame.

    Args:
        points_m: (N, 3) float32, metres.
        mask_YXZ: (Y, X, Z) bool, what is rendered.
        median_m: (R,) float32, metres: what each ray met; NaN for nothing.
    """
    inside = grid.inside(points_m)
    index = grid.voxel_index(points_m[inside]).astype(np.int64)
    _, columns, layers = grid.voxels_YXZ
    patch = grid.config.grid.patch_voxels
    voxels = np.unique((index[:, 0] * columns + index[:, 1]) * layers + index[:, 2])
    pillars = np.unique(voxels // layers)
    patches = np.unique((pillars // columns // patch) * (columns // patch) + pillars % columns // patch)
    return Counts(len(points_m), int(np.count_nonzero(inside)), len(voxels), len(pillars), len(patches), mask_YXZ.size,
                  listed_cells(mask_YXZ, grid), len(rays.directions), needed_samples(mask_YXZ, rays, median_m, grid))


def listed_cells(mask_YXZ: BoolArray, grid: Grid) -> int:
    """Feature-grid cells inside the mask and one cell around it: those that trilinear interpolation inside the mask may read."""
    rows, columns, _ = grid.feature_cells_YXZ
    cells = mask_YXZ.repeat(rows // mask_YXZ.shape[0], axis=0).repeat(columns // mask_YXZ.shape[1], axis=1)
    for axis in range(3):
        wide = np.pad(cells, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        before, after = (np.take(wide, np.arange(cells.shape[axis]) + shift, axis=axis) for shift in (0, 2))
        cells = cells | before | after
    return int(np.count_nonzero(cells))


def needed_samples(mask_YXZ: BoolArray, rays: Rays, median_m: FloatArray, grid: Grid) -> int:
    """Samples inside the mask up to the median depth of each ray; all of them where it meets nothing."""
    total = 0
    for part in np.array_split(np.arange(len(rays.directions)), max(1, len(rays.directions) // 65_536)):
        middle = np.full(len(part), 0.5, dtype=np.float32)
        samples = sample_rays(rays.origins_m[part], rays.directions[part], mask_YXZ, grid, middle)
        seen = np.arange(samples.distance_RS.shape[1]) < samples.count_R[:, None]
        behind = samples.distance_RS > median_m[part, None]  # False for NaN
        total += int(np.count_nonzero(seen & ~behind))
    return total


def model_sizes(config: Config, weights: KernelWeights) -> Sizes:
    """Widths and weights of a model's sparse stages."""
    height, width = Grid(config).patches_HW
    pillar_bytes, readout_bytes = (sum(np.asarray(value, dtype=np.float32).nbytes for value in part) for part in weights)
    return Sizes(config.voxel_encoder.dim, config.bev_pooling.dim, config.swin.dims[0], config.feature_grid.hidden, height * width, pillar_bytes,
                 readout_bytes)
