# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The bytes of a cloud to points in one launch on a CPU: which are returns, and which of those lie in the region.

In: bytes and where in them x, y and z lie. Out: the returns one after the other. `data/cloud_reader.py` has the plain way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.crew import STEPS, Crew
from copilot4d_core.kernels.launch import CPU

_PARTS = 8
_UNPACK = f"""
    constexpr int PARTS = {_PARTS};
""" + """
    const auto begin_of = [&](int part) { return static_cast<int>(static_cast<long long>(count) * part / PARTS); };
    // A part puts its returns where its first point would lie if all before it were returns.
    side_by_side(PARTS, [&](int part) {
        const int end = begin_of(part + 1);
        int to = begin_of(part), column = to % width;
        const unsigned char* from = data.data + to / width * row_step + static_cast<long long>(column) * point_step;
        for (int i = to; i < end; ++i) {
            float p[3];
            unsigned int bits[3];
            for (int axis = 0; axis < 3; ++axis) {
                __builtin_memcpy(p + axis, from + offsets[axis], 4);
                __builtin_memcpy(bits + axis, from + offsets[axis], 4);
                points.data[3 * static_cast<size_t>(to) + axis] = p[axis];
            }
            // All bits of the exponent: infinite or no number. No bit but the sign: zero.
            const bool is_finite = (bits[0] & 0x7f800000u) != 0x7f800000u & (bits[1] & 0x7f800000u) != 0x7f800000u
                                 & (bits[2] & 0x7f800000u) != 0x7f800000u;
            const bool is_zero = ((bits[0] | bits[1] | bits[2]) & 0x7fffffffu) == 0u;
            const bool is_near = p[0] * p[0] + p[1] * p[1] + p[2] * p[2] < nearest_squared;
            inside.data[to] = p[0] >= low[0] & p[0] < high[0] & p[1] >= low[1] & p[1] < high[1] & p[2] >= low[2] & p[2] < high[2];
            to += is_finite & !is_zero & !is_near;
            from += point_step;
            if (++column == width) {
                column = 0;
                from += row_step - static_cast<long long>(width) * point_step;
            }
        }
        kept.data[part] = to - begin_of(part);
    });
    side_by_side(1, [&](int) {
        int to = kept.data[0];
        for (int part = 1; part < PARTS; ++part) {
            const int from = begin_of(part), more = kept.data[part];
            if (from != to) {
                float* const all = points.data;
                __builtin_memmove(all + 3 * static_cast<size_t>(to), all + 3 * static_cast<size_t>(from), 12 * static_cast<size_t>(more));
                __builtin_memmove(inside.data + to, inside.data + from, more);
            }
            to += more;
        }
        kept.data[0] = to;
    });
"""


@wp.func_native(STEPS + _UNPACK)
def _unpack(counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64, point_step: int,
            offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, points: wp.array(dtype=wp.float32),
            inside: wp.array(dtype=wp.uint8), kept: wp.array(dtype=wp.int32)):
    ...


@wp.kernel(module="unique")
def _unpack_kernel(first: int, counters: wp.array(dtype=wp.int32), data: wp.array(dtype=wp.uint8), count: int, width: int, row_step: wp.int64,
                   point_step: int, offsets: wp.vec3i, nearest_squared: float, low: wp.vec3, high: wp.vec3, points: wp.array(dtype=wp.float32),
                   inside: wp.array(dtype=wp.uint8), kept: wp.array(dtype=wp.int32)):
    _unpack(counters, data, count, width, row_step, point_step, offsets, nearest_squared, low, high, points, inside, kept)


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


def returns_in(data: npt.NDArray[np.uint8], placement: Placement, grid: Grid, min_range_m: float) -> tuple[FloatArray, BoolArray]:
    """The returns of a cloud: points that are finite, not exactly (0, 0, 0), and no nearer than `min_range_m`.

    Args:
        data: flat, as many bytes as the placement needs.
        grid: whose region is looked at.
        min_range_m: metres; 0: any.
    Returns:
        Points (N, 3) float32 in the order of the cloud, metres; which of them lie in the half-open region, (N,) bool.
    """
    count = placement.height * placement.width
    points_m, inside = np.empty((count, 3), dtype=np.float32), np.empty(count, dtype=np.uint8)
    if not count:
        return points_m, inside.view(bool)
    kept = np.empty(_PARTS, dtype=np.int32)
    arrays: list[Any] = [wp.array(array.reshape(-1), dtype=dtype, device=CPU, copy=False)
                         for array, dtype in ((data, wp.uint8), (points_m, wp.float32), (inside, wp.uint8), (kept, wp.int32))]
    low, high = (wp.vec3(*map(float, edge)) for edge in (grid.minimum_m, grid.maximum_m))
    Crew(2).launch(_unpack_kernel, [arrays[0], count, placement.width, placement.row_step, placement.point_step, wp.vec3i(*placement.offsets),
                                    float(np.float32(min_range_m**2)), low, high, *arrays[1:]])
    return points_m[:kept[0]], inside[:kept[0]].view(bool)
