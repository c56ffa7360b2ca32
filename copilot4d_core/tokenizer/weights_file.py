# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A `Tokenizer` to and from the weights file of `model_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from copilot4d_core.config import Config
from copilot4d_core.model_file import Model, read_model, tensor_shapes, write_tensors
from copilot4d_core.tokenizer.tokenizer import Tokenizer


def save_weights(path: Path, tokenizer: Tokenizer, **more: Any) -> None:
    """Write what inference needs; `more` (JSON values) goes into the header."""
    state = tokenizer.state_dict()
    write_tensors(path, {name: state[name].detach().numpy() for name in tensor_shapes(tokenizer.config)}, tokenizer.config, **more)


def load_weights(path: Path, expected: Config | None = None) -> Tokenizer:
    """Tokenizer in evaluation mode with the file's settings and weights.

    Args:
        path: file written by `save_weights`.
        expected: settings that the file must have been trained with (its model part); None takes the file's.
    Raises:
        ValueError: not a weights file, settings of another preset, or tensors that are missing, extra or of another shape.
    """
    model = read_model(path)
    if expected is not None and model.config.name != expected.name:
        raise ValueError(f"{path}: expected weights of preset {expected.name!r}, got {model.config.name!r}; name a file of that preset")
    return tokenizer_from_model(model)


def tokenizer_from_model(model: Model) -> Tokenizer:
    """Tokenizer in evaluation mode with these arrays; what only training needs keeps its first value."""
    tokenizer = Tokenizer(model.config)
    tokenizer.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()}, strict=False)
    return tokenizer.eval()
