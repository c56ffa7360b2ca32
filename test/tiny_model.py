"""A tiny untrained model on disk, for tests that need a real runner but no trained weights."""

from __future__ import annotations

from pathlib import Path

import torch

from copilot4d_core.config import preset
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import save_weights


def write_tiny_weights(path: Path) -> Path:
    """Weights whose rays meet something everywhere: half-filled space that the skip mask does not leave out."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(preset("tiny"))
    with torch.no_grad():
        tokenizer.feature_grid.mlp[2].bias.fill_(0.5)
        for parameter in tokenizer.spatial_skip.parameters():
            parameter.zero_()  # Probability one half everywhere, above the threshold.
    save_weights(path, tokenizer)
    return path
