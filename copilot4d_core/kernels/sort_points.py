# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points in the order of their voxels and the lists of occupied cells, on a CPU: what `voxelize.py` does in five kernels on a GPU.

In: points. Out: keys, the first half of their array, order, and the lists. Unusual: the keys are found by all cores; what follows reads
each number only a few times, so that one core is done with it before several had agreed on who writes where.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import warp as wp

from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import launch_rows

_BLOCK = 64
"""Points that one row of the launch finds the keys of."""
_LEAST_BLOCKS = 32
_LARGEST_DIGIT = 12
"""Bits of a digit of the sort: a pass fewer pays as long as the places of all its values stay near a core."""

VOXEL_KEY = """
    // Patch cell first, then pillar, then layer; only of a point in the region, where a quotient is not negative, so that cutting its fraction off
    // is what floor does.
    const auto voxel_key = [&](float x, float y, float z) {
        int column = static_cast<int>((x - low.c[0]) / size.c[0]), row = static_cast<int>((y - low.c[1]) / size.c[1]);
        int layer = static_cast<int>((z - low.c[2]) / size.c[2]);
        column = column < COLUMNS - 1 ? column : COLUMNS - 1;
        row = row < ROWS - 1 ? row : ROWS - 1;
        layer = layer < LAYERS - 1 ? layer : LAYERS - 1;
        const int cell = (row / PATCH) * (COLUMNS / PATCH) + column / PATCH, slot = (row % PATCH) * PATCH + column % PATCH;
        return (cell * PATCH * PATCH + slot) * LAYERS + layer;
    };
"""
"""The sort key of a voxel; wants ROWS, COLUMNS, LAYERS, PATCH and the region's `low` and `size`."""
_KEYS = """
    const int first = block * BLOCK, end = first + BLOCK < count ? first + BLOCK : count;
    for (int i = first; i < end; ++i) {
        const float x = points.data[3 * i], y = points.data[3 * i + 1], z = points.data[3 * i + 2];
        const bool inside = x >= low.c[0] && x < high.c[0] && y >= low.c[1] && y < high.c[1] && z >= low.c[2] && z < high.c[2];
        keys.data[capacity + i] = inside ? voxel_key(x, y, z) : OUTSIDE;
    }
"""
_SORT = """
    constexpr int VALUES = 1 << DIGIT;
    int place[DIGITS][VALUES] = {};
    const int* const unsorted = keys.data + capacity;
    for (int i = 0; i < count; ++i)
        for (int digit = 0; digit < DIGITS; ++digit) ++place[digit][unsorted[i] >> DIGIT * digit & (VALUES - 1)];
    for (int digit = 0; digit < DIGITS; ++digit) {
        for (int value = 0, sum = 0; value < VALUES; ++value) {
            const int points = place[digit][value];
            place[digit][value] = sum;
            sum += points;
        }
    }
    // Key and point travel as one number, so that a pass writes to one place a point instead of two.
    long long *from = reinterpret_cast<long long*>(pairs.data), *to = from + capacity;
    for (int i = 0; i < count; ++i) from[place[0][unsorted[i] & (VALUES - 1)]++] = static_cast<long long>(unsorted[i]) << 32 | i;
    for (int digit = 1; digit < DIGITS - 1; ++digit) {
        for (int i = 0; i < count; ++i) to[place[digit][from[i] >> (32 + DIGIT * digit) & (VALUES - 1)]++] = from[i];
        long long* const other = to;
        to = from;
        from = other;
    }
    for (int i = 0; i < count; ++i) {
        const int at = place[DIGITS - 1][from[i] >> (32 + DIGIT * (DIGITS - 1)) & (VALUES - 1)]++;
        keys.data[at] = static_cast<int>(from[i] >> 32);
        order.data[at] = static_cast<int>(from[i]);
    }
    int voxel = -1, pillar = -1, patch = -1, key = -1, column = -1, cell = -1, i = 0;
    for (; i < count && keys.data[i] != OUTSIDE; ++i) {
        if (keys.data[i] == key) continue;
        key = keys.data[i];
        voxel_start.data[++voxel] = i;
        voxel_layer.data[voxel] = key % LAYERS;
        if (key / LAYERS == column) continue;
        column = key / LAYERS;
        pillar_start.data[++pillar] = voxel;
        pillar_slot.data[pillar] = column % (PATCH * PATCH);
        if (column / (PATCH * PATCH) == cell) continue;
        cell = column / (PATCH * PATCH);
        patch_start.data[++patch] = pillar;
        patch_index.data[patch] = cell;
    }
    voxel_start.data[voxel + 1] = counts.data[0] = i;
    pillar_start.data[pillar + 1] = counts.data[1] = voxel + 1;
    patch_start.data[patch + 1] = counts.data[2] = pillar + 1;
    counts.data[3] = patch + 1;
"""


@cache
def _kernels(rows: int, columns: int, layers: int, patch: int) -> tuple[wp.Kernel, wp.Kernel]:
    outside = rows * columns * layers
    bits = outside.bit_length()
    digits = 2 if bits <= 2 * _LARGEST_DIGIT else 3
    constants = {"ROWS": rows, "COLUMNS": columns, "LAYERS": layers, "PATCH": patch, "BLOCK": _BLOCK, "OUTSIDE": outside,
                 "DIGITS": digits, "DIGIT": -(-bits // digits)}
    before = "".join(f"    constexpr int {name} = {value};\n" for name, value in constants.items())

    @wp.func_native(before + VOXEL_KEY + _KEYS)
    def find(block: int, points: wp.array2d(dtype=wp.float32), count: int, capacity: int, low: wp.vec3, high: wp.vec3, size: wp.vec3,
             keys: wp.array(dtype=wp.int32)):
        ...

    @wp.func_native(before + _SORT)
    def sort(count: int, capacity: int, pairs: wp.array(dtype=wp.int64), keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32),
             voxel_start: wp.array(dtype=wp.int32), voxel_layer: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32),
             pillar_slot: wp.array(dtype=wp.int32), patch_start: wp.array(dtype=wp.int32), patch_index: wp.array(dtype=wp.int32),
             counts: wp.array(dtype=wp.int32)):
        ...

    @wp.kernel(module="unique")
    def keys_kernel(first: int, points: wp.array2d(dtype=wp.float32), count: int, capacity: int, low: wp.vec3, high: wp.vec3, size: wp.vec3,
                    keys: wp.array(dtype=wp.int32)):
        find(first + wp.tid(), points, count, capacity, low, high, size, keys)

    @wp.kernel(module="unique")
    def sort_kernel(count: int, capacity: int, pairs: wp.array(dtype=wp.int64), keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32),
                    voxel_start: wp.array(dtype=wp.int32), voxel_layer: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32),
                    pillar_slot: wp.array(dtype=wp.int32), patch_start: wp.array(dtype=wp.int32), patch_index: wp.array(dtype=wp.int32),
                    counts: wp.array(dtype=wp.int32)):
        sort(count, capacity, pairs, keys, order, voxel_start, voxel_layer, pillar_start, pillar_slot, patch_start, patch_index, counts)

    return keys_kernel, sort_kernel


def sort_points(points: Any, count: int, grid: Grid, capacity: int, pairs: Any, keys: Any, order: Any, lists: list[Any]) -> None:
    """Keys, order and lists of a scan.

    Args:
        points: Warp array (count or more, 3) float32, metres.
        capacity: half the length of `pairs` and of `keys`, the length of `order`.
        pairs: memory for the sort alone, int64.
        lists: see `VoxelBuffers.lists`.
    """
    rows, columns, layers = grid.voxels_YXZ
    low, high, size = (wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m))
    keys_kernel, sort_kernel = _kernels(rows, columns, layers, grid.config.grid.patch_voxels)
    launch_rows(keys_kernel, -(-count // _BLOCK), [points, count, capacity, low, high, size, keys], least=_LEAST_BLOCKS, parts_per_core=1)
    wp.launch(sort_kernel, dim=1, inputs=[count, capacity, pairs, keys, order, *lists], device="cpu")
