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
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.crew import Crew
from copilot4d_core.kernels.dense_networks import (
    DECODER_STEPS,
    ENCODER_STEPS,
    Mode,
    NetworkMemory,
    StageShape,
    decoder_kernel,
    encoder_kernel,
    stage_weights,
)
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.swin_block import LABELS, BlockShape, BlockWeights
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


def _stage(model: Model, stage: int, depth: int, shape_HW: tuple[int, int]) -> StageShape:
    swin = model.config.swin
    dim = swin.dims[stage]
    return StageShape(BlockShape(dim, swin.heads[stage], int(dim * swin.mlp_ratio), swin.window), depth, *shape_HW)


def _stage_weights(model: Model, name: str, stage: StageShape) -> FloatArray:
    return stage_weights(stage, [BlockWeights(*(model.tensors[f"{name}.{number}.{label}"] for label in LABELS)) for number in range(stage.depth)])


class EncoderKernels:
    """Patch map to tokens: two Swin stages, pre-quantisation, nearest code. Source: CoPilot4D, figure 6.

    Unusual: what a window without any point becomes is always the same, and is computed once; of a street about a quarter are such. The last block
    leaves out the cells that become token 0 anyway, about half.
    """

    def __init__(self, model: Model) -> None:
        """Pack the weights and allocate."""
        grid, swin, quantizer, tensors = Grid(model.config), model.config.swin, model.config.quantizer, model.tensors
        narrow, wide = (_stage(model, stage, swin.encoder_depths[stage], shape) for stage, shape in enumerate((grid.patches_HW, grid.tokens_HW)))
        self._memory, self._crew = NetworkMemory(narrow, wide, wide), Crew(ENCODER_STEPS + narrow.depth + wide.depth)
        self._kernel = encoder_kernel(narrow, wide, quantizer.codebook_size, quantizer.blank_token)
        scores = score_table(code_table(quantizer, tensors), tensors, quantizer.kind is QuantizerKind.COSINE)
        blank = tensors["patch_embedding.bias"]
        self._weights = _flat(
            blank, sincos_positions(*grid.patches_HW, narrow.block.dim), tensors["encoder.norm.weight"], tensors["encoder.norm.bias"],
            _stage_weights(model, "encoder.stage1", narrow), tensors["encoder.merge_norm.weight"], tensors["encoder.merge_norm.bias"],
            tensors["encoder.merge.bias"], packed(tensors["encoder.merge.weight"].T), _stage_weights(model, "encoder.stage2", wide),
            tensors["pre_quantizer.0.weight"], tensors["pre_quantizer.0.bias"], scores.bias_K, packed(scores.matrix_CK))
        self._cells: Any = wp.zeros(wide.cells + 1, dtype=wp.int32, device=CPU)
        self._tokens: Any = wp.zeros(wide.cells, dtype=wp.int32, device=CPU)
        self._tokens_HW = grid.tokens_HW
        self._run(np.broadcast_to(blank.astype(np.float32), (*grid.patches_HW, narrow.block.dim)), Mode.REMEMBER)

    def __call__(self, patches_HWC: FloatArray) -> TokenArray:
        """(H, W, C) float32 to (H / 2, W / 2) uint16."""
        return self._run(patches_HWC, Mode.SKIP_BLANK)

    def _run(self, patches_HWC: FloatArray, mode: Mode) -> TokenArray:
        rows = np.ascontiguousarray(patches_HWC, dtype=np.float32).reshape(-1, patches_HWC.shape[2])
        patches: Any = wp.array(rows, dtype=wp.float32, ndim=2, device=CPU, copy=False)
        self._crew.launch(self._kernel, [int(mode), patches, self._weights, self._memory.maps, self._memory.flags, self._cells, self._tokens])
        return np.asarray(self._tokens.numpy(), dtype=np.uint16).reshape(self._tokens_HW)


class DecoderKernels:
    """Tokens to the decoder's map after the feature grid's norm, and the pooled logits of the skip branch. Source: CoPilot4D, figure 6.

    Unusual: what a window of nothing but token 0 becomes is always the same, and is computed once; where token 0 is that of blank cells, such
    are as many as in the encoder.
    """

    def __init__(self, model: Model) -> None:
        """Pack the weights and allocate."""
        grid, swin, quantizer, tensors = Grid(model.config), model.config.swin, model.config.quantizer, model.tensors
        wide, narrow = (_stage(model, 1 - order, swin.decoder_depths[order], shape) for order, shape in enumerate((grid.tokens_HW, grid.patches_HW)))
        rows, columns, layers = grid.mask_cells_YXZ
        bias = tensors["spatial_skip.linear.bias"]
        self._memory, self._crew = NetworkMemory(narrow, wide, narrow), Crew(DECODER_STEPS + narrow.depth + wide.depth)
        self._kernel = decoder_kernel(narrow, wide, quantizer.codebook_size, grid.patches_HW[0] // rows, len(bias) // layers, layers)
        table = code_table(quantizer, tensors).astype(np.float64) @ tensors["decoder.input.weight"].T + tensors["decoder.input.bias"]
        self._weights = _flat(
            table, _stage_weights(model, "decoder.stage2", wide), tensors["decoder.upsample.bias"], packed(tensors["decoder.upsample.weight"].T),
            tensors["decoder.upsample_norm.weight"], tensors["decoder.upsample_norm.bias"], tensors["decoder.upsample_linear.bias"],
            packed(tensors["decoder.upsample_linear.weight"].T), _stage_weights(model, "decoder.stage1", narrow), tensors["feature_grid.norm.weight"],
            tensors["feature_grid.norm.bias"], tensors["spatial_skip.norm.weight"], tensors["spatial_skip.norm.bias"], bias,
            packed(tensors["spatial_skip.linear.weight"].T))
        self._tokens: Any = wp.zeros(wide.cells, dtype=wp.int32, device=CPU)
        self._normed: Any = wp.zeros((narrow.cells, narrow.block.dim), dtype=wp.float32, device=CPU)
        self._logits: Any = wp.zeros((rows, columns, layers), dtype=wp.float32, device=CPU)
        self._patches_HW = grid.patches_HW
        self._run(np.zeros(grid.tokens_HW, dtype=np.uint16), Mode.REMEMBER)

    def __call__(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        """(H / 2, W / 2) uint16 to (H, W, C) and (Y, X, Z), both float32; the next call overwrites them."""
        return self._run(tokens, Mode.SKIP_BLANK)

    def _run(self, tokens: TokenArray, mode: Mode) -> tuple[FloatArray, FloatArray]:
        self._tokens.numpy()[:] = tokens.ravel()
        self._crew.launch(self._kernel, [int(mode), self._tokens, self._weights, self._memory.maps, self._memory.flags, self._normed, self._logits])
        return self._normed.numpy().reshape(*self._patches_HW, -1), self._logits.numpy()
