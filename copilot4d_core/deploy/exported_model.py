# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A model as the runners without torch take it: two ONNX networks and the weights of the sparse stages.

What goes in: a weights file, or a folder of `copilot4d export`. What comes out: the same thing from both.
Unusual: a weights file is turned into ONNX in memory (a tenth of a second for `mini`), so nobody has to export to run on a CPU.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from copilot4d_core.code_table import code_table
from copilot4d_core.config import Config
from copilot4d_core.deploy.kernel_weights import KernelWeights, kernel_weights, kernel_weights_from
from copilot4d_core.deploy.manifest import DECODER, ENCODER, KERNELS, read_manifest
from copilot4d_core.model_file import Model, read_model, read_tensors

TIE = 1e-4
"""Two codes whose scores (z.e - |e|^2 / 2) are closer are a tie: the order of a float32 sum decides which one is chosen. For fsq
the same distance to the edge of rounding."""


class ExportedModel(NamedTuple):
    """What a runner needs of a model."""

    config: Config
    model_id: str
    precision: str
    """Of the networks: `fp32` or `fp16`."""
    codebook_sha256: str
    encoder: bytes
    """ONNX; boundary as in the manifest."""
    decoder: bytes
    kernels: KernelWeights


def export_model(model: Model, precision: str = "fp32") -> ExportedModel:
    """The networks of a model, in memory."""
    from copilot4d_core.deploy.onnx_networks import decoder_network, encoder_network

    codebook = code_table(model.config.quantizer, model.tensors)
    return ExportedModel(model.config, model.model_id, precision, hashlib.sha256(codebook.tobytes()).hexdigest(),
                         encoder_network(model, precision).SerializeToString(deterministic=True),
                         decoder_network(model, precision).SerializeToString(deterministic=True), kernel_weights(model.tensors))


def read_export(folder: Path) -> ExportedModel:
    """A folder of `copilot4d export`.

    Raises:
        ValueError: no such folder, or one whose files are not those that were exported.
    """
    manifest = read_manifest(folder)
    arrays, _ = read_tensors(folder / KERNELS)
    return ExportedModel(manifest.config, manifest.model_id, manifest.precision, manifest.codebook_sha256,
                         (folder / ENCODER).read_bytes(), (folder / DECODER).read_bytes(), kernel_weights_from(arrays))


def open_model(path: Path) -> ExportedModel:
    """A weights file or a folder of `copilot4d export`.

    Raises:
        ValueError: neither, or a damaged one.
    """
    return read_export(path) if path.is_dir() else export_model(read_model(path))
