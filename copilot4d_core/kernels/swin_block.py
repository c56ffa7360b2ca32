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

from copilot4d_core.grid import BoolArray, FloatArray, IntArray
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


_BLOCK = """
    constexpr int D = C / HEADS, T = SIDE * SIDE;
    const float* at = weights.data;
    const auto next = [&](int count) { const float* here = at; at += count; return here; };
    const float *scale1 = next(C), *shift1 = next(C), *qkv_bias = next(3 * C), *qkv_matrix = next(3 * C * C);
    const float *projection_bias = next(C), *projection_matrix = next(C * C), *scale2 = next(C), *shift2 = next(C);
    const float *in_bias = next(M), *in_matrix = next(C * M), *out_bias = next(C), *out_matrix = next(M * C);
    const int across = columns / SIDE, down = rows / SIDE;
    const int window_y = window / across, window_x = window % across;
    const int kind = bias.shape[0] == 1 ? 0 : 2 * (window_y == down - 1) + (window_x == across - 1);
    const float* scores_bias = bias.data + static_cast<size_t>(kind) * HEADS * T * T;
    float* cell[T];
    for (int t = 0; t < T; ++t) {
        const int y = (window_y * SIDE + t / SIDE + shift) % rows, x = (window_x * SIDE + t % SIDE + shift) % columns;
        cell[t] = map.data + (static_cast<size_t>(y) * columns + x) * C;
    }
    if (!active.data[window]) {
        for (int t = 0; t < T; ++t)
            for (int j = 0; j < C; j += 16) store(cell[t] + j, load(blank.data + (cell[t] - map.data) + j));
        return;
    }
    float normed[T * C], qkv[T * 3 * C], keys[D * T], merged[T * C], hidden[T * M];
    for (int t = 0; t < T; ++t) layer_norm(cell[t], scale1, shift1, C, [&](int j, vf v) { store(normed + t * C + j, v); });
    product(normed, C, T, C, qkv_matrix, qkv_bias, 3 * C, [&](int t, int j, vf v) { store(qkv + t * 3 * C + j, v); });
    for (int h = 0; h < HEADS; ++h) {
        for (int t = 0; t < T; ++t)
            for (int d = 0; d < D; ++d) keys[d * T + t] = qkv[t * 3 * C + C + h * D + d];
        for (int t = 0; t < T; t += 2) {
            vf score[2][T / 16];
            float share[2][T], factor[2];
            for (int r = 0; r < 2; ++r)
                for (int j = 0; j < T / 16; ++j) score[r][j] = load(scores_bias + (h * T + t + r) * T + 16 * j);
            for (int d = 0; d < D; ++d)
                for (int r = 0; r < 2; ++r)
                    for (int j = 0; j < T / 16; ++j)
                        score[r][j] = fma((vf)(qkv[(t + r) * 3 * C + h * D + d]), load(keys + d * T + 16 * j), score[r][j]);
            for (int r = 0; r < 2; ++r) {
                vf top = score[r][0], sum = (vf)(0.0f);
                for (int j = 1; j < T / 16; ++j) top = __builtin_elementwise_max(top, score[r][j]);
                const float largest = largest_of(top);
                for (int j = 0; j < T / 16; ++j) {
                    const vf power = exponential(score[r][j] - largest);
                    store(share[r] + 16 * j, power);
                    sum += power;
                }
                factor[r] = 1.0f / sum_of(sum);
            }
            // Four sums side by side for each row: one would wait for its own last addition.
            float part[2][4][D];
            for (int r = 0; r < 2; ++r)
                for (int p = 0; p < 4; ++p)
                    for (int d = 0; d < D; ++d) part[r][p][d] = 0.0f;
            for (int j = 0; j < T; j += 4)
                for (int p = 0; p < 4; ++p) {
                    const float* value = qkv + (j + p) * 3 * C + 2 * C + h * D;
                    for (int r = 0; r < 2; ++r)
                        for (int d = 0; d < D; ++d) part[r][p][d] = __builtin_fmaf(share[r][j + p], value[d], part[r][p][d]);
                }
            for (int r = 0; r < 2; ++r)
                for (int d = 0; d < D; ++d)
                    merged[(t + r) * C + h * D + d] = ((part[r][0][d] + part[r][1][d]) + (part[r][2][d] + part[r][3][d])) * factor[r];
        }
    }
    product(merged, C, T, C, projection_matrix, projection_bias, C, [&](int t, int j, vf v) { store(cell[t] + j, load(cell[t] + j) + v); });
    for (int t = 0; t < T; ++t) layer_norm(cell[t], scale2, shift2, C, [&](int j, vf v) { store(normed + t * C + j, v); });
    product(normed, C, T, C, in_matrix, in_bias, M, [&](int t, int j, vf v) { store(hidden + t * M + j, gelu(v)); });
    product(hidden, M, T, M, out_matrix, out_bias, C, [&](int t, int j, vf v) { store(cell[t] + j, load(cell[t] + j) + v); });
"""


@cache
def _block_kernel(shape: BlockShape) -> wp.Kernel:
    constants = f"constexpr int C = {shape.dim}, HEADS = {shape.heads}, M = {shape.hidden}, SIDE = {shape.window};"
    code = VECTORS + constants + _BLOCK

    @wp.func_native(code)
    def run(window: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            bias: wp.array2d(dtype=wp.float32), active: wp.array(dtype=wp.int32), blank: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def swin_block(first: int, rows: int, columns: int, shift: int, map: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
                   bias: wp.array2d(dtype=wp.float32), active: wp.array(dtype=wp.int32), blank: wp.array2d(dtype=wp.float32)):
        run(first + wp.tid(), rows, columns, shift, map, weights, bias, active, blank)

    return swin_block


def attention_bias(relative_bias: FloatArray, window: int, shifted: bool) -> FloatArray:
    """Relative bias and shift mask, (1 or 4 kinds of windows, heads * T * T) float32: inner, last column, last row, corner."""
    place = np.arange(window * window)
    row, column = place // window, place % window
    offset = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
    bias = relative_bias[offset].transpose(2, 0, 1)
    masks = np.zeros((1, *offset.shape))
    if shifted:
        beyond = [(axis[:, None] >= window - window // 2) != (axis >= window - window // 2) for axis in (row, column)]
        masks = np.stack([MASKED * ((beyond[0] & bool(kind & 2)) | (beyond[1] & bool(kind & 1))) for kind in range(4)])
    return np.ascontiguousarray((bias + masks[:, None]).reshape(len(masks), -1), dtype=np.float32)


class SwinBlock:
    """A block with its weights; see `tokenizer.swin_transformer.SwinBlock`, its slow twin."""

    def __init__(self, tensors: dict[str, FloatArray], name: str, heads: int, window: int, shift: int, shape_HW: tuple[int, int]) -> None:
        """Pack the weights.

        Args:
            tensors: of a model.
            name: of the block, such as `encoder.stage1.0`.
            shift: of the windows, 0 or half a window.
        Raises:
            ValueError: numbers of channels or cells that are no multiples of `WIDTH`.
        """
        def tensor(label: str) -> FloatArray:
            return tensors[f"{name}.{label}"]

        hidden, dim = tensor("mlp.0.weight").shape
        for what, number in (("channels", dim), ("hidden channels", hidden), ("cells of a window", window * window)):
            if number % WIDTH:
                raise ValueError(f"{name}: expected {what} in multiples of {WIDTH}, got {number}; use the onnx runner")
        self.shape_HW, self.window, self.shift = shape_HW, window, shift
        self.kernel = _block_kernel(BlockShape(dim, heads, hidden, window))
        scale = np.repeat(np.float32([(dim // heads) ** -0.5, 1, 1]), dim)  # of the queries, as in attention
        flat = [tensor("norm1.weight"), tensor("norm1.bias"), tensor("qkv.bias") * scale, packed(tensor("qkv.weight").T * scale),
                tensor("projection.bias"), packed(tensor("projection.weight").T), tensor("norm2.weight"), tensor("norm2.bias"),
                tensor("mlp.0.bias"), packed(tensor("mlp.0.weight").T), tensor("mlp.2.bias"), packed(tensor("mlp.2.weight").T)]
        self._weights: Any = wp.array(np.concatenate(flat).astype(np.float32), dtype=wp.float32, device=CPU)
        self._bias: Any = wp.array(attention_bias(tensor("relative_bias"), window, shift > 0), dtype=wp.float32, ndim=2, device=CPU)

        self._active_values: IntArray = np.ones(shape_HW[0] * shape_HW[1] // window**2, dtype=np.int32)
        self._active: Any = wp.array(self._active_values, dtype=wp.int32, device=CPU, copy=False)
        self._blank: Any = wp.empty((0, dim), dtype=wp.float32, device=CPU)

    def remember_blank(self, map_NC: Any) -> None:
        """Change the map of a scene without any point in place, and keep the result for the windows of other scenes that hold none."""
        self(map_NC)
        self._blank = wp.clone(map_NC)

    def windows(self, occupied_HW: BoolArray) -> BoolArray:
        """Which windows hold an occupied cell, (H / side, W / side)."""
        (rows, columns), side = self.shape_HW, self.window
        rolled = np.roll(occupied_HW, (-self.shift, -self.shift), axis=(0, 1))
        return np.asarray(rolled.reshape(rows // side, side, columns // side, side).any(axis=(1, 3)))

    def cells(self, windows: BoolArray) -> BoolArray:
        """Which cells lie in these windows, (H, W)."""
        return np.roll(windows.repeat(self.window, axis=0).repeat(self.window, axis=1), (self.shift, self.shift), axis=(0, 1))

    def __call__(self, map_NC: Any, windows: BoolArray | None = None) -> None:
        """Change a map in place.

        Args:
            map_NC: Warp array (H * W, C) float32, row-major.
            windows: which are computed, (H / side, W / side); the others get what `remember_blank` kept. None: all.
        """
        self._active_values[:] = 1 if windows is None else windows.ravel()
        launch_rows(self.kernel, len(self._active_values), [
            *self.shape_HW, self.shift, map_NC, self._weights, self._bias, self._active, self._blank], least=4)
