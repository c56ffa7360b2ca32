# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The only place that turns metres into cells and back.

Layout everywhere: map[row, column] with row = y and column = x; row 0 is y_min, column 0 is x_min; z is the last
axis of a volume. The region is half-open: a point at x_max is outside. Coordinates are float32; the index is
clamped after the floor, because (79.99999 + 80) / 0.15625 rounds to 1024 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from copilot4d_core.config import Config

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Shapes and cell sizes that follow from the settings. Axis order of every triple is x, y, z."""

    config: Config

    @cached_property
    def minimum_m(self) -> FloatArray:
        """(3,) float32: lower corner of the region."""
        g = self.config.grid
        return np.array([g.x_min_m, g.y_min_m, g.z_min_m], dtype=np.float32)

    @cached_property
    def maximum_m(self) -> FloatArray:
        """(3,) float32: upper corner of the region, itself outside."""
        g = self.config.grid
        return np.array([g.x_max_m, g.y_max_m, g.z_max_m], dtype=np.float32)

    @cached_property
    def voxel_size_m(self) -> FloatArray:
        """(3,) float32."""
        g = self.config.grid
        return np.array([g.voxel_x_m, g.voxel_y_m, g.voxel_z_m], dtype=np.float32)

    @cached_property
    def voxels_YXZ(self) -> tuple[int, int, int]:
        """Voxels along y, x, z."""
        count = np.rint((self.maximum_m.astype(np.float64) - self.minimum_m) / self.voxel_size_m).astype(int)
        return int(count[1]), int(count[0]), int(count[2])

    @cached_property
    def patches_HW(self) -> tuple[int, int]:
        """Rows and columns of the patch map (the encoder's first map and the decoder's last)."""
        rows, columns, _ = self.voxels_YXZ
        return rows // self.config.grid.patch_voxels, columns // self.config.grid.patch_voxels

    @cached_property
    def tokens_HW(self) -> tuple[int, int]:
        """Rows and columns of the token map."""
        return self.patches_HW[0] // 2, self.patches_HW[1] // 2

    @cached_property
    def token_size_m(self) -> tuple[float, float]:
        """Size of one token cell along x and y."""
        side = 2 * self.config.grid.patch_voxels
        return self.config.grid.voxel_x_m * side, self.config.grid.voxel_y_m * side

    @cached_property
    def feature_cells_YXZ(self) -> tuple[int, int, int]:
        """Cells of the neural feature grid along y, x, z."""
        per_patch = self.config.grid.feature_cells_per_patch
        return self.patches_HW[0] * per_patch, self.patches_HW[1] * per_patch, self.voxels_YXZ[2]

    @cached_property
    def feature_cell_size_m(self) -> FloatArray:
        """(3,) float32."""
        rows, columns, layers = self.feature_cells_YXZ
        return ((self.maximum_m - self.minimum_m) / np.array([columns, rows, layers], dtype=np.float32)).astype(np.float32)

    @cached_property
    def mask_cells_YXZ(self) -> tuple[int, int, int]:
        """Cells of the pooled skip mask along y, x, z."""
        rows, columns, layers = self.voxels_YXZ
        pool = self.config.spatial_skip.pool_voxels
        return rows // pool, columns // pool, layers

    def inside(self, points: FloatArray) -> BoolArray:
        """Which points lie in the half-open region; NaN and infinity do not.

        Args:
            points: (N, 3 or more) float32, metres.
        Returns:
            (N,) bool.
        """
        result = np.ones(len(points), dtype=bool)
        for axis in range(3):
            values = points[:, axis]
            result &= (values >= self.minimum_m[axis]) & (values < self.maximum_m[axis])
        return result

    def voxel_index(self, points: FloatArray) -> IntArray:
        """Voxel of each point, as (row, column, layer) = (y, x, z).

        Args:
            points: (N, 3 or more) float32, metres, all inside the region.
        Returns:
            (N, 3) int32.
        """
        rows, columns, layers = self.voxels_YXZ
        cell = np.floor((points[:, :3] - self.minimum_m) / self.voxel_size_m).astype(np.int32)
        cell = np.clip(cell, 0, np.array([columns - 1, rows - 1, layers - 1], dtype=np.int32))
        return np.ascontiguousarray(cell[:, [1, 0, 2]])

    def occupied_tokens(self, points: FloatArray) -> BoolArray:
        """Which token cells hold at least one point.

        Args:
            points: (N, 3 or more) float32, metres; points outside the region are left out.
        Returns:
            (H, W) bool.
        """
        occupied = np.zeros(self.tokens_HW, dtype=bool)
        row, column, _ = self.voxel_index(points[self.inside(points)]).T // (2 * self.config.grid.patch_voxels)
        occupied[row, column] = True
        return occupied

    def occupancy(self, points: FloatArray) -> BoolArray:
        """Which voxels hold at least one point (the ground truth of the skip branch).

        Args:
            points: (N, 3 or more) float32, metres; points outside the region are left out.
        Returns:
            (Y, X, Z) bool.
        """
        volume = np.zeros(self.voxels_YXZ, dtype=bool)
        row, column, layer = self.voxel_index(points[self.inside(points)]).T
        volume[row, column, layer] = True
        return volume

    def pool_mask(self, volume: BoolArray) -> BoolArray:
        """Max-pool a voxel volume over x and y to the skip mask (figure 6, factor 1 in z).

        Args:
            volume: (Y, X, Z) bool.
        Returns:
            (Y / pool, X / pool, Z) bool.
        """
        pool = self.config.spatial_skip.pool_voxels
        rows, columns, layers = self.mask_cells_YXZ
        return np.asarray(volume.reshape(rows, pool, columns, pool, layers).any(axis=(1, 3)))
