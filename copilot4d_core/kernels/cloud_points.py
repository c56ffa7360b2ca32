# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The bytes of a cloud on a CPU: how many points are returns, how many of those lie in the region, and the returns one after the other.

In: bytes, and where in them x, y and z lie. `data/cloud_reader.py` has the plain way.
Unusual: most clouds hold nothing but returns; they are only looked at, and used where the middleware left them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.crew import STEPS, Crew
from copilot4d_core.kernels.launch import CPU

_PARTS = 8
_LOOK = f"""
    constexpr int PARTS = {_PARTS};
""" + """
    const auto begin_of = [&](int part) { return static_cast<int>(static_cast<long long>(count) * part / PARTS); };
    // Tells x, y, z of each point of a part, whether it is a return, and whether it lies in the region.
    const auto each = [&](int part, auto&& point) {
        const int begin = begin_of(part), end = begin_of(part + 1), at_x = offsets[0], at_y = offsets[1], at_z = offsets[2];
        const float low_x = low[0], low_y = low[1], low_z = low[2], high_x = high[0], high_y = high[1], high_z = high[2], nearest = nearest_squared;
        const long long step = point_step, turn = row_step - width * step;
        const unsigned char* from = data.data + begin / width * row_step + begin % width * step;
        for (int i = begin, left = width - begin % width; i < end; ++i) {
            float x, y, z;
            unsigned int bits_x, bits_y, bits_z;
            __builtin_memcpy(&x, from + at_x, 4);
            __builtin_memcpy(&y, from + at_y, 4);
            __builtin_memcpy(&z, from + at_z, 4);
            __builtin_memcpy(&bits_x, &x, 4);
            __builtin_memcpy(&bits_y, &y, 4);
            __builtin_memcpy(&bits_z, &z, 4);
            // All bits of the exponent: infinite or no number. No bit but the sign: zero.
            const int is_finite = ((bits_x & 0x7f800000u) != 0x7f800000u) & ((bits_y & 0x7f800000u) != 0x7f800000u)
                                & ((bits_z & 0x7f800000u) != 0x7f800000u);
            const int is_return = is_finite & (((bits_x | bits_y | bits_z) & 0x7fffffffu) != 0u) & !(x * x + y * y + z * z < nearest);
            point(x, y, z, is_return,
                  is_return & (x >= low_x) & (x < high_x) & (y >= low_y) & (y < high_y) & (z >= low_z) & (z < high_z));
            from += step;
            if (--left == 0) {
                left = width;
                from += turn;
            }
        }
    };
    int *const returns_of = counts.data, *const inside_of = returns_of + PARTS;
"""
_COUNT = """
    side_by_side(PARTS, [&](int part) {
        int returns = 0, inside = 0;
        each(part, [&](float, float, float, int is_return, int is_inside) { returns += is_return, inside += is_inside; });
        returns_of[part] = returns;
        inside_of[part] = inside;
    });
"""
_COPY = """
    // A part puts its returns where its first point would lie if all before it were returns.
    side_by_side(PARTS, [&](int part) {
        float* const first = points.data + 3 * static_cast<size_t>(begin_of(part));
        float* to = first;
        int inside = 0;
        each(part, [&](float x, float y, float z, int is_return, int is_inside) {
            to[0] = x, to[1] = y, to[2] = z;
            to += 3 * is_return;
            inside += is_inside;
        });
        returns_of[part] = (to - first) / 3;
        inside_of[part] = inside;
    });
    side_by_side(1, [&](int) {
        size_t to = returns_of[0];
        for (int part = 1; part < PARTS; ++part) {
            const size_t from = begin_of(part), more = returns_of[part];
            if (from != to) __builtin_memmove(points.data + 3 * to, points.data + 3 * from, 12 * more);
            to += more;
        }
    });
"""


@wp.func_native(STEPS + _LOOK + _COUNT)
def _count(counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int,
           offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32)):
    ...


@wp.func_native(STEPS + _LOOK + _COPY)
def _copy(counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int,
          offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32),
          points: wp.array(dtype=wp.float32)):
    ...


@wp.kernel(module="unique")
def _count_kernel(first: int, counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64,
                  point_step: int, offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32)):
    _count(counters, data, count, width, row_step, point_step, offsets, nearest_squared, low, high, counts)


@wp.kernel(module="unique")
def _copy_kernel(first: int, counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64,
                 point_step: int, offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, counts: wp.array(dtype=wp.int32),
                 points: wp.array(dtype=wp.float32)):
    _copy(counters, data, count, width, row_step, point_step, offsets, nearest_squared, low, high, counts, points)


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
    if not count:
        return Counted(0, 0)
    counts = np.empty(2 * _PARTS, dtype=np.int32)
    low, high = (wp.vec3(*map(float, edge)) for edge in (grid.minimum_m, grid.maximum_m))
    cloud: Any = wp.array(data, dtype=wp.uint8, device=CPU, copy=False)
    arrays: list[Any] = [wp.array(counts, dtype=wp.int32, device=CPU, copy=False)]
    arrays += [wp.array(array.reshape(-1), dtype=wp.float32, device=CPU, copy=False) for array in out]
    Crew(2).launch(kernel, [cloud, count, placement.width, placement.row_step, placement.point_step, wp.vec3i(*placement.offsets),
                            float(np.float32(min_range_m**2)), low, high, *arrays])
    return Counted(int(counts[:_PARTS].sum()), int(counts[_PARTS:].sum()))
