# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Trilinear look-up in a sparse list of feature-grid cells, with its backward (training).

The value at a cell's centre is the cell (align_corners = False); beyond the outermost centres it stays constant.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.grid import FloatArray, Grid, IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows

AnyFloat = npt.NDArray[Any]


class Corners(NamedTuple):
    """The eight feature-grid cells around each of M positions."""

    cell_M8: npt.NDArray[np.int64]
    """Read-out order: ((sub_row * per_patch + sub_column) * layers + layer) * patches + patch."""
    weight_M8: FloatArray
    """Trilinear weights, sum 1."""


@wp.kernel
def _corner_kernel(first: int, positions: wp.array(dtype=wp.vec3), low: wp.vec3, size: wp.vec3, shape: wp.vec3i, per_patch: int,
                   cells: wp.array2d(dtype=wp.int64), weights: wp.array2d(dtype=wp.float32)):
    i = first + wp.tid()
    position = positions[i]
    base = wp.vec3i()
    fraction = wp.vec3()
    for axis in range(3):
        u = (position[axis] - low[axis]) / size[axis] - 0.5
        u = wp.clamp(u, 0.0, float(shape[axis] - 1))
        base[axis] = wp.min(int(wp.floor(u)), wp.max(shape[axis] - 2, 0))
        fraction[axis] = u - float(base[axis])
    columns = shape[0] // per_patch
    patches = columns * (shape[1] // per_patch)
    for corner in range(8):
        dx = corner & 1
        dy = (corner >> 1) & 1
        dz = (corner >> 2) & 1
        x = wp.min(base[0] + dx, shape[0] - 1)
        y = wp.min(base[1] + dy, shape[1] - 1)
        z = wp.min(base[2] + dz, shape[2] - 1)
        row = ((y % per_patch) * per_patch + x % per_patch) * shape[2] + z
        cells[i, corner] = wp.int64(row) * wp.int64(patches) + wp.int64((y // per_patch) * columns + x // per_patch)
        wx = wp.where(dx == 1, fraction[0], 1.0 - fraction[0])
        wy = wp.where(dy == 1, fraction[1], 1.0 - fraction[1])
        wz = wp.where(dz == 1, fraction[2], 1.0 - fraction[2])
        weights[i, corner] = wx * wy * wz


def corners(positions_M3: FloatArray, grid: Grid) -> Corners:
    """Feature-grid cells and trilinear weights around each position.

    Args:
        positions_M3: (M, 3) float32, metres, inside the region.
        grid: shapes and cell sizes.
    """
    count = len(positions_M3)
    cells = np.zeros((count, 8), dtype=np.int64)
    weights = np.zeros((count, 8), dtype=np.float32)
    rows, columns, layers = grid.feature_cells_YXZ
    launch_rows(_corner_kernel, count, [
        wp.array(np.ascontiguousarray(positions_M3, dtype=np.float32), dtype=wp.vec3, device=CPU, copy=False),
        wp.vec3(*map(float, grid.minimum_m)), wp.vec3(*map(float, grid.feature_cell_size_m)), wp.vec3i(columns, rows, layers),
        grid.config.grid.feature_cells_per_patch,
        wp.array(cells, dtype=wp.int64, ndim=2, device=CPU, copy=False), wp.array(weights, dtype=wp.float32, ndim=2, device=CPU, copy=False)])
    return Corners(cells, weights)


_GATHER = """
    const size_t i = row;
    const SCALAR* weight = weights.data + i * 8;
    SCALAR sum[CHANNELS];
    for (int c = 0; c < CHANNELS; ++c) sum[c] = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const SCALAR* cell = source.data + static_cast<size_t>(slots.data[i * 8 + corner]) * CHANNELS;
        for (int c = 0; c < CHANNELS; ++c) sum[c] += weight[corner] * cell[c];
    }
    for (int c = 0; c < CHANNELS; ++c) out.data[i * CHANNELS + c] = sum[c];
"""
_SCATTER = """
    // A row is a part, which has channels of its own, so that no two parts write the same number.
    const int begin = row * PART;
    for (size_t i = 0; i < static_cast<size_t>(slots.shape[0]); ++i) {
        SCALAR given[PART];
        for (int c = 0; c < PART; ++c) given[c] = source.data[i * CHANNELS + begin + c];
        for (int corner = 0; corner < 8; ++corner) {
            SCALAR* cell = out.data + static_cast<size_t>(slots.data[i * 8 + corner]) * CHANNELS + begin;
            for (int c = 0; c < PART; ++c) cell[c] += weights.data[i * 8 + corner] * given[c];
        }
    }
"""


def _channels_per_part(channels: int) -> int:
    return math.gcd(channels, 8)


@cache
def _kernel(body: str, channels: int, scalar: Any) -> wp.Kernel:
    kind = "double" if scalar is wp.float64 else "float"
    code = f"typedef {kind} SCALAR; constexpr int CHANNELS = {channels}, PART = {_channels_per_part(channels)};" + body

    @wp.func_native(code)
    def run(row: int, source: wp.array2d(dtype=scalar), slots: wp.array2d(dtype=wp.int32), weights: wp.array2d(dtype=scalar),
            out: wp.array2d(dtype=scalar)):
        ...

    @wp.kernel(module="unique")
    def interpolation(first: int, source: wp.array2d(dtype=scalar), slots: wp.array2d(dtype=wp.int32), weights: wp.array2d(dtype=scalar),
                      out: wp.array2d(dtype=scalar)):
        run(first + wp.tid(), source, slots, weights, out)

    return interpolation


def _scalar(array: AnyFloat) -> type:
    return wp.float64 if array.dtype == np.float64 else wp.float32


def interpolate(features_UC: AnyFloat, slot_M8: IntArray, weight_M8: AnyFloat) -> AnyFloat:
    """Weighted sum of eight listed cells.

    Args:
        features_UC: (U, C) float32 or float64, one row a listed cell.
        slot_M8: (M, 8) int32, rows of `features_UC`.
        weight_M8: (M, 8), same dtype as the features.
    Returns:
        (M, C).
    """
    out = np.empty((len(slot_M8), features_UC.shape[1]), dtype=features_UC.dtype)
    scalar = _scalar(features_UC)
    launch_rows(_kernel(_GATHER, features_UC.shape[1], scalar), len(slot_M8), [wp.array(a, dtype=t, ndim=2, device=CPU, copy=False) for a, t in (
        (features_UC, scalar), (slot_M8, wp.int32), (weight_M8, scalar), (out, scalar))])
    return out


def interpolate_backward(gradient_MC: AnyFloat, slot_M8: IntArray, weight_M8: AnyFloat, num_cells: int) -> AnyFloat:
    """Gradient of `interpolate` with respect to the listed cells.

    Returns:
        (num_cells, C), the dtype of the gradient. Deterministic: a cell sums its samples in ascending order.
    """
    out = np.zeros((num_cells, gradient_MC.shape[1]), dtype=gradient_MC.dtype)
    scalar = _scalar(gradient_MC)
    channels = gradient_MC.shape[1]
    parts = channels // _channels_per_part(channels)
    launch_rows(_kernel(_SCATTER, channels, scalar), parts, [wp.array(a, dtype=t, ndim=2, device=CPU, copy=False) for a, t in (
        (gradient_MC, scalar), (slot_M8, wp.int32), (weight_M8, scalar), (out, scalar))], least=1)
    return out
