# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The skip mask on a device: which cells rays look at.

In: the decoder's pooled logits and a threshold, or a mask that is given. Out: one bit per cell, a column of cells in one or two words.
"""

# No `from __future__ import annotations`: Warp reads the annotations of native functions as values.
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, Grid
from copilot4d_core.kernels.launch import CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.native import NATIVE


@wp.func_native(NATIVE + """
    float top = 0.0f;
    const int words = bits.shape[2], layers = logits.shape[2];
    const float* from = logits.data + static_cast<size_t>(column) * layers;
    for (int word = 0; word < words; ++word) {
        unsigned int value = 0u;
        if (layers - 32 * word >= 32) {  // a number that is known beforehand becomes vector instructions
            for (int z = 0; z < 32; ++z) value |= (from[32 * word + z] > threshold ? 1u : 0u) << z;
        } else {
            for (int z = 0; z < layers - 32 * word; ++z) value |= (from[32 * word + z] > threshold ? 1u : 0u) << z;
        }
        bits.data[static_cast<size_t>(column) * words + word] = value;
        if (value) top = static_cast<float>(32 * word + HIGHEST_BIT(static_cast<unsigned long long>(value)) + 1);
    }
    tops.data[column] = top;
""")
def _threshold_column(column: int, logits: wp.array3d(dtype=wp.float32), threshold: float, bits: wp.array3d(dtype=wp.uint32),
                      tops: wp.array2d(dtype=wp.float32)):
    """One column of cells."""
    ...


@wp.kernel
def _threshold_kernel(first: int, logits: wp.array3d(dtype=wp.float32), threshold: float, bits: wp.array3d(dtype=wp.uint32),
                      tops: wp.array2d(dtype=wp.float32)):
    _threshold_column(first + wp.tid(), logits, threshold, bits, tops)


def kernels() -> list[wp.Kernel]:
    """The kernels of this file."""
    return [_threshold_kernel]


def words_of(layers: int) -> int:
    """Words of 32 bits for a column of layers."""
    return -(-layers // 32)


class SkipMask:
    """Pooled skip mask. Source: CoPilot4D, figures 6 and 8: probability above a threshold, which the paper does not state.

    Without the spatial skip every cell is in it.
    """

    def __init__(self, grid: Grid, memory: Memory = CPU_MEMORY) -> None:
        """Allocate."""
        self.grid, self.device = grid, memory.device
        rows, columns, layers = grid.mask_cells_YXZ
        self.bits = memory.array((rows, columns, words_of(layers)), wp.uint32)
        """(Y, X, words of 32 layers) uint32: layer z is bit z % 32 of word z // 32. So small that it stays in a core's fastest memory."""
        self.tops = memory.array((rows, columns), wp.float32)
        """(Y, X) float32: layers of a column up to its highest cell that is in the mask; 0 for none."""
        settings = grid.config.spatial_skip
        self._logit_threshold = float(np.log(settings.threshold / (1 - settings.threshold))) if settings.enabled else -np.inf

    def fill_from_logits(self, logits: Any) -> None:
        """Mask of the decoder, from a Warp array (Y, X, Z) float32; on a GPU only enqueues."""
        rows, columns, _ = self.grid.mask_cells_YXZ
        launch_rows(_threshold_kernel, rows * columns, [logits, self._logit_threshold, self.bits, self.tops], self.device, parts_per_core=1)

    def fill(self, mask_YXZ: BoolArray) -> None:
        """A given mask, such as the ground truth.

        Raises:
            ValueError: another shape than the grid's.
        """
        if mask_YXZ.shape != self.grid.mask_cells_YXZ:
            raise ValueError(f"mask: expected shape {self.grid.mask_cells_YXZ} (y, x, z), got {mask_YXZ.shape}")
        packed = np.zeros((*mask_YXZ.shape[:2], 4 * self.bits.shape[2]), dtype=np.uint8)
        packed[:, :, :-(-mask_YXZ.shape[2] // 8)] = np.packbits(mask_YXZ, axis=2, bitorder="little")
        self.bits.assign(packed.view("<u4"))
        empty_above = mask_YXZ[:, :, ::-1].argmax(axis=2)
        self.tops.assign(np.where(mask_YXZ.any(axis=2), mask_YXZ.shape[2] - empty_above, 0).astype(np.float32))
