# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The sparse stages of a frame on the CPU, for the runners whose networks run there.

What goes in: points, or the decoder's map and its skip logits. What comes out: the patch map, or what each ray meets.
Unusual: the memory of a frame is kept and used again, so a call overwrites the patch map of the one before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.kernel_weights import KernelWeights
from copilot4d_core.deploy.rendering import rendering_from_march
from copilot4d_core.deploy.runner import Rendering
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.pillar_blocks import PillarBlocks, Seen, fits
from copilot4d_core.kernels.pillar_features import PillarFeatures, PillarWeights
from copilot4d_core.kernels.ray_march import Rows, march_rays
from copilot4d_core.kernels.skip_mask import SkipMask
from copilot4d_core.kernels.voxelize import VoxelBuffers, voxelize_into

FIRST_CAPACITY = 150_000
"""Points of a scan that there is memory for at first; a larger scan takes more."""


def _array(values: Any, dtype: Any, ndim: int = 1) -> Any:
    return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=dtype, ndim=ndim, device=CPU, copy=False)


class _PillarLists:
    """As `PillarBlocks`, for numbers of channels that it does not take: in the steps of a GPU."""

    def __init__(self, weights: PillarWeights, grid: Grid, capacity: int) -> None:
        self.capacity, self._grid, self._voxels = capacity, grid, VoxelBuffers(capacity)
        self._features, self.seen = PillarFeatures(weights, grid, capacity), Seen(0, 0, 0)
        self._map = np.empty((*grid.patches_HW, weights.patch_in.shape[2]), dtype=np.float32)
        self._cells = _array(self._map.reshape(-1, self._map.shape[2]), self._features.patch_type)

    def __call__(self, points: Any, count: int) -> FloatArray:
        points = wp.array(np.ascontiguousarray(points.numpy()), dtype=wp.float32, ndim=2, device=CPU, copy=False)
        if count:
            voxelize_into(self._voxels, points, count, self._grid)
        self._features(points, self._voxels, count, self._cells)
        self.seen = Seen(int(np.count_nonzero(~np.isfinite(points.numpy()).all(axis=1))), 0, 0)
        return self._map


class CpuStages:
    """Points to the patch map, and the decoder's map to depth."""

    def __init__(self, weights: KernelWeights, config: Config) -> None:
        self.config, self.grid, self._weights = config, Grid(config), weights
        self._readout, self._mask = FeatureReadout(weights.readout, self.grid), SkipMask(self.grid)
        self._reserve(FIRST_CAPACITY)

    def _reserve(self, points: int) -> None:
        self._pillars: PillarBlocks | _PillarLists
        weights = self._weights.pillars
        self._pillars = PillarBlocks(weights, self.grid, points) if fits(weights) else _PillarLists(weights, self.grid, points)

    def patch_map(self, points_m: FloatArray, min_range_m: float | None = None) -> FloatArray:
        """Dense patch map before its layer norm, (H, W, C) float32; the next call overwrites it.

        Args:
            points_m: (N, 3 or more) float32, metres; points outside the region are left out. Used where they lie if x, y and z are beside each other.
            min_range_m: points that are nearer, or exactly (0, 0, 0), are left out, too; None: neither.
        Raises:
            ValueError: a `min_range_m` without `takes_clouds`.
        """
        count = len(points_m)
        if count > self._pillars.capacity:
            self._reserve(count)
        xyz_m = points_m[:, :3]
        if not (xyz_m.dtype == np.float32 and xyz_m.strides[1] == 4 and xyz_m.strides[0] % 4 == 0 and xyz_m.flags.aligned):
            xyz_m = np.ascontiguousarray(xyz_m, dtype=np.float32)
        points: Any = wp.array(xyz_m, dtype=wp.float32, ndim=2, device=CPU, copy=False)
        if isinstance(self._pillars, PillarBlocks):
            return self._pillars(points, count, min_range_m)
        if min_range_m is not None:
            raise ValueError("expected a runner that takes clouds, this one takes no clouds with this model; pass the returns alone to encode")
        return self._pillars(points, count)

    @property
    def takes_clouds(self) -> bool:
        """Whether points that are no returns may be among those of a scan."""
        return isinstance(self._pillars, PillarBlocks)

    @property
    def seen(self) -> Seen:
        """Of the last scan; without `takes_clouds` only what is broken."""
        return self._pillars.seen

    def render(self, features_HWC: FloatArray, skip: FloatArray | BoolArray, rays: Rays, with_returns: bool = False) -> Rendering:
        """What each ray meets.

        Args:
            features_HWC: (H, W, C) float32, decoder map after the feature grid's layer norm.
            skip: (Y, X, Z), pooled logits as float32, or a given mask as bool.
        """
        marched = self._march(features_HWC, skip, rays, Rows.RETURNS if with_returns else Rows.RENDERING)
        return rendering_from_march(marched, self.config.rendering.opacity_threshold)

    def depth(self, features_HWC: FloatArray, skip: FloatArray | BoolArray, rays: Rays) -> FloatArray:
        """The `depth_m` of `render`, (R,), and nothing else."""
        return np.asarray(self._march(features_HWC, skip, rays, Rows.DEPTH)[0])

    def _march(self, features_HWC: FloatArray, skip: FloatArray | BoolArray, rays: Rays, rows: Rows) -> FloatArray:
        self.fill_cells(features_HWC, skip)
        return self.march(rays, rows)

    def fill_cells(self, features_HWC: FloatArray, skip: FloatArray | BoolArray) -> None:
        """First half of `render` and `depth`: the feature-grid cells that rays may look at."""
        if skip.dtype == np.bool_:
            self._mask.fill(skip.astype(np.bool_))
        else:
            self._mask.fill_from_logits(_array(skip, wp.float32, 3))
        self._readout(_array(features_HWC.reshape(-1, features_HWC.shape[-1]), wp.float32, 2), self._mask)

    def march(self, rays: Rays, rows: Rows) -> FloatArray:
        """Second half: rays through the cells that `fill_cells` left, (rows, R) float32, see `ray_march.py`."""
        marched = np.empty((rows, len(rays.directions)), dtype=np.float32)
        march_rays(self._readout, self._mask, _array(rays.origins_m, wp.vec3), _array(rays.directions, wp.vec3), len(rays.directions),
                   _array(marched, wp.float32, 2))
        return marched
