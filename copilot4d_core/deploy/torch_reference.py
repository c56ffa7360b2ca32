# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The dense networks in torch, for comparing: arrays in, arrays out, and how sure each token is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from copilot4d_core.grid import FloatArray
from copilot4d_core.model_file import Model
from copilot4d_core.tokenizer.weights_file import tokenizer_from_model

IntGrid = npt.NDArray[np.integer[Any]]


class TorchReference:
    """Encoder and decoder of a model in torch, float32, or with Swin trunks whose every intermediate is rounded to float16."""

    def __init__(self, model: Model, half: bool = False) -> None:
        self.tokenizer, self.half = tokenizer_from_model(model), half
        trunk = copy.deepcopy(self.tokenizer.encoder)
        self._trunk = trunk.half() if half else trunk

    @torch.inference_mode()
    def tokens(self, patches_HWC: FloatArray) -> tuple[IntGrid, FloatArray]:
        """Tokens (h, w), and by how much each beat the next, (h, w) float32; see `Decision`."""
        patch_HWC = torch.from_numpy(patches_HWC)
        decision = self.tokenizer.quantizer.decide(self._latent(patch_HWC).flatten(0, 1))
        blank, shape = self.tokenizer.blank_cells(patch_HWC), self.tokenizer.grid.tokens_HW
        return (decision.token_N.view(shape).masked_fill(blank, 0).numpy(), decision.margin_N.view(shape).masked_fill(blank, torch.inf).numpy())

    @torch.inference_mode()
    def decoded(self, tokens_HW: IntGrid) -> tuple[FloatArray, FloatArray]:
        """Features after the feature grid's norm, (H, W, C), and pooled skip logits, (Y, X, Z)."""
        model = self.tokenizer
        feature = model.decoder(model.look_up(torch.from_numpy(tokens_HW.astype(np.int64))))
        return model.feature_grid.norm(feature).numpy(), model.spatial_skip.pooled(feature).numpy()

    def _latent(self, patch_HWC: Tensor) -> Tensor:
        if not self.half:
            return self.tokenizer.encode_latent(patch_HWC)
        whole, trunk = self.tokenizer.encoder, self._trunk
        map_HWC = trunk.stage1((whole.norm(patch_HWC) + whole.positions_HWC).half())
        height, width, dim = map_HWC.shape
        merged = map_HWC.view(height // 2, 2, width // 2, 2, dim).permute(0, 2, 1, 3, 4).reshape(height // 2, width // 2, -1)
        latent: Tensor = self.tokenizer.pre_quantizer(trunk.stage2(trunk.merge(trunk.merge_norm(merged))).float())
        return latent
