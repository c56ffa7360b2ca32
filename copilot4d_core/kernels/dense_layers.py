# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The dense networks around their Swin blocks, on the CPU: start, patch merging, nearest code, patch upsampling, skip logits.

In: rows of a map and packed weights. Out: rows of the next map, tokens, or pooled logits. Each is one launch; a row of it is a few cells,
whose numbers stay in a core's own memory from the first norm to the last sum.
Unusual: scores of the codes are compared where they are made; the largest of several linear maps likewise.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import warp as wp

from copilot4d_core.kernels.launch import launch_rows
from copilot4d_core.kernels.vectors import VECTORS, WIDEST

GROUP = 8
"""Cells that one row of a launch works on together."""

_START = """
    vi different = (vi)(0);
    for (int j = 0; j < C; j += 16) different |= load(source.data + static_cast<size_t>(cell) * C + j) != load(blank.data + j);
    occupied.data[cell] = 0;
    for (int lane = 0; lane < 16; ++lane) occupied.data[cell] |= different[lane] != 0;
    layer_norm(source.data + static_cast<size_t>(cell) * C, weights.data, weights.data + C, C, [&](int j, vf v) {
        store(to.data + static_cast<size_t>(cell) * C + j, v + load(positions.data + static_cast<size_t>(cell) * C + j));
    });
"""
_NORM = """
    layer_norm(source.data + static_cast<size_t>(cell) * C, weights.data, weights.data + C, C, [&](int j, vf v) {
        store(to.data + static_cast<size_t>(cell) * C + j, v);
    });
"""
_MERGE = """
    const float *scale = weights.data, *shift = scale + 4 * C, *bias = shift + 4 * C, *matrix = bias + WIDE;
    float children[4 * C], normed[GROUP * 4 * C];
    for (int i = 0; i < GROUP; ++i) {
        const int token = group * GROUP + i, y = token / columns, x = token % columns;
        for (int child = 0; child < 4; ++child) {
            const float* cell = source.data + (static_cast<size_t>(2 * y + child / 2) * 2 * columns + 2 * x + child % 2) * C;
            for (int j = 0; j < C; ++j) children[child * C + j] = cell[j];
        }
        layer_norm(children, scale, shift, 4 * C, [&](int j, vf v) { store(normed + i * 4 * C + j, v); });
    }
    product(normed, 4 * C, GROUP, 4 * C, matrix, bias, WIDE, [&](int i, int j, vf v) {
        store(to.data + static_cast<size_t>(group * GROUP + i) * WIDE + j, v);
    });
"""
_NEAREST = """
    const float *scale = weights.data, *shift = scale + C, *bias = shift + C, *matrix = bias + CODES;
    float normed[GROUP * C];
    int cell[GROUP];
    for (int i = 0; i < GROUP; ++i) {
        // Beyond the last cell the last one again: it is given the same token twice.
        cell[i] = cells.data[group * GROUP + i < count ? group * GROUP + i : count - 1];
        layer_norm(source.data + static_cast<size_t>(cell[i]) * C, scale, shift, C, [&](int j, vf v) { store(normed + i * C + j, gelu(v)); });
    }
    vf best[GROUP];
    vi first[GROUP];
    for (int i = 0; i < GROUP; ++i) { best[i] = (vf)(-3.0e38f); first[i] = (vi)(0); }
    product(normed, C, GROUP, C, matrix, bias, CODES, [&](int i, int j, vf v) {
        const vi better = v > best[i];
        first[i] = better ? (vi)(j) : first[i];
        best[i] = better ? v : best[i];
    });
    for (int i = 0; i < GROUP; ++i) {
        float top = -3.0e38f;
        int code = CODES;
        // Lane after lane, the smallest number of equal ones: what argmax gives.
        for (int lane = 0; lane < 16; ++lane) {
            const int number = first[i][lane] + lane;
            if (best[i][lane] > top || (best[i][lane] == top && number < code)) { top = best[i][lane]; code = number; }
        }
        tokens.data[cell[i]] = code;
    }
"""
_UPSAMPLE = """
    const float *bias = weights.data, *matrix = bias + 4 * WIDE, *scale = matrix + 4 * WIDE * WIDE, *shift = scale + WIDE;
    const float *out_bias = shift + WIDE, *out_matrix = out_bias + C;
    float children[GROUP * 4 * WIDE], normed[GROUP * 4 * WIDE];
    product(source.data + static_cast<size_t>(group) * GROUP * WIDE, WIDE, GROUP, WIDE, matrix, bias, 4 * WIDE, [&](int i, int j, vf v) {
        store(children + i * 4 * WIDE + j, v);
    });
    for (int i = 0; i < 4 * GROUP; ++i)
        layer_norm(children + i * WIDE, scale, shift, WIDE, [&](int j, vf v) { store(normed + i * WIDE + j, v); });
    product(normed, WIDE, 4 * GROUP, WIDE, out_matrix, out_bias, C, [&](int i, int j, vf v) {
        const int token = group * GROUP + i / 4, child = i % 4, y = token / columns, x = token % columns;
        store(to.data + (static_cast<size_t>(2 * y + child / 2) * 2 * columns + 2 * x + child % 2) * C + j, v);
    });
"""
_SKIP = """
    constexpr int OF_CELL = POOL * POOL, CELLS = GROUP / OF_CELL, LANES = LAYERS / 16;
    const float *scale = weights.data, *shift = scale + C, *bias = shift + C, *matrix = bias + PLACES * LAYERS;
    float normed[GROUP * C];
    vf largest[CELLS * LANES];
    for (int j = 0; j < CELLS * LANES; ++j) largest[j] = (vf)(-3.0e38f);
    for (int i = 0; i < GROUP; ++i) {
        // Beyond the last cell the last one again, which is not stored.
        const int asked = group * CELLS + i / OF_CELL, pooled = asked < count ? asked : count - 1, patch = i % OF_CELL;
        const int y = pooled / columns * POOL + patch / POOL, x = pooled % columns * POOL + patch % POOL;
        const float* from = source.data + (static_cast<size_t>(y) * columns * POOL + x) * C;
        layer_norm(from, scale, shift, C, [&](int j, vf v) { store(normed + i * C + j, v); });
    }
    product(normed, C, GROUP, C, matrix, bias, PLACES * LAYERS, [&](int i, int j, vf v) {
        vf& kept = largest[i / OF_CELL * LANES + j % LAYERS / 16];
        kept = __builtin_elementwise_max(kept, v);
    });
    for (int cell = 0; cell < CELLS && group * CELLS + cell < count; ++cell)
        for (int j = 0; j < LANES; ++j)
            store(logits.data + static_cast<size_t>(group * CELLS + cell) * LAYERS + 16 * j, largest[cell * LANES + j]);
"""


def _code(body: str, **constants: int) -> str:
    return VECTORS + "".join(f"    constexpr int {name} = {value};\n" for name, value in {"GROUP": GROUP, **constants}.items()) + body


@cache
def start_kernel(channels: int) -> wp.Kernel:
    """Layer norm of the patch map, and positions added; tells which cells differ from a blank one."""
    @wp.func_native(_code(_START, C=channels))
    def run(cell: int, source: wp.array2d(dtype=wp.float32), positions: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            blank: wp.array(dtype=wp.float32), occupied: wp.array(dtype=wp.int32), to: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def start(first: int, source: wp.array2d(dtype=wp.float32), positions: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
              blank: wp.array(dtype=wp.float32), occupied: wp.array(dtype=wp.int32), to: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), source, positions, weights, blank, occupied, to)

    return start


@cache
def norm_kernel(channels: int) -> wp.Kernel:
    """Layer norm of each row."""
    @wp.func_native(_code(_NORM, C=channels))
    def run(cell: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def norm(first: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), source, weights, to)

    return norm


@cache
def merge_kernel(channels: int, wide: int) -> wp.Kernel:
    """Patch merging: 2 x 2 cells, layer norm, linear. Source: Swin Transformer."""
    @wp.func_native(_code(_MERGE, C=channels, WIDE=wide))
    def run(group: int, columns: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def merge(first: int, columns: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
              to: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), columns, source, weights, to)

    return merge


@cache
def nearest_kernel(channels: int, codes: int) -> wp.Kernel:
    """Layer norm, GELU, and the code with the largest score (see `code_table.score_table`), of the cells that are listed."""
    @wp.func_native(_code(_NEAREST, C=channels, CODES=codes))
    def run(group: int, count: int, cells: wp.array(dtype=wp.int32), source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            tokens: wp.array(dtype=wp.int32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def nearest(first: int, count: int, cells: wp.array(dtype=wp.int32), source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
                tokens: wp.array(dtype=wp.int32)):
        run(first + wp.tid(), count, cells, source, weights, tokens)

    return nearest


@cache
def upsample_kernel(channels: int, wide: int) -> wp.Kernel:
    """Patch upsampling: linear to four children, layer norm, linear. Source: CoPilot4D, figure 6 (DeConv, LN, Linear)."""
    @wp.func_native(_code(_UPSAMPLE, C=channels, WIDE=wide))
    def run(group: int, columns: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def upsample(first: int, columns: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
                 to: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), columns, source, weights, to)

    return upsample


@cache
def skip_kernel(channels: int, pool: int, places: int, layers: int) -> tuple[wp.Kernel, int]:
    """Skip branch: layer norm, linear to a logit a voxel, the largest of each pooled cell; and how many such cells a group is.

    Source: CoPilot4D, figure 6. A pooled cell has 1 or 2 x 2 patches.
    """
    @wp.func_native(_code(_SKIP, C=channels, POOL=pool, PLACES=places, LAYERS=layers))
    def run(group: int, columns: int, count: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            logits: wp.array3d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def skip(first: int, columns: int, count: int, source: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
             logits: wp.array3d(dtype=wp.float32)):
        run(first + wp.tid(), columns, count, source, weights, logits)

    return skip, GROUP // pool**2


def launch_groups(kernel: wp.Kernel, groups: int, inputs: list[Any]) -> None:
    """Run one of these kernels over groups of cells."""
    launch_rows(kernel, groups, inputs, least=16)
