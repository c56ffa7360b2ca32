# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The median depth alone is that of a whole rendering, bit for bit, although its rays stop earlier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from copilot4d_core.config import preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.torch_runner import TorchRunner
from copilot4d_core.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("occupancy_bias", [-1.0, 0.0, 3.0])
def test_it_is_that_of_a_whole_rendering(threshold: float, occupancy_bias: float) -> None:
    torch.manual_seed(0)
    settings = preset("tiny")
    settings = replace(settings, rendering=replace(settings.rendering, opacity_threshold=threshold, step_m=0.2),
                       feature_grid=replace(settings.feature_grid, occupancy_bias=occupancy_bias))
    model = Tokenizer(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(3000, 3)) * [1.0, 1.0, 0.3]
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    rays = Rays(rng.uniform(-2, 2, size=(3000, 3)).astype(np.float32), direction)
    tokens = rng.integers(0, 64, size=model.grid.tokens_HW).astype(np.uint16)
    with TorchRunner(model, "test") as runner:
        whole, alone = runner.decode(tokens, rays), runner.depth(tokens, rays)
    assert alone.shape == (3000,) and alone.dtype == np.float32
    assert np.isfinite(alone).sum() > 100
    np.testing.assert_array_equal(alone, whole.depth_m)
