# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
"""The part of the neural feature grid that rays may look at, and nothing else (inference).

In: the decoder's map and the skip mask. Out: the hidden layer of the occupancy MLP at every feature-grid cell inside the
mask and its rim (trilinear interpolation reaches one cell further).
Unusual: the first layer of the occupancy MLP is linear and trilinear weights sum to 1, so it is folded into the read-out
and applied to cells instead of samples: one small matrix product per cell, and half the work per sample.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, FloatArray, Grid, IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows


class ReadoutWeights(NamedTuple):
    """Read-out of the feature grid with the first layer of the occupancy MLP folded in; float32."""

    matrix_RCH: FloatArray
    """(rows, channels of the map, hidden); row = (sub_row * per_patch + sub_column) * layers + layer."""
    bias_RH: FloatArray
    """(rows, hidden)."""
    output_H: FloatArray
    """(hidden,) second layer of the MLP."""
    output_bias: float


class OccupancyCells(NamedTuple):
    """Listed cells of the feature grid."""

    slot_YXZ: IntArray
    """(Y, X, Z) int32: row of `hidden_UH`; 0 for a cell that no ray inside the mask can look at."""
    hidden_UH: FloatArray
    """(U, hidden) first layer of the occupancy MLP at each listed cell, before its ReLU; row 0 is no cell."""


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
                bias: wp.array(dtype=vector), start: wp.array(dtype=wp.int32), slots: wp.array3d(dtype=wp.int32), out: wp.array(dtype=vector)):
        column = first + wp.tid()
        if start[column + 1] > start[column]:
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
                    slot = start[column] + slots[y, x, z]
                    slots[y, x, z] = slot
                    out[slot] = value

    return readout


def read_out_cells(feature_NC: FloatArray, mask_YXZ: BoolArray, weights: ReadoutWeights, grid: Grid, device: str = CPU) -> OccupancyCells:
    """Hidden layer of the occupancy MLP at every cell that a ray inside the mask can look at.

    Source: CoPilot4D, figure 6 (LN, Linear, reshape to the feature grid), computed lazily.

    Args:
        feature_NC: (patches, channels) float32, the decoder's map after the layer norm, row-major.
        mask_YXZ: pooled skip mask, bool.
        weights: folded read-out.
        grid: shapes.
    Returns:
        The cells, listed column by column, layers ascending. Deterministic.
    """
    rows, columns, layers = grid.feature_cells_YXZ
    hidden = weights.matrix_RCH.shape[2]
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)
    slot_YXZ = np.zeros((rows, columns, layers), dtype=np.int32)
    counts = np.empty(rows * columns, dtype=np.int32)
    slots: Any = wp.array(slot_YXZ, dtype=wp.int32, ndim=3, device=device, copy=False)
    mask: Any = wp.array(np.ascontiguousarray(mask_YXZ).view(np.uint8), dtype=wp.uint8, ndim=3, device=device, copy=False)
    is_used: Any = wp.array(mask_YXZ.any(axis=2).view(np.uint8), dtype=wp.uint8, ndim=2, device=device, copy=False)
    launch_rows(_mark_kernel, rows * columns, [mask, is_used, columns, rows // mask_YXZ.shape[0], columns // mask_YXZ.shape[1], slots,
                                               wp.array(counts, dtype=wp.int32, device=device, copy=False)], device)
    start = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    hidden_UH = np.empty((int(start[-1]) + 1, hidden), dtype=np.float32)
    hidden_UH[0] = 0.0

    def array(values: FloatArray, dtype: Any, ndim: int = 1) -> Any:
        return wp.array(np.ascontiguousarray(values), dtype=dtype, ndim=ndim, device=device, copy=False)

    launch_rows(_readout_kernel(hidden), rows * columns, [
        columns, grid.config.grid.feature_cells_per_patch, array(feature_NC, wp.float32, 2), array(weights.matrix_RCH, vector, 2),
        array(weights.bias_RH, vector), wp.array(start, dtype=wp.int32, device=device, copy=False), slots, array(hidden_UH, vector)], device)
    return OccupancyCells(slot_YXZ, hidden_UH)
