# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The two dense networks in our own kernels, for CPUs: patch map to tokens, tokens to the decoder's map and skip logits.

What goes in: the tensors of a model. What comes out: two callables over arrays that are kept from frame to frame.
Unusual: what is multiplied by constants only is multiplied beforehand, in float64: codebook and decoder input to a table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.code_table import code_table, score_table
from copilot4d_core.config import QuantizerKind
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.dense_layers import (
    GROUP,
    launch_groups,
    merge_kernel,
    nearest_kernel,
    norm_kernel,
    skip_kernel,
    start_kernel,
    upsample_kernel,
)
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.swin_block import SwinBlock
from copilot4d_core.kernels.vectors import WIDTH, packed
from copilot4d_core.model_file import Model
from copilot4d_core.positions import sincos_positions

KINDS = (QuantizerKind.VQ, QuantizerKind.COSINE)
"""Quantisers that choose the nearest code of a codebook."""


def obstacle(model: Model) -> str:
    """Why a model has no kernels; empty if it has."""
    config, grid = model.config, Grid(model.config)
    if config.quantizer.kind not in KINDS:
        kinds = " or ".join(kind.value for kind in KINDS)
        return f"expected a quantizer of kind {kinds}, got {config.quantizer.kind.value}, which has no kernel; choose onnx"
    numbers = {"swin.dims": config.swin.dims, "swin.dims times swin.mlp_ratio": [int(dim * config.swin.mlp_ratio) for dim in config.swin.dims],
               "swin.window squared": [config.swin.window**2], "quantizer.codebook_size": [config.quantizer.codebook_size],
               "layers of the skip mask": [grid.mask_cells_YXZ[2]], "cells of the token grid": [int(np.prod(grid.tokens_HW))]}
    for what, values in numbers.items():
        if any(value % WIDTH for value in values):
            return f"{what}: expected multiples of {WIDTH}, got {', '.join(map(str, values))}, which have no kernel; choose onnx"
    return ""


def _flat(*arrays: Any) -> Any:
    return wp.array(np.concatenate([np.ravel(array) for array in arrays]).astype(np.float32), dtype=wp.float32, device=CPU)


def _rows(rows: int, channels: int) -> Any:
    return wp.zeros((rows, channels), dtype=wp.float32, device=CPU)


def _blocks(model: Model, name: str, depth: int, stage: int, shape_HW: tuple[int, int]) -> list[SwinBlock]:
    swin = model.config.swin
    shift = swin.window // 2 if min(shape_HW) > swin.window else 0
    return [SwinBlock(model.tensors, f"{name}.{number}", swin.heads[stage], swin.window, number % 2 * shift, shape_HW) for number in range(depth)]


def _through(blocks: list[SwinBlock], map_NC: Any, occupied_HW: BoolArray, needed_HW: BoolArray | None = None) -> BoolArray:
    """Change a map in place where it is not that of a scene without any point; returns the cells that it reached.

    Only where `needed_HW` is set the last block must have its say; None: everywhere.
    """
    for block in blocks:
        windows = block.windows(occupied_HW)
        block(map_NC, windows, needed_HW if block is blocks[-1] else None)
        occupied_HW = block.cells(windows)
    return occupied_HW


def beside(held_HW: BoolArray) -> BoolArray:
    """Cells that are held or touch one that is, across corners too."""
    rows, columns = held_HW.shape
    padded = np.pad(held_HW, 1)
    found = np.zeros_like(held_HW)
    for y in range(3):
        for x in range(3):
            found |= padded[y:y + rows, x:x + columns]
    return found


class EncoderKernels:
    """Patch map to tokens: two Swin stages, pre-quantisation, nearest code. Source: CoPilot4D, figure 6.

    Unusual: what a window without any point becomes is always the same, and is computed once; of a street about a quarter are such. The last block
    leaves out the cells that become token 0 anyway, about half.
    """

    def __init__(self, model: Model) -> None:
        """Pack the weights and allocate."""
        grid, swin, tensors = Grid(model.config), model.config.swin, model.tensors
        self._patches_HW, self._tokens_HW, (dim, wide) = grid.patches_HW, grid.tokens_HW, swin.dims
        patches, tokens = (int(np.prod(shape)) for shape in (self._patches_HW, self._tokens_HW))
        self._map, self._token_map = _rows(patches, dim), _rows(tokens, wide)
        self._tokens: Any = wp.zeros(tokens, dtype=wp.int32, device=CPU)
        positions = sincos_positions(*self._patches_HW, dim).reshape(patches, dim)
        self._positions: Any = wp.array(positions, dtype=wp.float32, ndim=2, device=CPU)
        self._start, self._start_weights = start_kernel(dim), _flat(tensors["encoder.norm.weight"], tensors["encoder.norm.bias"])
        self._stage1 = _blocks(model, "encoder.stage1", swin.encoder_depths[0], 0, self._patches_HW)
        self._merge = merge_kernel(dim, wide)
        self._merge_weights = _flat(tensors["encoder.merge_norm.weight"], tensors["encoder.merge_norm.bias"], tensors["encoder.merge.bias"],
                                    packed(tensors["encoder.merge.weight"].T))
        self._stage2 = _blocks(model, "encoder.stage2", swin.encoder_depths[1], 1, self._tokens_HW)
        quantizer = model.config.quantizer
        scores = score_table(code_table(quantizer, tensors), tensors, quantizer.kind is QuantizerKind.COSINE)
        self._nearest = nearest_kernel(wide, quantizer.codebook_size)
        self._nearest_weights = _flat(tensors["pre_quantizer.0.weight"], tensors["pre_quantizer.0.bias"], scores.bias_K, packed(scores.matrix_CK))
        self._cell_values = np.arange(tokens, dtype=np.int32)
        self._cells: Any = wp.array(self._cell_values, dtype=wp.int32, device=CPU, copy=False)
        self._occupied: Any = wp.zeros(patches, dtype=wp.int32, device=CPU)
        self._blank = _flat(tensors["patch_embedding.bias"])
        self._has_blank_token = model.config.quantizer.blank_token
        self._remember_blank()

    def _remember_blank(self) -> None:
        blank = np.broadcast_to(self._blank.numpy(), (len(self._map), len(self._blank)))
        self._begin(wp.array(np.ascontiguousarray(blank), dtype=wp.float32, ndim=2, device=CPU))
        for block in self._stage1:
            block.remember_blank(self._map)
        self._merge_cells()
        for block in self._stage2:
            block.remember_blank(self._token_map)

    def _begin(self, patches: Any) -> None:
        launch_groups(self._start, len(patches), [patches, self._positions, self._start_weights, self._blank, self._occupied, self._map])

    def _merge_cells(self) -> None:
        launch_groups(self._merge, len(self._token_map) // GROUP, [self._tokens_HW[1], self._map, self._merge_weights, self._token_map])

    def _in_tokens(self, patches_HW: BoolArray) -> BoolArray:
        rows, columns = self._tokens_HW
        return np.asarray(patches_HW.reshape(rows, 2, columns, 2).any(axis=(1, 3)))

    def __call__(self, patches_HWC: FloatArray) -> TokenArray:
        """(H, W, C) float32 to (H / 2, W / 2) uint16."""
        patches: Any = wp.array(patches_HWC.reshape(-1, patches_HWC.shape[2]), dtype=wp.float32, ndim=2, device=CPU, copy=False)
        self._begin(patches)
        occupied = np.asarray(self._occupied.numpy(), dtype=bool).reshape(self._patches_HW)
        reached = _through(self._stage1, self._map, occupied)
        self._merge_cells()
        held = beside(self._in_tokens(occupied))
        _through(self._stage2, self._token_map, self._in_tokens(reached), held if self._has_blank_token else None)
        return self._choose(held)

    def _choose(self, held_HW: BoolArray) -> TokenArray:
        """Token of each cell; where blank cells have one of their own, only the others are compared with codes."""
        count = held_HW.size
        if self._has_blank_token:
            self._tokens.zero_()
            cells = np.flatnonzero(held_HW)
            self._cell_values[: (count := len(cells))] = cells
        launch_groups(self._nearest, -(-count // GROUP), [count, self._cells, self._token_map, self._nearest_weights, self._tokens])
        return np.asarray(self._tokens.numpy(), dtype=np.uint16).reshape(self._tokens_HW)


class DecoderKernels:
    """Tokens to the decoder's map after the feature grid's norm, and the pooled logits of the skip branch. Source: CoPilot4D, figure 6.

    Unusual: what a window of nothing but token 0 becomes is always the same, and is computed once; where token 0 is that of blank cells, such
    are as many as in the encoder.
    """

    def __init__(self, model: Model) -> None:
        """Pack the weights and allocate."""
        grid, swin, tensors = Grid(model.config), model.config.swin, model.tensors
        self._patches_HW, self._tokens_HW, (dim, wide) = grid.patches_HW, grid.tokens_HW, swin.dims
        patches, tokens = (int(np.prod(shape)) for shape in (self._patches_HW, self._tokens_HW))
        self._map, self._normed = _rows(patches, dim), _rows(patches, dim)
        self._token_map = _rows(tokens, wide)
        table = code_table(model.config.quantizer, tensors).astype(np.float64) @ tensors["decoder.input.weight"].T + tensors["decoder.input.bias"]
        self._table = table.astype(np.float32)
        self._stage2 = _blocks(model, "decoder.stage2", swin.decoder_depths[0], 1, self._tokens_HW)
        self._upsample = upsample_kernel(dim, wide)
        self._upsample_weights = _flat(
            tensors["decoder.upsample.bias"], packed(tensors["decoder.upsample.weight"].T), tensors["decoder.upsample_norm.weight"],
            tensors["decoder.upsample_norm.bias"], tensors["decoder.upsample_linear.bias"], packed(tensors["decoder.upsample_linear.weight"].T))
        self._stage1 = _blocks(model, "decoder.stage1", swin.decoder_depths[1], 0, self._patches_HW)
        self._norm, self._norm_weights = norm_kernel(dim), _flat(tensors["feature_grid.norm.weight"], tensors["feature_grid.norm.bias"])
        rows, columns, layers = self._mask_YXZ = grid.mask_cells_YXZ
        self._logits: Any = wp.zeros((rows, columns, layers), dtype=wp.float32, device=CPU)
        bias = tensors["spatial_skip.linear.bias"]
        self._skip, self._cells_a_group = skip_kernel(dim, self._patches_HW[0] // rows, len(bias) // layers, layers)
        self._skip_weights = _flat(tensors["spatial_skip.norm.weight"], tensors["spatial_skip.norm.bias"], bias,
                                   packed(tensors["spatial_skip.linear.weight"].T))
        self._remember_zeros()

    def _remember_zeros(self) -> None:
        self._look_up(np.zeros(self._tokens_HW, dtype=np.uint16))
        for block in self._stage2:
            block.remember_blank(self._token_map)
        self._to_patches()
        for block in self._stage1:
            block.remember_blank(self._map)

    def _look_up(self, tokens: TokenArray) -> None:
        np.take(self._table, tokens.ravel(), axis=0, out=self._token_map.numpy())

    def _to_patches(self) -> None:
        launch_groups(self._upsample, len(self._token_map) // GROUP, [self._tokens_HW[1], self._token_map, self._upsample_weights, self._map])

    def __call__(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        """(H / 2, W / 2) uint16 to (H, W, C) and (Y, X, Z), both float32; the next call overwrites them."""
        self._look_up(tokens)
        reached = _through(self._stage2, self._token_map, tokens != 0)
        self._to_patches()
        _through(self._stage1, self._map, reached.repeat(2, axis=0).repeat(2, axis=1))
        launch_groups(self._norm, len(self._map), [self._map, self._norm_weights, self._normed])
        columns, cells = self._mask_YXZ[1], self._mask_YXZ[0] * self._mask_YXZ[1]
        launch_groups(self._skip, -(-cells // self._cells_a_group), [columns, cells, self._map, self._skip_weights, self._logits])
        return self._normed.numpy().reshape(*self._patches_HW, -1), self._logits.numpy()
