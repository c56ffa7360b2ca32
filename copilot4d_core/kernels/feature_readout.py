# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
"""The part of the neural feature grid that rays may look at, and nothing else (inference).

In: the decoder's map and the skip mask. Out: the hidden layer of the occupancy MLP at every feature-grid cell inside the
mask and its rim (trilinear interpolation reaches one cell further).
Unusual: the first layer of the occupancy MLP is linear and trilinear weights sum to 1, so it is folded into the read-out
and applied to cells instead of samples: one small matrix product per cell, and half the work per sample.
"""

from functools import cache
from typing import Any, NamedTuple

import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.launch import CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.skip_mask import SkipMask


class ReadoutWeights(NamedTuple):
    """Read-out of the feature grid with the first layer of the occupancy MLP folded in; float32."""

    matrix_RCH: FloatArray
    """(rows, channels of the map, hidden); row = (sub_row * per_patch + sub_column) * layers + layer."""
    bias_RH: FloatArray
    """(rows, hidden)."""
    output_H: FloatArray
    """(hidden,) second layer of the MLP."""
    output_bias: float


@wp.kernel
def _mark_kernel(first: int, mask: wp.array3d(dtype=wp.uint8), is_used: wp.array2d(dtype=wp.uint8), columns: int, per_mask_y: int,
                 per_mask_x: int, slots: wp.array3d(dtype=wp.int32), counts: wp.array(dtype=wp.int32)):
    column = first + wp.tid()
    y = column // columns
    x = column % columns
    layers = slots.shape[2]
    y0 = wp.max(y - 1, 0) // per_mask_y
    y1 = wp.min(y + 1, slots.shape[0] - 1) // per_mask_y
    x0 = wp.max(x - 1, 0) // per_mask_x
    x1 = wp.min(x + 1, columns - 1) // per_mask_x
    near_columns = int(0)
    count = int(0)
    # First the layers whose own or neighbouring mask cells are occupied, with one layer above and below; then numbers.
    for my in range(y0, y1 + 1):
        for mx in range(x0, x1 + 1):
            if is_used[my, mx] != wp.uint8(0):
                near_columns += 1
                for z in range(layers):
                    if mask[my, mx, z] != wp.uint8(0):
                        for near in range(wp.max(z - 1, 0), wp.min(z + 2, layers)):
                            slots[y, x, near] = 1
    if near_columns > 0:
        for z in range(layers):
            if slots[y, x, z] == 1:
                count += 1
                slots[y, x, z] = count
    counts[column] = count


@cache
def _readout_kernel(hidden: int) -> wp.Kernel:
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)

    @wp.kernel(module="unique")
    def readout(first: int, columns: int, per_patch: int, feature: wp.array2d(dtype=wp.float32), matrix: wp.array2d(dtype=vector),
                bias: wp.array(dtype=vector), counts: wp.array(dtype=wp.int32), ends: wp.array(dtype=wp.int32),
                slots: wp.array3d(dtype=wp.int32), out: wp.array(dtype=vector)):
        column = first + wp.tid()
        start = ends[column] - counts[column]
        if counts[column] > 0:
            y = column // columns
            x = column % columns
            layers = slots.shape[2]
            patch = (y // per_patch) * (columns // per_patch) + x // per_patch
            sub = (y % per_patch) * per_patch + x % per_patch
            for z in range(layers):
                if slots[y, x, z] > 0:
                    row = sub * layers + z
                    value = bias[row]
                    for channel in range(feature.shape[1]):
                        value = value + feature[patch, channel] * matrix[row, channel]
                    slot = start + slots[y, x, z]
                    # Beyond the memory nothing is written; the host sees `total` and goes again with more of it.
                    if slot < out.shape[0]:
                        slots[y, x, z] = slot
                        out[slot] = value
                    else:
                        slots[y, x, z] = 0

    return readout


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return [_mark_kernel, _readout_kernel(config.feature_grid.hidden)]


class FeatureReadout:
    """The listed cells of the feature grid on one device, refilled for every scan.

    Source: CoPilot4D, figure 6 (LN, Linear, reshape to the feature grid), computed lazily.
    """

    def __init__(self, weights: ReadoutWeights, grid: Grid, capacity: int = 1, memory: Memory = CPU_MEMORY) -> None:
        """Put the weights on the device and allocate.

        Args:
            capacity: cells to have memory for at first. Where the host may read between kernels more is taken when it is
                needed; otherwise the caller compares `total` with `capacity` afterwards, and calls `grow` and this again.
        """
        self.grid, self.device, self._memory = grid, memory.device, memory
        rows, columns, layers = grid.feature_cells_YXZ
        self.hidden_dim = weights.matrix_RCH.shape[2]
        self.vector: Any = wp.types.vector(length=self.hidden_dim, dtype=wp.float32)
        self._matrix, self._bias = memory.place(weights.matrix_RCH, self.vector, 2), memory.place(weights.bias_RH, self.vector)
        self.output, self.output_bias = self.vector(*map(float, weights.output_H)), weights.output_bias
        self.slots = memory.array((rows, columns, layers), wp.int32)
        """(Y, X, Z) int32: row of `hidden`; 0 for a cell that no ray inside the mask can look at."""
        self.counts, self.ends = (memory.array(rows * columns, wp.int32) for _ in range(2))
        """Listed cells of each column, and their running sum; the last sum is `total`."""
        self.hidden: Any = None
        """(capacity + 1,) first layer of the occupancy MLP at each listed cell, before its ReLU; row 0 is no cell."""
        self.grow(capacity)

    def grow(self, cells: int) -> None:
        """Have memory for at least this many cells."""
        if self.hidden is None or cells > self.capacity:
            if self.hidden is not None:
                self._memory.free(self.hidden)
            self.hidden = self._memory.array(cells + 1, self.vector)
            self.hidden.zero_()

    @property
    def capacity(self) -> int:
        """Cells that there is memory for."""
        return len(self.hidden) - 1

    def __call__(self, features: Any, mask: SkipMask) -> None:
        """Fill the cells; on a GPU only enqueues.

        Args:
            features: Warp array (patches, channels) float32, the decoder's map after the layer norm, row-major.
            mask: what rays may look at.
        Deterministic: cells are listed column by column, layers ascending.
        """
        rows, columns, _ = self.grid.feature_cells_YXZ
        mask_rows, mask_columns, _ = self.grid.mask_cells_YXZ
        self.slots.zero_()
        launch_rows(_mark_kernel, rows * columns, [
            mask.occupied, mask.is_used, columns, rows // mask_rows, columns // mask_columns, self.slots, self.counts], self.device)
        wp.utils.array_scan(self.counts, self.ends)
        if self._memory.may_read:
            self.grow(self.total())
        launch_rows(_readout_kernel(self.hidden_dim), rows * columns, [
            columns, self.grid.config.grid.feature_cells_per_patch, features, self._matrix, self._bias, self.counts, self.ends, self.slots,
            self.hidden], self.device)

    def total(self) -> int:
        """Cells that the last call listed; waits for the device."""
        return int(self.ends[-1:].numpy()[0])
