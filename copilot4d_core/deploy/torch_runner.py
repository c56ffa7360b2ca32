# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The reference runner: dense nets in torch, sparse stages in the kernels. Makes no claim of speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from copilot4d_core.deploy.cpu_runner import CpuRunner
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import FloatArray
from copilot4d_core.model_file import read_model
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import tokenizer_from_model


class TorchRunner(CpuRunner):
    """Runs a `Tokenizer` in evaluation mode; see `Runner` for the contract."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        super().__init__(tokenizer.config, name, kernel_weights({key: tensor.numpy() for key, tensor in tokenizer.state_dict().items()}), "torch")
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def _tokens(self, patches_HWC: FloatArray) -> TokenArray:
        return np.asarray(self.tokenizer.tokenize_patches(torch.tensor(patches_HWC)).numpy(), dtype=np.uint16)

    @torch.inference_mode()
    def _decoded(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        model = self.tokenizer
        feature = model.decoder(model.look_up(torch.from_numpy(tokens.astype(np.int64))))
        return model.feature_grid.norm(feature).numpy(), model.spatial_skip.pooled(feature).numpy()


def torch_runner(weights: Path) -> TorchRunner:
    """Runner of a weights file.

    Raises:
        ValueError: see `read_model`.
    """
    model = read_model(weights)
    return TorchRunner(tokenizer_from_model(model), model.model_id)
