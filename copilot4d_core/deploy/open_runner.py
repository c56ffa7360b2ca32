# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Chooses and opens the runner; the only place that knows all of them.

What goes in: a weights file or an export folder, and a wish. What comes out: a runner, and one line that says why this one.
Unusual: `auto` never fails for want of a GPU; a runner that was asked for by name is given or refused, never replaced.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from copilot4d_core.deploy.runner import Runner
from copilot4d_core.deploy.token_prior import prior_of
from copilot4d_core.model_file import read_model

PACKAGED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "mini.safetensors"
RUNNERS = ("auto", "torch", "onnx", "kernels", "tensorrt")
INSTALL = {"torch": "`pip install torch`", "onnx": "`pip install onnxruntime`"}


class Choice(NamedTuple):
    """A runner and why it was chosen."""

    name: str
    reason: str


def choose_runner(model: Path, wanted: str = "auto", int8: bool = False) -> Choice:
    """Which runner a model gets on this machine.

    Args:
        model: weights file or export folder.
        wanted: one of `RUNNERS`.
        int8: the INT8 option, which ONNX Runtime alone has.
    Raises:
        ValueError: unknown name, a runner by name that cannot be had here, or a weights file that cannot be read.
    """
    if wanted not in RUNNERS:
        raise ValueError(f"runner: expected one of {', '.join(RUNNERS)}, got {wanted!r}")
    if int8 and wanted not in ("auto", "onnx"):
        raise ValueError(f"int8: expected runner onnx or auto, got {wanted}; leave int8 out or choose onnx")
    if wanted == "auto":
        return _best(model, int8)
    obstacle = _obstacle(wanted, model)
    if obstacle:
        raise ValueError(f"runner {wanted}: {obstacle}")
    return Choice(wanted, "as asked")


def _best(model: Path, int8: bool) -> Choice:
    if int8:
        no_gpu = "INT8 was asked for"
    else:
        no_gpu = _obstacle("tensorrt", model)
        if not no_gpu:
            return Choice("tensorrt", "there is a GPU, and all that it needs")
    no_kernels = "ONNX Runtime has INT8" if int8 else _obstacle("kernels", model)
    if not no_kernels:
        return Choice("kernels", f"on the CPU, because {no_gpu}")
    if not _obstacle("onnx", model):
        return Choice("onnx", no_gpu if int8 else f"{no_kernels}; on the CPU, because {no_gpu}")
    if not int8 and not _obstacle("torch", model):
        return Choice("torch", f"{_obstacle('onnx', model)}; no GPU, because {no_gpu}")
    raise ValueError(f"runner: {_obstacle('onnx', model)}")


def _obstacle(name: str, model: Path) -> str:
    """Why a runner cannot be had; empty if it can."""
    if name == "tensorrt":
        from copilot4d_core.deploy.open_tensorrt import obstacle

        return obstacle(model)
    if name in ("torch", "kernels") and model.is_dir():
        return f"expected a weights file (.safetensors), {model} is a folder of ONNX networks; name the weights, or choose onnx"
    if name == "kernels":
        from copilot4d_core.deploy.kernel_networks import obstacle as misfit

        return misfit(read_model(model))
    package = {"torch": "torch", "onnx": "onnxruntime"}[name]
    return "" if importlib.util.find_spec(package) else f"{package} is not installed; {INSTALL[name]}"


def open_runner(model: Path | None = None, runner: str = "auto", int8: bool = False, engines: Path | None = None,
                tell: Callable[[str], None] | None = None) -> Runner:
    """Runner of a model.

    Args:
        model: weights file, or folder of `copilot4d export`; None takes the weights that come with the package.
        runner: one of `RUNNERS`.
        int8: eight-bit layers in ONNX Runtime.
        engines: folder of the TensorRT engines; None: `engines` in the export folder.
        tell: takes the one line that says which runner was chosen and why.
    Raises:
        ValueError: the model is missing or not of this version, its prior is damaged or another model's, or the runner cannot be had here.
        OSError: the GPU or TensorRT failed.
    """
    path = PACKAGED_WEIGHTS if model is None else model
    choice = choose_runner(path, runner, int8)
    prior = prior_of(path)
    result = _open(path, choice.name, int8, engines, tell)
    result.prior = prior
    if tell is not None:
        tell(f"runner {choice.name}{' int8' if int8 else ''}: {choice.reason}")
    return result


def _open(path: Path, name: str, int8: bool, engines: Path | None, tell: Callable[[str], None] | None) -> Runner:
    if name == "tensorrt":
        from copilot4d_core.deploy.open_tensorrt import open_tensorrt

        return open_tensorrt(path, engines, tell)
    if name == "torch":
        from copilot4d_core.deploy.torch_runner import torch_runner

        return torch_runner(path)
    if name == "kernels":
        from copilot4d_core.deploy.kernel_runner import kernel_runner

        return kernel_runner(path)
    from copilot4d_core.deploy.exported_model import open_model
    from copilot4d_core.deploy.onnx_runner import OnnxRunner

    return OnnxRunner(open_model(path), int8)
