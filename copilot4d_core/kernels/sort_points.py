# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points in the order of their voxels and the lists of occupied cells, on a CPU: what `voxelize.py` does in five kernels on a GPU.

In: points. Out: keys and order in the first half of their arrays, and the lists. Unusual: the keys are found by all cores; what follows reads
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

_KEYS = """
    const int first = block * BLOCK, end = first + BLOCK < count ? first + BLOCK : count;
    for (int i = first; i < end; ++i) {
        const float x = points.data[3 * i], y = points.data[3 * i + 1], z = points.data[3 * i + 2];
        const bool inside = x >= low.c[0] && x < high.c[0] && y >= low.c[1] && y < high.c[1] && z >= low.c[2] && z < high.c[2];
        // In the region a quotient is not negative, so that cutting its fraction off is what floor does; elsewhere it is not looked at.
        int column = static_cast<int>(inside ? (x - low.c[0]) / size.c[0] : 0.0f);
        int row = static_cast<int>(inside ? (y - low.c[1]) / size.c[1] : 0.0f);
        int layer = static_cast<int>(inside ? (z - low.c[2]) / size.c[2] : 0.0f);
        column = column < COLUMNS - 1 ? column : COLUMNS - 1;
        row = row < ROWS - 1 ? row : ROWS - 1;
        layer = layer < LAYERS - 1 ? layer : LAYERS - 1;
        const int cell = (row / PATCH) * (COLUMNS / PATCH) + column / PATCH, slot = (row % PATCH) * PATCH + column % PATCH;
        keys.data[(DIGITS % 2 ? capacity : 0) + i] = inside ? (cell * PATCH * PATCH + slot) * LAYERS + layer : OUTSIDE;
    }
"""
_SORT = """
    int place[DIGITS][1 << DIGIT] = {};
    // After the last digit they lie in the first half.
    int *to = keys.data + (DIGITS % 2 ? 0 : capacity), *from = keys.data + (DIGITS % 2 ? capacity : 0);
    int *order_to = order.data + (DIGITS % 2 ? 0 : capacity), *order_from = order.data + (DIGITS % 2 ? capacity : 0);
    for (int i = 0; i < count; ++i) {
        for (int digit = 0; digit < DIGITS; ++digit) ++place[digit][from[i] >> DIGIT * digit & ((1 << DIGIT) - 1)];
        order_from[i] = i;
    }
    for (int digit = 0; digit < DIGITS; ++digit) {
        for (int value = 0, sum = 0; value < 1 << DIGIT; ++value) {
            const int points = place[digit][value];
            place[digit][value] = sum;
            sum += points;
        }
        for (int i = 0; i < count; ++i) {
            const int at = place[digit][from[i] >> DIGIT * digit & ((1 << DIGIT) - 1)]++;
            to[at] = from[i];
            order_to[at] = order_from[i];
        }
        int* const other = to;
        to = from;
        from = other;
        int* const other_order = order_to;
        order_to = order_from;
        order_from = other_order;
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

    @wp.func_native(before + _KEYS)
    def find(block: int, points: wp.array2d(dtype=wp.float32), count: int, capacity: int, low: wp.vec3, high: wp.vec3, size: wp.vec3,
             keys: wp.array(dtype=wp.int32)):
        ...

    @wp.func_native(before + _SORT)
    def sort(count: int, capacity: int, keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32), voxel_start: wp.array(dtype=wp.int32),
             voxel_layer: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32), pillar_slot: wp.array(dtype=wp.int32),
             patch_start: wp.array(dtype=wp.int32), patch_index: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32)):
        ...

    @wp.kernel(module="unique")
    def keys_kernel(first: int, points: wp.array2d(dtype=wp.float32), count: int, capacity: int, low: wp.vec3, high: wp.vec3, size: wp.vec3,
                    keys: wp.array(dtype=wp.int32)):
        find(first + wp.tid(), points, count, capacity, low, high, size, keys)

    @wp.kernel(module="unique")
    def sort_kernel(count: int, capacity: int, keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32), voxel_start: wp.array(dtype=wp.int32),
                    voxel_layer: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32), pillar_slot: wp.array(dtype=wp.int32),
                    patch_start: wp.array(dtype=wp.int32), patch_index: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32)):
        sort(count, capacity, keys, order, voxel_start, voxel_layer, pillar_start, pillar_slot, patch_start, patch_index, counts)

    return keys_kernel, sort_kernel


def sort_points(points: Any, count: int, grid: Grid, capacity: int, keys: Any, order: Any, lists: list[Any]) -> None:
    """Keys, order and lists of a scan.

    Args:
        points: Warp array (count or more, 3) float32, metres.
        capacity: half the length of `keys` and `order`.
        lists: see `VoxelBuffers.lists`.
    """
    rows, columns, layers = grid.voxels_YXZ
    low, high, size = (wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m))
    keys_kernel, sort_kernel = _kernels(rows, columns, layers, grid.config.grid.patch_voxels)
    launch_rows(keys_kernel, -(-count // _BLOCK), [points, count, capacity, low, high, size, keys], least=_LEAST_BLOCKS, parts_per_core=1)
    wp.launch(sort_kernel, dim=1, inputs=[count, capacity, keys, order, *lists], device="cpu")
