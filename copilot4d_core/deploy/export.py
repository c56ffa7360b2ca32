# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d export`: weights to a folder of ONNX networks, checked before it takes its name.

What goes in: a model. What comes out: encoder.onnx, decoder.onnx, kernels.safetensors and manifest.json, prior.safetensors where the
model has one, and what the self-check measured. Unusual: everything is written and checked in a hidden neighbour folder, which is renamed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.exported_model import TIE, ExportedModel, export_model, read_export
from copilot4d_core.deploy.kernel_weights import arrays_from
from copilot4d_core.deploy.manifest import DECODER, ENCODER, KERNELS, PRECISIONS, Manifest, networks, sha256_of, write_manifest
from copilot4d_core.deploy.onnx_builder import OPSET
from copilot4d_core.deploy.onnx_runner import open_session
from copilot4d_core.deploy.prior_file import IN_EXPORT
from copilot4d_core.deploy.token_prior import load_prior
from copilot4d_core.model_file import Model, write_tensors

TENSORRT_OPERATORS = frozenset({"Abs", "Add", "ArgMax", "Cast", "Gather", "Gelu", "Greater", "LayerNormalization", "MatMul", "Max", "MaxPool", "Mul",
                                "ReduceMax", "ReduceSum", "Reshape", "Round", "Softmax", "Sub", "Tanh", "Transpose"})
"""What our networks are made of; TensorRT 10.0 to 11 list all of them in their parser's operators.md, up to opset 20."""
CHECK_SEED = 3
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99}
"""Share of the tokens that must be torch's, or else the export fails; one scan scatters, `copilot4d agreement` measures on many."""
LARGEST_ERROR = {"fp32": 1e-3, "fp16": 0.5}
"""Of the decoder's outputs, whose features have a standard deviation of about 1."""


class SelfCheck(NamedTuple):
    """What an export measured of itself, against torch, on one simulated scan."""

    token_agreement: float
    """Share of equal tokens, 0 to 1."""
    closest_difference: float
    """Largest gap between the scores of the two nearest codes among the cells whose token differs; 0 if none does."""
    decoder_error: float
    """Largest absolute difference of features and skip logits."""
    operators: dict[str, int]
    """Nodes by operator, both networks."""
    bytes_by_file: dict[str, int]


def export(model: Model, out: Path, precision: str = "fp32", prior: Path | None = None) -> SelfCheck:
    """Write an export folder after it has checked itself.

    Args:
        model: trained or random weights.
        out: folder that does not exist yet, or an older export, which is replaced as a whole.
        precision: of the Swin trunks, `fp32` or `fp16`.
        prior: the model's prior file, which is copied; None for a model that has none.
    Raises:
        ValueError: another precision, a prior of another model, a folder that is no export, or an export that does not agree with torch.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"--precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if prior is not None:
        load_prior(prior, model.model_id)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        read_export(out)  # refuses what is not an export of ours: it would be deleted
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        write_files(part, model, precision)
        if prior is not None:
            shutil.copyfile(prior, part / IN_EXPORT)
        check = self_check(read_export(part), model)
        _swap(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return check


def write_files(folder: Path, model: Model, precision: str) -> None:
    """Networks, kernel weights and manifest, as they are, into an empty folder."""
    exported = export_model(model, precision)
    (folder / ENCODER).write_bytes(exported.encoder)
    (folder / DECODER).write_bytes(exported.decoder)
    write_tensors(folder / KERNELS, arrays_from(exported.kernels), model.config)
    write_manifest(folder, Manifest(
        model.model_id, model.config, precision, exported.codebook_sha256, _git_commit(), OPSET, networks(model.config),
        {name: sha256_of(folder / name) for name in (ENCODER, DECODER, KERNELS)}))


def _swap(part: Path, out: Path) -> None:
    """Give the new folder its name; engines and cubins that lie in the old one stay, their keys tell whether they still fit."""
    for kept in ("engines", "kernels"):
        if (out / kept).is_dir():
            (out / kept).rename(part / kept)
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)


def self_check(exported: ExportedModel, model: Model) -> SelfCheck:
    """Compare an export with torch on a simulated scan, and its operators with TensorRT's.

    Raises:
        ValueError: the networks are not valid ONNX, hold an operator that TensorRT 10 lacks, or do not agree with torch.
    """
    operators: Counter[str] = Counter()
    for network in (exported.encoder, exported.decoder):
        graph = onnx.load_from_string(network)
        onnx.checker.check_model(graph, full_check=True)
        operators.update(node.op_type for node in graph.graph.node)
    unknown = set(operators) - TENSORRT_OPERATORS
    if unknown:
        raise ValueError(f"export: expected operators of TensorRT 10, got {', '.join(sorted(unknown))}")
    agreement, gap, error = _compare_with_torch(exported, model)
    least, largest = LEAST_AGREEMENT[exported.precision], LARGEST_ERROR[exported.precision]
    if agreement < least or error > largest or (exported.precision == "fp32" and gap > TIE):
        raise ValueError(f"export: expected {least:.1%} of torch's tokens, others only where two codes tie within {TIE:g} (fp32), and a decoder "
                         f"error below {largest:g}; got {agreement:.2%}, a gap of {gap:.2g} and an error of {error:.2g}; nothing was written")
    sizes = {ENCODER: len(exported.encoder), DECODER: len(exported.decoder)}
    return SelfCheck(agreement, gap, error, dict(operators), sizes)


def _compare_with_torch(exported: ExportedModel, model: Model) -> tuple[float, float, float]:
    from copilot4d_core.deploy.torch_reference import TorchReference

    reference, stages = TorchReference(model), CpuStages(exported.kernels, model.config)
    encoder, decoder = open_session(exported.encoder), open_session(exported.decoder)
    patches = stages.patch_map(next(iter(simulate_drive(CHECK_SEED, 1, "hdl64"))).points_m)
    (tokens,) = encoder.run(["tokens"], {"patches": patches})
    expected, gap = reference.tokens(patches)
    outputs = decoder.run(["features", "skip_logits"], {"tokens": expected.astype(np.int32)})
    error = max(float(np.abs(mine - theirs).max()) for mine, theirs in zip(outputs, reference.decoded(expected), strict=True))
    return float((tokens == expected).mean()), float(gap[tokens != expected].max(initial=0.0)), error


def _git_commit() -> str:
    """Commit of this checkout; `unknown` for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        told = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        listed = subprocess.run(["git", "-C", str(here), "ls-files", Path(__file__).name], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip() if listed.stdout.strip() else "unknown"
