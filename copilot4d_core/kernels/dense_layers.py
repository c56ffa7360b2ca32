# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The dense networks around their Swin blocks, on the CPU: start, patch merging, nearest code, patch upsampling, skip logits.

In: rows of a map and packed weights. Out: rows of the next map, tokens, or pooled logits. Each is a piece of C++ that works on a few cells,
whose numbers stay in a core's own memory from the first norm to the last sum; `dense_networks.py` puts the pieces together.
Unusual: scores of the codes are compared where they are made; the largest of several linear maps likewise.
"""

from __future__ import annotations

GROUP = 16
"""Cells that are worked on together."""


def layer_code(name: str, arguments: str, body: str, **constants: int) -> str:
    """A piece as a lambda that `VECTORS` comes before."""
    numbers = "".join(f"constexpr int {key} = {value}; " for key, value in {"GROUP": GROUP, **constants}.items())
    return f"const auto {name} = [&]({arguments}) {{ {numbers}{body} }};\n"


_START = """
    // Of the map of a scan, as `blank` is of a scan without any point: norm and positions; whether the cell differs from a blank one.
    vi different = (vi)(0);
    for (int j = 0; j < C; j += 16) different |= load(source + j) != load(blank + j);
    layer_norm(source, weights, weights + C, C, [&](int j, vf v) { store(to + j, v + load(positions + j)); });
    int lanes = 0;
    for (int lane = 0; lane < 16; ++lane) lanes |= different[lane];
    return lanes != 0;
"""


def start_code(channels: int) -> str:
    """Layer norm of a patch cell, and positions added; whether the cell differs from a blank one."""
    return layer_code("start", "const float* source, const float* blank, const float* positions, const float* weights, float* to", _START, C=channels)


_MERGE = """
    const float *scale = weights, *shift = scale + 4 * C, *bias = shift + 4 * C, *matrix = bias + WIDE;
    float children[4 * C], normed[GROUP * 4 * C];
    for (int i = 0; i < GROUP; ++i) {
        const int token = group * GROUP + i, y = token / columns, x = token % columns;
        for (int child = 0; child < 4; ++child) {
            const float* cell = source + (static_cast<size_t>(2 * y + child / 2) * 2 * columns + 2 * x + child % 2) * C;
            for (int j = 0; j < C; ++j) children[child * C + j] = cell[j];
        }
        layer_norm(children, scale, shift, 4 * C, [&](int j, vf v) { store(normed + i * 4 * C + j, v); });
    }
    product(normed, 4 * C, GROUP, 4 * C, matrix, bias, WIDE, [&](int i, int j, vf v) {
        store(to + static_cast<size_t>(group * GROUP + i) * WIDE + j, v);
    });
"""


def merge_code(channels: int, wide: int) -> str:
    """Patch merging: 2 x 2 cells, layer norm, linear. Source: Swin Transformer."""
    return layer_code("merge", "int group, int columns, const float* source, const float* weights, float* to", _MERGE, C=channels, WIDE=wide)


_NEAREST = """
    const float *scale = weights, *shift = scale + C, *bias = shift + C, *matrix = bias + CODES;
    float normed[GROUP * C];
    int cell[GROUP];
    for (int i = 0; i < GROUP; ++i) {
        // Beyond the last cell the last one again: it is given the same token twice.
        cell[i] = cells[group * GROUP + i < count ? group * GROUP + i : count - 1];
        layer_norm(source + static_cast<size_t>(cell[i]) * C, scale, shift, C, [&](int j, vf v) { store(normed + i * C + j, gelu(v)); });
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
        tokens[cell[i]] = code;
    }
"""


def nearest_code(channels: int, codes: int) -> str:
    """Layer norm, GELU, and the code with the largest score (see `code_table.score_table`), of the cells that are listed."""
    arguments = "int group, int count, const int* cells, const float* source, const float* weights, int* tokens"
    return layer_code("nearest", arguments, _NEAREST, C=channels, CODES=codes)


_UPSAMPLE = """
    const float *bias = weights, *matrix = bias + 4 * WIDE, *scale = matrix + 4 * WIDE * WIDE, *shift = scale + WIDE;
    const float *out_bias = shift + WIDE, *out_matrix = out_bias + C;
    float children[GROUP * 4 * WIDE], normed[GROUP * 4 * WIDE];
    product(source + static_cast<size_t>(group) * GROUP * WIDE, WIDE, GROUP, WIDE, matrix, bias, 4 * WIDE, [&](int i, int j, vf v) {
        store(children + i * 4 * WIDE + j, v);
    });
    for (int i = 0; i < 4 * GROUP; ++i)
        layer_norm(children + i * WIDE, scale, shift, WIDE, [&](int j, vf v) { store(normed + i * WIDE + j, v); });
    product(normed, WIDE, 4 * GROUP, WIDE, out_matrix, out_bias, C, [&](int i, int j, vf v) {
        const int token = group * GROUP + i / 4, child = i % 4, y = token / columns, x = token % columns;
        store(to + (static_cast<size_t>(2 * y + child / 2) * 2 * columns + 2 * x + child % 2) * C + j, v);
    });
"""


def upsample_code(channels: int, wide: int) -> str:
    """Patch upsampling: linear to four children, layer norm, linear. Source: CoPilot4D, figure 6 (DeConv, LN, Linear)."""
    return layer_code("upsample", "int group, int columns, const float* source, const float* weights, float* to", _UPSAMPLE, C=channels, WIDE=wide)


_SKIP = """
    constexpr int OF_CELL = POOL * POOL, CELLS = GROUP / OF_CELL, LANES = LAYERS / 16;
    const float *scale = weights, *shift = scale + C, *bias = shift + C, *matrix = bias + PLACES * LAYERS;
    float normed[GROUP * C];
    vf largest[CELLS * LANES];
    for (int j = 0; j < CELLS * LANES; ++j) largest[j] = (vf)(-3.0e38f);
    for (int i = 0; i < GROUP; ++i) {
        // Beyond the last cell the last one again, which is not stored.
        const int asked = group * CELLS + i / OF_CELL, pooled = asked < count ? asked : count - 1, patch = i % OF_CELL;
        const int y = pooled / columns * POOL + patch / POOL, x = pooled % columns * POOL + patch % POOL;
        const float* from = source + (static_cast<size_t>(y) * columns * POOL + x) * C;
        layer_norm(from, scale, shift, C, [&](int j, vf v) { store(normed + i * C + j, v); });
    }
    product(normed, C, GROUP, C, matrix, bias, PLACES * LAYERS, [&](int i, int j, vf v) {
        vf& kept = largest[i / OF_CELL * LANES + j % LAYERS / 16];
        kept = __builtin_elementwise_max(kept, v);
    });
    for (int cell = 0; cell < CELLS && group * CELLS + cell < count; ++cell)
        for (int j = 0; j < LANES; ++j)
            store(logits + static_cast<size_t>(group * CELLS + cell) * LAYERS + 16 * j, largest[cell * LANES + j]);
"""


def skip_code(channels: int, pool: int, places: int, layers: int) -> str:
    """Skip branch: layer norm, linear to a logit a voxel, the largest of each pooled cell, which has 1 or 2 x 2 patches.

    Source: CoPilot4D, figure 6.
    """
    arguments = "int group, int columns, int count, const float* source, const float* weights, float* logits"
    return layer_code("skip", arguments, _SKIP, C=channels, POOL=pool, PLACES=places, LAYERS=layers)
