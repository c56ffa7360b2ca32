# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The manifest of an export: what the two networks take and give, and which files belong together.

What goes in: a folder of `copilot4d export`. What comes out: its settings, tensors and files, each verified by its SHA-256.
Unusual: every runner that does not read weights reads this first; a file that is not the one that was exported is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.config import Config
from copilot4d_core.config_file import config_from_dict, dict_from_config
from copilot4d_core.grid import Grid

FORMAT, FORMAT_VERSION = "copilot4d-export", 1
MANIFEST = "manifest.json"
ENCODER, DECODER, KERNELS = "encoder.onnx", "decoder.onnx", "kernels.safetensors"
FILES = (ENCODER, DECODER, KERNELS)
PRECISIONS = ("fp32", "fp16")
CHECKSUM = "manifest_sha256"
"""Of all other entries; manifests from before it have none, and are read as they are."""
LARGEST_BYTES = 2**20


class TensorSpec(NamedTuple):
    """One tensor at the boundary of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """`float32` or `int32`."""
    meaning: str
    """Axes, unit and content, for a reader."""


class Network(NamedTuple):
    """Boundary of one network; every shape is static."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Manifest:
    """What an export says about itself."""

    model_id: str
    config: Config
    precision: str
    """Of the Swin trunks: `fp32` or `fp16`; code scores and the boundary are float32 in both."""
    codebook_sha256: str
    """Of the codebook as float32, row-major: tokens of exports with the same codebook mean the same vectors."""
    git_commit: str
    """Of the code that exported; `unknown` outside a checkout."""
    opset: int
    networks: dict[str, Network]
    """`encoder` and `decoder`."""
    file_sha256: dict[str, str]


def networks(config: Config) -> dict[str, Network]:
    """Boundaries of the two networks for these settings."""
    grid = Grid(config)
    (rows, columns), tokens, dim = grid.patches_HW, grid.tokens_HW, config.swin.dims[0]
    token = TensorSpec("tokens", tokens, "int32", "token grid (y, x), index of the code; row 0 = y_min")
    patches = TensorSpec("patches", (rows, columns, dim), "float32", "patch map (y, x, channel) before its layer norm, no unit")
    features = TensorSpec("features", (rows, columns, dim), "float32", "decoder map (y, x, channel) after the feature grid's layer norm, no unit")
    skip = TensorSpec("skip_logits", grid.mask_cells_YXZ, "float32", "largest occupancy logit (y, x, z) of each cell of the skip mask, no unit")
    return {"encoder": Network((patches,), (token,)), "decoder": Network((token,), (features, skip))}


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the last file of an export, so that a folder with a manifest is whole."""
    tree = {"format": FORMAT, "format_version": FORMAT_VERSION, **vars(manifest), "config": dict_from_config(manifest.config),
            "networks": {name: {side: [spec._asdict() for spec in specs] for side, specs in network._asdict().items()}
                         for name, network in manifest.networks.items()}}
    tree[CHECKSUM] = _checksum(tree)
    with replacing_file(folder / MANIFEST) as file:
        file.write(json.dumps(tree, indent=1).encode())


def read_manifest(folder: Path) -> Manifest:
    """Manifest of an export folder, after every file in it was verified.

    Raises:
        ValueError: no manifest, one of another version, one whose networks are not those of its settings, or a file that
            is missing or is not the one that was exported.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder}: expected a folder of `copilot4d export` with {MANIFEST} in it, there is none; export the weights again")
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"a file of {path.stat().st_size} bytes")
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got: {error}; export the weights again") from error
    version = (tree.get("format"), tree.get("format_version")) if isinstance(tree, dict) else (None, None)
    if version != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"{path}: expected format {FORMAT} version {FORMAT_VERSION}, got {version[0]!r} version {version[1]!r}; "
                         "export the weights again with this version of copilot4d")
    if CHECKSUM in tree and tree.pop(CHECKSUM) != _checksum(tree):
        raise ValueError(f"{path}: expected the entries of its checksum, got others; it was damaged or altered: export the weights again")
    manifest = _from_tree(path, tree)
    for name, digest in manifest.file_sha256.items():
        _verify(folder / name, digest)
    return manifest


def _checksum(tree: dict[str, Any]) -> str:
    """SHA-256 of the entries but itself, whatever the order and the white space of the file."""
    return hashlib.sha256(json.dumps({key: value for key, value in tree.items() if key != CHECKSUM}, sort_keys=True).encode()).hexdigest()


def _from_tree(path: Path, tree: dict[str, Any]) -> Manifest:
    try:
        boundary = {name: Network(*(tuple(TensorSpec(spec["name"], tuple(spec["shape"]), spec["dtype"], spec["meaning"]) for spec in network[side])
                                    for side in Network._fields)) for name, network in tree["networks"].items()}
        manifest = Manifest(tree["model_id"], config_from_dict(tree["config"]), tree["precision"], tree["codebook_sha256"], tree["git_commit"],
                            tree["opset"], boundary, {name: tree["file_sha256"][name] for name in FILES})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: expected the entries of `copilot4d export`, {error!r} is wrong; export the weights again") from error
    if manifest.networks != networks(manifest.config) or manifest.precision not in PRECISIONS:
        raise ValueError(f"{path}: its networks or its precision are not those of this version for preset {manifest.config.name!r}; "
                         "export the weights again with this version of copilot4d")
    return manifest


def _verify(path: Path, digest: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: expected this file of the export, there is none; export the weights again")
    if sha256_of(path) != digest:
        raise ValueError(f"{path}: expected the file that was exported (SHA-256 {digest[:12]}…), got another; export the weights again")
