# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: safetensors, with the settings and the format version inside. Needs NumPy only.

What goes in: named arrays and settings. What comes out: one file, written whole or not at all; nothing in it is code.
Unusual: the names and shapes of a model's tensors are listed here, so that a machine without torch can check a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.code_table import codebook_shapes
from copilot4d_core.config import Config
from copilot4d_core.config_file import config_from_dict, dict_from_config
from copilot4d_core.grid import Grid
from copilot4d_core.tensor_file import read_arrays, write_arrays

FORMAT, FORMAT_VERSION = "copilot4d-weights", 1
Array = npt.NDArray[Any]


class Model(NamedTuple):
    """A trained tokenizer as arrays."""

    tensors: dict[str, Array]
    """By the names of the `Tokenizer`'s parameters and its codebooks; float32; linear layers as (out, in)."""
    config: Config
    model_id: str
    """Preset and the first 12 hexadecimal digits of the file's SHA-256, such as `mini-0123456789ab`."""


def write_tensors(path: Path, tensors: Mapping[str, Array], config: Config, **more: Any) -> None:
    """Write named arrays with their settings; `more` (JSON values) goes into the header."""
    entries = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": dict_from_config(config), **more}
    write_arrays(path, tensors, entries)


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and header of a weights file or checkpoint.

    Raises:
        ValueError: the file is missing, is no safetensors file of ours, was altered, or has another format version.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a weights file, there is none; train one with `copilot4d train` or name another")
    tensors, header = read_arrays(path, "a safetensors weights file")
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: expected format {FORMAT} version {FORMAT_VERSION}, got {header.get('format')!r} version "
                         f"{header.get('format_version')!r}; train or convert it with this version")
    return tensors, header


def read_model(path: Path) -> Model:
    """A weights file, its tensors checked against its settings.

    Raises:
        ValueError: no weights file, or tensors that are missing, extra, of another shape or dtype, or not finite.
    """
    tensors, header = read_tensors(path)
    config = stored_config(path, header)
    wanted = tensor_shapes(config)
    wrong = [f"{name}: expected {shape}, got {tensors[name].shape if name in tensors else 'nothing'}"
             for name, shape in wanted.items() if name not in tensors or tensors[name].shape != shape]
    wrong += [f"{name}: not part of this model" for name in tensors if name not in wanted]
    wrong += [f"{name}: expected float32, got {array.dtype}" for name, array in tensors.items() if array.dtype != np.float32]
    if wrong:
        raise ValueError(f"{path}: the tensors do not fit preset {config.name!r}: {'; '.join(wrong[:3])}")
    broken = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if broken:
        raise ValueError(f"{path}: expected finite weights, {broken[0]} holds NaN or infinity; the file is damaged")
    return Model(tensors, config, f"{config.name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}")


def stored_config(path: Path, header: Mapping[str, Any]) -> Config:
    """Settings in the header of a weights file or checkpoint.

    Raises:
        ValueError: there are none, or they are no settings of this version; the message names the file.
    """
    try:
        return config_from_dict(header.get("config"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def random_model(config: Config, seed: int = 0) -> Model:
    """Untrained weights of the right shapes, for building and timing a size that nobody has trained; the skip branch leaves most out."""
    generator = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        if name.startswith("spatial_skip.linear"):
            return np.full(shape, config.spatial_skip.bias if len(shape) == 1 else 0.0, dtype=np.float32)
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), dtype=np.float32)
        return np.asarray(generator.standard_normal(shape) * shape[-1] ** -0.5, dtype=np.float32)

    return Model({name: draw(name, shape) for name, shape in tensor_shapes(config).items()}, config, f"{config.name}-random")


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that inference needs."""
    grid, swin, dims = Grid(config), config.swin, config.swin.dims
    voxel, pillar, code = config.voxel_encoder.dim, config.bev_pooling.dim, config.quantizer.codebook_dim
    embedding, hidden, layers = config.bev_pooling.z_embedding_dim, config.feature_grid.hidden, grid.voxels_YXZ[2]
    slots, cells = config.grid.patch_voxels**2, config.grid.feature_cells_per_patch**2 * layers
    channels = config.feature_grid.channels
    shapes = {
        **_mlp("voxel_encoder", 3, voxel), **_mlp("bev_pooling", voxel + embedding, pillar), "bev_pooling.z_embedding.weight": (layers, embedding),
        "patch_embedding.weight": (slots, pillar, dims[0]), "patch_embedding.bias": (dims[0],),
        **_norm("encoder.norm", dims[0]), **_norm("encoder.merge_norm", 4 * dims[0]), **_linear("encoder.merge", 4 * dims[0], dims[1]),
        **_norm("pre_quantizer.0", dims[1]), **_linear("pre_quantizer.2", dims[1], code),
        **codebook_shapes(config.quantizer),
        **_linear("decoder.input", code, dims[1]), **_linear("decoder.upsample", dims[1], 4 * dims[1]), **_norm("decoder.upsample_norm", dims[1]),
        **_linear("decoder.upsample_linear", dims[1], dims[0]),
        "feature_grid.readout_weight": (cells, channels, dims[0]), "feature_grid.readout_bias": (cells, channels),
        **_norm("feature_grid.norm", dims[0]), **_linear("feature_grid.mlp.0", channels, hidden), **_linear("feature_grid.mlp.2", hidden, 1),
        **_norm("spatial_skip.norm", dims[0]), **_linear("spatial_skip.linear", dims[0], slots * layers)}
    stages = {"encoder.stage1": (swin.encoder_depths[0], 0), "encoder.stage2": (swin.encoder_depths[1], 1),
              "decoder.stage2": (swin.decoder_depths[0], 1), "decoder.stage1": (swin.decoder_depths[1], 0)}
    for stage, (depth, level) in stages.items():
        for number in range(depth):
            shapes |= _block(f"{stage}.{number}", dims[level], swin.heads[level], swin.window, int(dims[level] * swin.mlp_ratio))
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _mlp(name: str, inputs: int, dim: int) -> dict[str, tuple[int, ...]]:
    return {**_linear(f"{name}.mlp.0", inputs, dim), **_norm(f"{name}.mlp.1", dim), **_linear(f"{name}.mlp.3", dim, dim),
            **_norm(f"{name}.norm", dim)}


def _block(name: str, dim: int, heads: int, window: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.relative_bias": ((2 * window - 1) ** 2, heads), **_norm(f"{name}.norm1", dim), **_norm(f"{name}.norm2", dim),
            **_linear(f"{name}.qkv", dim, 3 * dim), **_linear(f"{name}.projection", dim, dim),
            **_linear(f"{name}.mlp.0", dim, hidden), **_linear(f"{name}.mlp.2", hidden, dim)}
