# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One Swin block on the CPU, a window at a time: everything between reading and writing a window's cells stays in a core's own memory.

In: the map and a block's weights. Out: the same map, changed in place; windows share no cell.
Unusual: the roll of the shifted windows is in the addresses, so that no cell is ever moved.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray, IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, WIDTH, packed

MASKED = -100.0
"""Added to the score of two cells that are neighbours only after the roll, as in training."""


class BlockShape(NamedTuple):
    """What a block's code is made for."""

    dim: int
    heads: int
    hidden: int
    """Of the MLP."""
    window: int

    def query_scale(self) -> FloatArray:
        """What attention multiplies the rows of query, key and value with, (3 * dim,)."""
        return np.repeat(np.array([(self.dim // self.heads) ** -0.5, 1, 1], dtype=np.float32), self.dim)


LABELS = ("norm1.weight", "norm1.bias", "qkv.weight", "qkv.bias", "projection.weight", "projection.bias", "norm2.weight", "norm2.bias",
          "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "relative_bias")
"""Names of a block's tensors in a model, in the order of `BlockWeights`."""


class BlockWeights(NamedTuple):
    """The weights of a block, or their gradients; matrices (out, in) as torch has them."""

    norm1_weight: FloatArray
    norm1_bias: FloatArray
    qkv_weight: FloatArray
    qkv_bias: FloatArray
    projection_weight: FloatArray
    projection_bias: FloatArray
    norm2_weight: FloatArray
    norm2_bias: FloatArray
    in_weight: FloatArray
    in_bias: FloatArray
    out_weight: FloatArray
    out_bias: FloatArray
    relative_bias: FloatArray
    """((2 * window - 1)^2, heads)."""


ATTENTION = """
    constexpr int D = C / HEADS, T = SIDE * SIDE;
    // T rows of one head's channels in the order in which `product` reads a matrix: 16 rows after 16 rows, turned.
    const auto turn = [&](const float* rows, int stride, float* to) {
        for (int t = 0; t < T; ++t)
            for (int d = 0; d < D; ++d) to[(t / 16 * D + d) * 16 + t % 16] = rows[t * stride + d];
    };
    // TALL rows times T others over the channels of a head, onto what `begin` gives.
    const auto compare = [&](const float* rows, int stride, const float* turned, auto&& begin, auto&& put) {
        for (int j = 0; j < T; j += 16) {
            vf score[TALL];
#pragma unroll
            for (int r = 0; r < TALL; ++r) score[r] = begin(r, j);
            for (int d = 0; d < D; ++d) {
                const vf other = load(turned + j * D + 16 * d);
#pragma unroll
                for (int r = 0; r < TALL; ++r) score[r] = fma((vf)(rows[r * stride + d]), other, score[r]);
            }
#pragma unroll
            for (int r = 0; r < TALL; ++r) put(r, j, score[r]);
        }
    };
    // e^(score - the largest of the row) in place of T scores; returns one over their sum.
    const auto soften = [&](float* scores) -> float {
        vf top = load(scores), sum = (vf)(0.0f);
        for (int j = 16; j < T; j += 16) top = __builtin_elementwise_max(top, load(scores + j));
        const float largest = largest_of(top);
        for (int j = 0; j < T; j += 16) {
            const vf power = exponential(load(scores + j) - largest);
            store(scores + j, power);
            sum += power;
        }
        return 1.0f / sum_of(sum);
    };
"""
"""What attention needs beside `VECTORS`, and the numbers of cells T and channels of a head D."""

BLOCK = """
    // The cells of a window, row by row; the roll of shifted windows is in them.
    const auto cells_of = [&](int window, int shift, int* place) {
        const int top = window / (columns / SIDE) * SIDE + shift, left = window % (columns / SIDE) * SIDE + shift;
        for (int t = 0; t < T; ++t) place[t] = (top + t / SIDE) % rows * columns + (left + t % SIDE) % columns;
    };
    // Changes a window's cells in place, of which only those have to be right in the end that are needed.
    const auto block = [&](int window, int shift, float* map, const float* weights, const float* bias, auto&& is_needed) {
        constexpr int WIDE = (D + 15) / 16 * 16;
        const auto next = [&](int count) { const float* here = weights; weights += count; return here; };
        const float *scale1 = next(C), *shift1 = next(C), *qkv_bias = next(3 * C), *qkv_matrix = next(3 * C * C);
        const float *projection_bias = next(C), *projection_matrix = next(C * C), *scale2 = next(C), *shift2 = next(C);
        const float *in_bias = next(M), *in_matrix = next(C * M), *out_bias = next(C), *out_matrix = next(M * C);
        const int across = columns / SIDE, down = rows / SIDE;
        const int kind = shift ? 2 * (window / across == down - 1) + (window % across == across - 1) : 0;
        const float* const scores_bias = bias + static_cast<size_t>(kind) * HEADS * T * T;
        // Rows whose result is asked for, in full tiles; the last row again where there are too few of them.
        int place[T], row[T], count = 0;
        float* cell[T];
        cells_of(window, shift, place);
        for (int t = 0; t < T; ++t) {
            cell[t] = map + static_cast<size_t>(place[t]) * C;
            if (is_needed(place[t])) row[count++] = t;
        }
        if (!count) return;
        const int asked = (count + TALL - 1) / TALL * TALL;
        for (int i = count; i < asked; ++i) row[i] = row[count - 1];
        alignas(64) float normed[T * C], queries[T * C], pairs[T * 2 * C], keys[T * D], values[WIDE * T], merged[T * C], hidden[T * M];
        for (int t = 0; t < T; ++t) layer_norm(cell[t], scale1, shift1, C, [&](int j, vf v) { store(normed + t * C + j, v); });
        product(normed, C, T, C, qkv_matrix + C * C, qkv_bias + C, 2 * C, [&](int t, int j, vf v) { store(pairs + t * 2 * C + j, v); });
        for (int i = 0; i < asked; ++i)
            for (int j = 0; j < C; j += 16) store(merged + i * C + j, load(normed + row[i] * C + j));
        product(merged, C, asked, C, qkv_matrix, qkv_bias, C, [&](int i, int j, vf v) { store(queries + i * C + j, v); });
        for (int h = 0; h < HEADS; ++h) {
            turn(pairs + h * D, 2 * C, keys);
            for (int t = 0; t < T; ++t)
                for (int d = 0; d < WIDE; ++d) values[(d / 16 * T + t) * 16 + d % 16] = d < D ? pairs[t * 2 * C + C + h * D + d] : 0.0f;
            for (int i = 0; i < asked; i += TALL) {
                alignas(64) float share[TALL][T];
                float factor[TALL];
                compare(queries + i * C + h * D, C, keys, [&](int r, int j) { return load(scores_bias + (h * T + row[i + r]) * T + j); },
                        [&](int r, int j, vf v) { store(share[r] + j, v); });
                for (int r = 0; r < TALL; ++r) factor[r] = soften(share[r]);
                for (int e = 0; e < D; e += 16) {
                    vf sum[TALL];
    #pragma unroll
                    for (int r = 0; r < TALL; ++r) sum[r] = (vf)(0.0f);
                    for (int t = 0; t < T; ++t) {
                        const vf value = load(values + e * T + 16 * t);
    #pragma unroll
                        for (int r = 0; r < TALL; ++r) sum[r] = fma((vf)(share[r][t]), value, sum[r]);
                    }
                    for (int r = 0; r < TALL; ++r) {
                        const vf out = sum[r] * factor[r];
                        for (int d = e; d < D && d < e + 16; ++d) merged[(i + r) * C + h * D + d] = out[d - e];
                    }
                }
            }
        }
        const auto add = [&](int i, int j, vf v) {
            if (i < count) store(cell[row[i]] + j, load(cell[row[i]] + j) + v);
        };
        product(merged, C, asked, C, projection_matrix, projection_bias, C, add);
        for (int i = 0; i < asked; ++i) layer_norm(cell[row[i]], scale2, shift2, C, [&](int j, vf v) { store(normed + i * C + j, v); });
        product(normed, C, asked, C, in_matrix, in_bias, M, [&](int i, int j, vf v) { store(hidden + i * M + j, gelu(v)); });
        product(hidden, M, asked, M, out_matrix, out_bias, C, add);
    };
"""
"""The block; wants `ATTENTION`, C, HEADS, M and SIDE, and the shape of the map, rows and columns."""


def block_code(shape: BlockShape) -> str:
    """`ATTENTION` and `BLOCK` with their constants."""
    return f"constexpr int C = {shape.dim}, HEADS = {shape.heads}, M = {shape.hidden}, SIDE = {shape.window};" + ATTENTION + BLOCK


@cache
def _block_kernel(shape: BlockShape) -> wp.Kernel:
    @wp.func_native(f"{VECTORS}{block_code(shape)} block(window, shift, map.data, weights.data, bias.data, [](int) {{ return true; }});")
    def run(window: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            bias: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def swin_block(first: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
                   bias: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), rows, columns, shift, map, weights, bias)

    return swin_block


def relative_place(window: int) -> IntArray:
    """Row of the relative bias for each pair of cells of a window, (T, T)."""
    row, column = np.divmod(np.arange(window * window), window)
    return np.asarray((row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1)


def attention_bias(relative_bias: FloatArray, window: int, shifted: bool) -> FloatArray:
    """Relative bias and shift mask, (1 or 4 kinds of windows, heads * T * T) float32: inner, last column, last row, corner."""
    bias = relative_bias[relative_place(window)].transpose(2, 0, 1)
    masks = np.zeros((1, *bias.shape[1:]))
    if shifted:
        places = np.divmod(np.arange(window * window), window)
        beyond = [(axis[:, None] >= window - window // 2) != (axis >= window - window // 2) for axis in places]
        masks = np.stack([MASKED * ((beyond[0] & bool(kind & 2)) | (beyond[1] & bool(kind & 1))) for kind in range(4)])
    return np.ascontiguousarray((bias + masks[:, None]).reshape(len(masks), -1), dtype=np.float32)


def forward_weights(weights: BlockWeights, shape: BlockShape) -> FloatArray:
    """The weights but for the relative bias, in the order in which a block reads them; flat."""
    scale = shape.query_scale()
    flat = [weights.norm1_weight, weights.norm1_bias, weights.qkv_bias * scale, packed(weights.qkv_weight.T * scale), weights.projection_bias,
            packed(weights.projection_weight.T), weights.norm2_weight, weights.norm2_bias, weights.in_bias, packed(weights.in_weight.T),
            weights.out_bias, packed(weights.out_weight.T)]
    return np.concatenate(flat).astype(np.float32)


def misfit(shape: BlockShape) -> str:
    """Which number is no multiple of `WIDTH`, so that there is no code for such a block; empty: none."""
    for what, number in (("channels", shape.dim), ("hidden channels", shape.hidden), ("cells of a window", shape.window**2)):
        if number % WIDTH:
            return f"expected {what} in multiples of {WIDTH}, got {number}"
    return ""


def swin_block(map_HWC: FloatArray, weights: BlockWeights, shape: BlockShape, shift: int) -> FloatArray:
    """What a block makes of a map; `tokenizer.swin_transformer.SwinBlock` without a kernel is its slow twin.

    Args:
        map_HWC: float32.
        shape: one that `misfit` has nothing against.
        shift: of the windows, 0 or half a window.
    """
    rows, columns, dim = map_HWC.shape
    out = np.array(map_HWC, dtype=np.float32, order="C")
    cells: Any = wp.array(out.reshape(-1, dim), dtype=wp.float32, ndim=2, device=CPU, copy=False)
    flat: Any = wp.array(forward_weights(weights, shape), dtype=wp.float32, device=CPU, copy=False)
    bias: Any = wp.array(attention_bias(weights.relative_bias, shape.window, shift > 0), dtype=wp.float32, ndim=2, device=CPU, copy=False)
    launch_rows(_block_kernel(shape), rows * columns // shape.window**2, [rows, columns, shift, cells, flat, bias], least=4)
    return out
