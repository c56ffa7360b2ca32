# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The gradients of one Swin block on the CPU, a window at a time, from the block's input alone.

In: the map that went into a block, the gradient of what came out, the block's weights. Out: the gradients of map and weights.
Unusual: nothing of the forward pass is kept. A window is computed again where its gradient is, in a core's own memory, which is
sooner done than reading it back. Windows come in groups, and each group adds up the gradient of the weights for itself, so that the sum
does not depend on how many cores there are.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.swin_block import ATTENTION, BlockShape, BlockWeights, attention_bias, forward_weights, relative_place
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, packed

GROUPS = 16
"""Sums of the weights' gradient that are made side by side."""

_TOOLS = """
    // 1 - erf(|x| / sqrt(2)), and e^(-x^2 / 2) beside it; as in Abramowitz and Stegun 7.1.26, which errs by at most 1.5e-7.
    const auto bell_tail = [&](vf x, vf& bell) -> vf {
        const vf z = __builtin_elementwise_abs(x) * 0.707106781f;
        const vf t = 1.0f / fma(z, (vf)(0.3275911f), (vf)(1.0f));
        vf series = (vf)(1.061405429f);
        series = fma(series, t, (vf)(-1.453152027f));
        series = fma(series, t, (vf)(1.421413741f));
        series = fma(series, t, (vf)(-0.284496736f));
        series = fma(series, t, (vf)(0.254829592f));
        bell = exponential(-z * z);
        return series * t * bell;
    };
    // x Phi(x), and its derivative Phi(x) + x phi(x) beside it.
    const auto gelu_and_slope = [&](vf x, vf& slope) -> vf {
        vf bell;
        const vf tail = bell_tail(x, bell);
        const vf phi = 0.5f * (x < 0.0f ? tail : 2.0f - tail);
        slope = fma(x * 0.398942280f, bell, phi);
        return x * phi;
    };
    // Gradient of a layer norm's input from that of its output; adds those of its scale and shift.
    const auto norm_gradient = [&](const float* from, const float* gradient, const float* scale, float* scale_sum, float* shift_sum, auto&& put) {
        vf sum = (vf)(0.0f), squares = (vf)(0.0f), both = (vf)(0.0f), along = (vf)(0.0f);
        for (int j = 0; j < C; j += 16) sum += load(from + j);
        const float mean = sum_of(sum) / C;
        for (int j = 0; j < C; j += 16) {
            const vf centred = load(from + j) - mean;
            squares = fma(centred, centred, squares);
        }
        const float factor = 1.0f / __builtin_sqrtf(sum_of(squares) / C + 1e-5f);
        for (int j = 0; j < C; j += 16) {
            const vf normed = (load(from + j) - mean) * factor, wanted = load(gradient + j), scaled = wanted * load(scale + j);
            both += scaled;
            along = fma(scaled, normed, along);
            store(scale_sum + j, fma(wanted, normed, load(scale_sum + j)));
            store(shift_sum + j, load(shift_sum + j) + wanted);
        }
        const float mean_both = sum_of(both) / C, mean_along = sum_of(along) / C;
        for (int j = 0; j < C; j += 16) {
            const vf normed = (load(from + j) - mean) * factor;
            put(j, factor * (load(gradient + j) * load(scale + j) - mean_both - normed * mean_along));
        }
    };
    // Adds to a matrix (inner x columns) and to its bias what the T rows of its input and of its output's gradient make of them.
    const auto add_products = [&](const float* from, int inner, const float* gradient, int columns, float* matrix_sum, float* bias_sum) {
        for (int j = 0; j < columns; j += 16) {
            vf sum = load(bias_sum + j);
            for (int t = 0; t < T; ++t) sum += load(gradient + t * columns + j);
            store(bias_sum + j, sum);
            for (int k = 0; k < inner; k += TALL) {
                vf part[TALL];
#pragma unroll
                for (int r = 0; r < TALL; ++r) part[r] = load(matrix_sum + static_cast<size_t>(k + r) * columns + j);
                for (int t = 0; t < T; ++t) {
                    const vf factor = load(gradient + t * columns + j);
                    const float* row = from + t * inner + k;
#pragma unroll
                    for (int r = 0; r < TALL; ++r) part[r] = fma((vf)(row[r]), factor, part[r]);
                }
#pragma unroll
                for (int r = 0; r < TALL; ++r) store(matrix_sum + static_cast<size_t>(k + r) * columns + j, part[r]);
            }
        }
    };
    // T x T shares times T rows of one head; a share of row i and column k lies at i * down + k * across.
    const auto shared = [&](const float* shares, int down, int across, const float* rows, int stride, float* to, int to_stride) {
        for (int i = 0; i < T; i += TALL) {
            float part[TALL][D];
#pragma unroll
            for (int r = 0; r < TALL; ++r)
#pragma unroll
                for (int d = 0; d < D; ++d) part[r][d] = 0.0f;
            for (int k = 0; k < T; ++k)
#pragma unroll
                for (int r = 0; r < TALL; ++r)
#pragma unroll
                    for (int d = 0; d < D; ++d) part[r][d] = __builtin_fmaf(shares[(i + r) * down + k * across], rows[k * stride + d], part[r][d]);
            for (int r = 0; r < TALL; ++r)
                for (int d = 0; d < D; ++d) to[(i + r) * to_stride + d] = part[r][d];
        }
    };
"""
_GRADIENT = """
    const float* at = weights.data;
    const auto next = [&](int count) { const float* here = at; at += count; return here; };
    const float *scale1 = next(C), *shift1 = next(C), *qkv_bias = next(3 * C), *qkv_matrix = next(3 * C * C);
    const float *projection_bias = next(C), *projection_matrix = next(C * C), *scale2 = next(C), *shift2 = next(C);
    const float *in_bias = next(M), *in_matrix = next(C * M);
    at = turned.data;
    const float *nothing = next(3 * C > M ? 3 * C : M);
    const float *qkv_turned = next(3 * C * C), *projection_turned = next(C * C), *in_turned = next(C * M), *out_turned = next(M * C);
    float* sum_at = sums.data + static_cast<size_t>(group) * sums.shape[1];
    const auto next_sum = [&](int count) { float* here = sum_at; sum_at += count; return here; };
    float *scale1_sum = next_sum(C), *shift1_sum = next_sum(C), *qkv_bias_sum = next_sum(3 * C), *qkv_sum = next_sum(3 * C * C);
    float *projection_bias_sum = next_sum(C), *projection_sum = next_sum(C * C), *scale2_sum = next_sum(C), *shift2_sum = next_sum(C);
    float *in_bias_sum = next_sum(M), *in_sum = next_sum(C * M), *out_bias_sum = next_sum(C), *out_sum = next_sum(M * C);
    float* scores_sum = next_sum(HEADS * T * T);

    const int across = columns / SIDE, down = rows / SIDE, windows = across * down;
    for (int window = windows * group / GROUPS; window < windows * (group + 1) / GROUPS; ++window) {
        const int window_y = window / across, window_x = window % across;
        const int kind = bias.shape[0] == 1 ? 0 : 2 * (window_y == down - 1) + (window_x == across - 1);
        const float* scores_bias = bias.data + static_cast<size_t>(kind) * HEADS * T * T;
        size_t place[T];
        float cells[T * C], wanted[T * C];
        for (int t = 0; t < T; ++t) {
            const int y = (window_y * SIDE + t / SIDE + shift) % rows, x = (window_x * SIDE + t % SIDE + shift) % columns;
            place[t] = (static_cast<size_t>(y) * columns + x) * C;
            for (int j = 0; j < C; j += 16) {
                store(cells + t * C + j, load(map.data + place[t] + j));
                store(wanted + t * C + j, load(gradient.data + place[t] + j));
            }
        }
        // Forward, again.
        float normed1[T * C], qkv[T * 3 * C], shares[HEADS * T * T], merged[T * C], between[T * C], normed2[T * C], hidden[T * M], slope[T * M];
        for (int t = 0; t < T; ++t) layer_norm(cells + t * C, scale1, shift1, C, [&](int j, vf v) { store(normed1 + t * C + j, v); });
        product(normed1, C, T, C, qkv_matrix, qkv_bias, 3 * C, [&](int t, int j, vf v) { store(qkv + t * 3 * C + j, v); });
        alignas(64) float turned_rows[T * D];
        for (int h = 0; h < HEADS; ++h) {
            turn(qkv + C + h * D, 3 * C, turned_rows);
            float* share = shares + h * T * T;
            for (int i = 0; i < T; i += TALL) {
                compare(qkv + i * 3 * C + h * D, 3 * C, turned_rows, [&](int r, int j) { return load(scores_bias + (h * T + i + r) * T + j); },
                        [&](int r, int j, vf v) { store(share + (i + r) * T + j, v); });
                for (int t = i; t < i + TALL; ++t) {
                    const float factor = soften(share + t * T);
                    for (int j = 0; j < T; j += 16) store(share + t * T + j, load(share + t * T + j) * factor);
                }
            }
            shared(share, T, 1, qkv + 2 * C + h * D, 3 * C, merged + h * D, C);
        }
        product(merged, C, T, C, projection_matrix, projection_bias, C, [&](int t, int j, vf v) {
            store(between + t * C + j, load(cells + t * C + j) + v);
        });
        for (int t = 0; t < T; ++t) layer_norm(between + t * C, scale2, shift2, C, [&](int j, vf v) { store(normed2 + t * C + j, v); });
        product(normed2, C, T, C, in_matrix, in_bias, M, [&](int t, int j, vf v) {
            vf steep;
            store(hidden + t * M + j, gelu_and_slope(v, steep));
            store(slope + t * M + j, steep);
        });
        // Backward: the MLP and its norm.
        float asked[T * C], heads[T * C], three[T * 3 * C];
        add_products(hidden, M, wanted, C, out_sum, out_bias_sum);
        product(wanted, C, T, C, out_turned, nothing, M, [&](int t, int j, vf v) { store(hidden + t * M + j, v * load(slope + t * M + j)); });
        add_products(normed2, C, hidden, M, in_sum, in_bias_sum);
        product(hidden, M, T, M, in_turned, nothing, C, [&](int t, int j, vf v) { store(asked + t * C + j, v); });
        for (int t = 0; t < T; ++t)
            norm_gradient(between + t * C, asked + t * C, scale2, scale2_sum, shift2_sum, [&](int j, vf v) {
                store(wanted + t * C + j, load(wanted + t * C + j) + v);
            });
        // The attention and its norm.
        add_products(merged, C, wanted, C, projection_sum, projection_bias_sum);
        product(wanted, C, T, C, projection_turned, nothing, C, [&](int t, int j, vf v) { store(heads + t * C + j, v); });
        for (int h = 0; h < HEADS; ++h) {
            float* share = shares + h * T * T;
            shared(share, 1, T, heads + h * D, C, three + 2 * C + h * D, 3 * C);
            turn(qkv + 2 * C + h * D, 3 * C, turned_rows);
            for (int i = 0; i < T; i += TALL) {
                alignas(64) float score[TALL][T];
                compare(heads + i * C + h * D, C, turned_rows, [&](int, int) { return (vf)(0.0f); },
                        [&](int r, int j, vf v) { store(score[r] + j, v); });
                for (int r = 0; r < TALL; ++r) {
                    vf sum = (vf)(0.0f);
                    for (int j = 0; j < T; j += 16) sum = fma(load(score[r] + j), load(share + (i + r) * T + j), sum);
                    const float mean = sum_of(sum);
                    for (int j = 0; j < T; j += 16) {
                        const size_t entry = static_cast<size_t>(i + r) * T + j;
                        const vf steep = load(share + entry) * (load(score[r] + j) - mean);
                        store(share + entry, steep);
                        store(scores_sum + h * T * T + entry, load(scores_sum + h * T * T + entry) + steep);
                    }
                }
            }
            shared(share, T, 1, qkv + C + h * D, 3 * C, three + h * D, 3 * C);
            shared(share, 1, T, qkv + h * D, 3 * C, three + C + h * D, 3 * C);
        }
        add_products(normed1, C, three, 3 * C, qkv_sum, qkv_bias_sum);
        product(three, 3 * C, T, 3 * C, qkv_turned, nothing, C, [&](int t, int j, vf v) { store(asked + t * C + j, v); });
        for (int t = 0; t < T; ++t)
            norm_gradient(cells + t * C, asked + t * C, scale1, scale1_sum, shift1_sum, [&](int j, vf v) {
                store(to.data + place[t] + j, load(wanted + t * C + j) + v);
            });
    }
"""


@cache
def _gradient_kernel(shape: BlockShape) -> wp.Kernel:
    constants = f"constexpr int C = {shape.dim}, HEADS = {shape.heads}, M = {shape.hidden}, SIDE = {shape.window}, GROUPS = {GROUPS};"
    code = VECTORS + constants + ATTENTION + _TOOLS + _GRADIENT

    @wp.func_native(code)
    def run(group: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32), gradient: wp.array2d(dtype=wp.float32),
            weights: wp.array(dtype=wp.float32), turned: wp.array(dtype=wp.float32), bias: wp.array2d(dtype=wp.float32),
            sums: wp.array2d(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def swin_block_gradient(first: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32),
                            gradient: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32), turned: wp.array(dtype=wp.float32),
                            bias: wp.array2d(dtype=wp.float32), sums: wp.array2d(dtype=wp.float32), to: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), rows, columns, shift, map, gradient, weights, turned, bias, sums, to)

    return swin_block_gradient


class BlockGradients(NamedTuple):
    """Gradients of what went into a block."""

    map_HWC: FloatArray
    weights: BlockWeights


def swin_block_gradient(map_HWC: FloatArray, gradient_HWC: FloatArray, weights: BlockWeights, shape: BlockShape, shift: int) -> BlockGradients:
    """Gradients of a block's input and of its weights.

    Args:
        map_HWC: what went into the block; float32.
        gradient_HWC: of what came out.
        shift: of the windows, 0 or half a window.
    """
    rows, columns, dim = map_HWC.shape
    hidden, cells = shape.hidden, shape.window**2
    scale = shape.query_scale()
    turned = [np.zeros(max(3 * dim, hidden)), packed(weights.qkv_weight * scale[:, None]), packed(weights.projection_weight),
              packed(weights.in_weight), packed(weights.out_weight)]
    sizes = [dim, dim, 3 * dim, 3 * dim * dim, dim, dim * dim, dim, dim, hidden, dim * hidden, dim, hidden * dim, shape.heads * cells**2]
    sums = np.zeros((GROUPS, sum(sizes)), dtype=np.float32)
    out = np.empty(map_HWC.shape, dtype=np.float32)

    def flat(values: FloatArray, ndim: int) -> object:
        return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=wp.float32, ndim=ndim, device=CPU, copy=False)

    launch_rows(_gradient_kernel(shape), GROUPS, [
        rows, columns, shift, flat(map_HWC.reshape(-1, dim), 2), flat(gradient_HWC.reshape(-1, dim), 2),
        flat(forward_weights(weights, shape), 1), flat(np.concatenate(turned), 1),
        flat(attention_bias(weights.relative_bias, shape.window, shift > 0), 2), flat(sums, 2), flat(out.reshape(-1, dim), 2)], least=1)
    (scale1, shift1, qkv_bias, qkv, projection_bias, projection, scale2, shift2, in_bias, in_matrix, out_bias, out_matrix,
     scores) = np.split(sums.sum(axis=0), np.cumsum(sizes)[:-1])
    table = np.zeros_like(weights.relative_bias)
    np.add.at(table, relative_place(shape.window).ravel(), scores.reshape(shape.heads, -1).T)
    return BlockGradients(out, BlockWeights(
        scale1, shift1, qkv.reshape(dim, -1).T * scale[:, None], qkv_bias * scale, projection.reshape(dim, dim).T, projection_bias, scale2, shift2,
        in_matrix.reshape(dim, hidden).T, in_bias, out_matrix.reshape(hidden, dim).T, out_bias, table))
