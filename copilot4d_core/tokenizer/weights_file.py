"""Weights on disk: safetensors, with the settings and the format version inside.

What goes in: a `Tokenizer`. What comes out: one file, written whole or not at all; nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.config import Config, config_from_dict, dict_from_config
from copilot4d_core.tokenizer.tokenizer import Tokenizer

FORMAT = "copilot4d-weights"
FORMAT_VERSION = 1
_TRAINING_ONLY = ("quantizer.cluster_size", "quantizer.code_sum", "quantizer.unused_steps", "quantizer.bank", "quantizer.bank_fill",
                  "quantizer.step", "quantizer.last_reinit")


def metadata_from_config(config: Config, **more: Any) -> dict[str, str]:
    """Header of a weights file or checkpoint; safetensors keeps strings only."""
    entries = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": dict_from_config(config), **more}
    return {key: json.dumps(value) for key, value in entries.items()}


def save_weights(path: Path, tokenizer: Tokenizer, **more: Any) -> None:
    """Write what inference needs; `more` (JSON values) goes into the header."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in tokenizer.state_dict().items() if name not in _TRAINING_ONLY}
    with replacing_file(path) as file:
        file.write(save(tensors, metadata_from_config(tokenizer.config, **more)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a weights file or checkpoint.

    Raises:
        ValueError: the file is missing, is no safetensors file of ours, or has another format version.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a weights file, there is none; train one with `copilot4d train` or name another")
    try:
        with safe_open(path, framework="pt") as file:
            header = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path}: expected a safetensors weights file, got: {error}") from error
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: expected format {FORMAT} version {FORMAT_VERSION}, got {header.get('format')!r} version "
                         f"{header.get('format_version')!r}; train or convert it with this version")
    return tensors, header


def load_weights(path: Path, expected: Config | None = None) -> Tokenizer:
    """Tokenizer in evaluation mode with the file's settings and weights.

    Args:
        path: file written by `save_weights`.
        expected: settings that the file must have been trained with (its model part); None takes the file's.
    Raises:
        ValueError: not a weights file, settings of another preset, or tensors that are missing, extra or of another shape.
    """
    tensors, header = read_tensors(path)
    config = config_from_dict(header["config"])
    if expected is not None and config.name != expected.name:
        raise ValueError(f"{path}: expected weights of preset {expected.name!r}, got {config.name!r}; name a file of that preset")
    tokenizer = Tokenizer(config)
    wanted = {name: tensor for name, tensor in tokenizer.state_dict().items() if name not in _TRAINING_ONLY}
    wrong = [f"{name}: expected {tuple(tensor.shape)}, got {tuple(tensors[name].shape) if name in tensors else 'nothing'}"
             for name, tensor in wanted.items() if name not in tensors or tensors[name].shape != tensor.shape]
    wrong += [f"{name}: not part of this model" for name in tensors if name not in wanted]
    if wrong:
        raise ValueError(f"{path}: the tensors do not fit preset {config.name!r}: {'; '.join(wrong[:3])}")
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"{path}: expected finite weights, {broken[0]} holds NaN or infinity; the file is damaged")
    tokenizer.load_state_dict(tensors, strict=False)
    return tokenizer.eval()


def model_id(path: Path, config: Config) -> str:
    """Name of a model: its preset and the first 12 hex digits of its file's SHA-256."""
    return f"{config.name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
