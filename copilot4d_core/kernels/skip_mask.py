"""The skip mask on a device: which cells rays look at.

In: the decoder's pooled logits and a threshold, or a mask that is given. Out: one byte per cell, and which columns have any.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, Grid
from copilot4d_core.kernels.launch import CPU_MEMORY, Memory, launch_rows


@wp.kernel
def _threshold_kernel(first: int, logits: wp.array3d(dtype=wp.float32), threshold: float, occupied: wp.array3d(dtype=wp.uint8),
                      is_used: wp.array2d(dtype=wp.uint8)):
    column = first + wp.tid()
    y = column // logits.shape[1]
    x = column % logits.shape[1]
    used = int(0)
    for z in range(logits.shape[2]):
        is_occupied = wp.where(logits[y, x, z] > threshold, 1, 0)
        occupied[y, x, z] = wp.uint8(is_occupied)
        used = used | is_occupied
    is_used[y, x] = wp.uint8(used)


def kernels() -> list[wp.Kernel]:
    """The kernels of this file."""
    return [_threshold_kernel]


class SkipMask:
    """Pooled skip mask. Source: CoPilot4D, figures 6 and 8: probability above a threshold, which the paper does not state."""

    def __init__(self, grid: Grid, memory: Memory = CPU_MEMORY) -> None:
        """Allocate."""
        self.grid, self.device = grid, memory.device
        rows, columns, layers = grid.mask_cells_YXZ
        self.occupied = memory.array((rows, columns, layers), wp.uint8)
        """(Y, X, Z) uint8, 0 or 1."""
        self.is_used = memory.array((rows, columns), wp.uint8)
        """(Y, X) uint8: whether any layer is occupied."""
        probability = grid.config.spatial_skip.threshold
        self._logit_threshold = float(np.log(probability / (1 - probability)))

    def fill_from_logits(self, logits: Any) -> None:
        """Mask of the decoder, from a Warp array (Y, X, Z) float32; on a GPU only enqueues."""
        rows, columns, _ = self.grid.mask_cells_YXZ
        launch_rows(_threshold_kernel, rows * columns, [logits, self._logit_threshold, self.occupied, self.is_used], self.device)

    def fill(self, mask_YXZ: BoolArray) -> None:
        """A given mask, such as the ground truth.

        Raises:
            ValueError: another shape than the grid's.
        """
        if mask_YXZ.shape != self.grid.mask_cells_YXZ:
            raise ValueError(f"mask: expected shape {self.grid.mask_cells_YXZ} (y, x, z), got {mask_YXZ.shape}")
        self.occupied.assign(np.ascontiguousarray(mask_YXZ).view(np.uint8))
        self.is_used.assign(mask_YXZ.any(axis=2).view(np.uint8))
