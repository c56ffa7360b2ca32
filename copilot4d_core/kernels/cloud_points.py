# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The bytes of a cloud on a CPU: how many points are returns, how many of those lie in the region, and the returns one after the other.

In: bytes, and where in them x, y and z lie. `data/cloud_reader.py` has the plain way.
Unusual: most clouds hold nothing but returns; they are only looked at, and used where the middleware left them. One core does it: it waits for
the memory, and a second one would have to be woken first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.vectors import WIDEST

_LOOK = """
    typedef float vf __attribute__((ext_vector_type(16)));
    typedef int vi __attribute__((ext_vector_type(16)));
    // Tells of up to 16 points at a time x, y and z, which are returns and which of these lie in the region: -1 where it holds, 0 elsewhere.
    const auto each = [&](auto&& points) {
        const int at_x = offsets[0], at_y = offsets[1], at_z = offsets[2];
        const float low_x = low[0], low_y = low[1], low_z = low[2], high_x = high[0], high_y = high[1], high_z = high[2], nearest = nearest_squared;
        const long long step = point_step;
        for (int i = 0, number; i < count; i += number) {
            const int column = i % width, left = width - column;
            const unsigned char* const from = data.data + i / width * row_step + column * step;
            number = left < 16 ? left : 16;
            vf x = (vf)(__builtin_nanf("")), y = x, z = x;
            const auto take = [&](int lane) {
                float value[3];
                __builtin_memcpy(value, from + lane * step + at_x, 4);
                __builtin_memcpy(value + 1, from + lane * step + at_y, 4);
                __builtin_memcpy(value + 2, from + lane * step + at_z, 4);
                x[lane] = value[0], y[lane] = value[1], z[lane] = value[2];
            };
            if (number == 16) {
#pragma unroll
                for (int lane = 0; lane < 16; ++lane) take(lane);
            } else {
                for (int lane = 0; lane < number; ++lane) take(lane);
            }
            vi bits_x, bits_y, bits_z;
            __builtin_memcpy(&bits_x, &x, 64);
            __builtin_memcpy(&bits_y, &y, 64);
            __builtin_memcpy(&bits_z, &z, 64);
            // All bits of the exponent: infinite or no number. No bit but the sign: zero.
            constexpr int EXPONENT = 0x7f800000;
            const vi is_finite = ((bits_x & EXPONENT) != EXPONENT) & ((bits_y & EXPONENT) != EXPONENT) & ((bits_z & EXPONENT) != EXPONENT);
            const vi is_return = is_finite & (((bits_x | bits_y | bits_z) & 0x7fffffff) != 0) & ~(x * x + y * y + z * z < nearest);
            points(number, x, y, z, is_return,
                   is_return & (x >= low_x) & (x < high_x) & (y >= low_y) & (y < high_y) & (z >= low_z) & (z < high_z));
        }
    };
    vi returns = (vi)(0), inside = (vi)(0);
    const auto tell = [&] {
        counts.data[0] = counts.data[1] = 0;
        for (int lane = 0; lane < 16; ++lane) counts.data[0] -= returns[lane], counts.data[1] -= inside[lane];
    };
"""
_COUNT = """
    each([&](int, vf, vf, vf, vi is_return, vi is_inside) { returns += is_return, inside += is_inside; });
    tell();
"""
_COPY = """
    float* to = points.data;
    each([&](int number, vf x, vf y, vf z, vi is_return, vi is_inside) {
        returns += is_return, inside += is_inside;
        for (int lane = 0; lane < number; ++lane) {
            to[0] = x[lane], to[1] = y[lane], to[2] = z[lane];
            to -= 3 * is_return[lane];
        }
    });
    tell();
"""


@wp.func_native(_LOOK + _COUNT)
def _count(data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int, offsets: wp.vec3i, nearest_squared: float,
           low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32)):
    ...


@wp.func_native(_LOOK + _COPY)
def _copy(data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int, offsets: wp.vec3i, nearest_squared: float,
          low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32), points: wp.array(dtype=wp.float32)):
    ...


@wp.kernel(module="unique", **WIDEST)
def _count_kernel(data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int, offsets: wp.vec3i,
                  nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32)):
    _count(data, count, width, row_step, point_step, offsets, nearest_squared, low, high, counts)


@wp.kernel(module="unique", **WIDEST)
def _copy_kernel(data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int, offsets: wp.vec3i,
                 nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32), points: wp.array(dtype=wp.float32)):
    _copy(data, count, width, row_step, point_step, offsets, nearest_squared, low, high, counts, points)


class Placement(NamedTuple):
    """Where the points of a cloud lie in its bytes."""

    height: int
    width: int
    row_step: int
    """Bytes from one row to the next."""
    point_step: int
    """Bytes from one point to the next in a row."""
    offsets: tuple[int, int, int]
    """Of x, y and z in a point; float32 in the order of this machine, aligned or not."""


    def view(self, data: npt.NDArray[np.uint8]) -> FloatArray | None:
        """All points where they lie, (N, 3) float32; None where x, y and z are not beside each other and aligned, or a row ends in padding."""
        x, y, z = self.offsets
        is_packed = (y, z) == (x + 4, x + 8) and not (self.point_step % 4 or (data.ctypes.data + x) % 4)
        if not is_packed or (self.height > 1 and self.row_step != self.width * self.point_step):
            return None
        return np.ndarray((self.height * self.width, 3), dtype=np.float32, buffer=data, offset=x, strides=(self.point_step, 4))


class Counted(NamedTuple):
    """Of the points of a cloud."""

    returns: int
    """Finite, not exactly (0, 0, 0), and no nearer than asked for."""
    inside: int
    """Returns in the half-open region."""


def count_returns(data: npt.NDArray[np.uint8], placement: Placement, grid: Grid, min_range_m: float) -> Counted:
    """How many returns a cloud has.

    Args:
        data: flat, as many bytes as the placement needs.
        grid: whose region is looked at.
        min_range_m: metres; 0: any.
    """
    return _launch(_count_kernel, data, placement, grid, min_range_m)


def copy_returns(data: npt.NDArray[np.uint8], placement: Placement, grid: Grid, min_range_m: float) -> tuple[FloatArray, Counted]:
    """The returns of a cloud, (N, 3) float32 in its order, metres; arguments as those of `count_returns`."""
    points_m = np.empty((placement.height * placement.width, 3), dtype=np.float32)
    counted = _launch(_copy_kernel, data, placement, grid, min_range_m, points_m)
    return points_m[:counted.returns], counted


def _launch(kernel: wp.Kernel, data: npt.NDArray[np.uint8], placement: Placement, grid: Grid, min_range_m: float, *out: FloatArray) -> Counted:
    count = placement.height * placement.width
    counts = np.empty(2, dtype=np.int32)
    low, high = (wp.vec3(*map(float, edge)) for edge in (grid.minimum_m, grid.maximum_m))
    cloud: Any = wp.array(data, dtype=wp.uint8, device=CPU, copy=False)
    arrays: list[Any] = [wp.array(counts, dtype=wp.int32, device=CPU, copy=False)]
    arrays += [wp.array(array.reshape(-1), dtype=wp.float32, device=CPU, copy=False) for array in out]
    wp.launch(kernel, dim=1, inputs=[cloud, count, placement.width, placement.row_step, placement.point_step, wp.vec3i(*placement.offsets),
                                     float(np.float32(min_range_m**2)), low, high, *arrays], device=CPU)
    return Counted(*counts.tolist())
