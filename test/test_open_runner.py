# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which runner is chosen, and how an export folder becomes a running TensorRT runner (on a simulated device)."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_robot import SimulatedRobot
from test_tensorrt_runner import cloud, some_rays
from tiny_model import half_filled_model

from copilot4d_core.config import QuantizerKind, preset
from copilot4d_core.deploy import open_tensorrt
from copilot4d_core.deploy.engine_file import EngineRefused
from copilot4d_core.deploy.export import export
from copilot4d_core.deploy.onnx_runner import OnnxRunner
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS, choose_runner, open_runner
from copilot4d_core.deploy.tensorrt_runner import TensorrtRunner
from copilot4d_core.model_file import random_model, write_tensors

ARTIFACTS = ("encoder.engine", "decoder.engine")


@pytest.fixture(scope="module")
def export_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robot") / "tiny"
    export(half_filled_model(), out)
    return out


@pytest.fixture
def robot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimulatedRobot:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return SimulatedRobot(monkeypatch.setattr)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in packages else whole(name, *rest))


def without_kernels(folder: Path) -> Path:
    """A model whose quantiser has no kernel."""
    settings = preset("tiny")
    scalars = replace(settings.quantizer, kind=QuantizerKind.FSQ, levels=(4, 4, 4), codebook_size=64, codebook_dim=3)
    model = random_model(replace(settings, quantizer=scalars))
    write_tensors(folder / "fsq.safetensors", model.tensors, model.config)
    return folder / "fsq.safetensors"


def test_auto_takes_the_kernels_where_no_gpu_is_and_says_why() -> None:
    choice = choose_runner(PACKAGED_WEIGHTS)
    assert choice.name == "kernels"
    assert choice.reason.startswith("on the CPU, because ")


def test_auto_takes_onnx_where_a_model_has_no_kernels_then_torch_then_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = without_kernels(tmp_path)
    choice = choose_runner(weights)
    assert choice.name == "onnx"
    assert choice.reason.startswith("expected a quantizer of kind vq or cosine, got fsq, which has no kernel; choose onnx; on the CPU, because ")
    with pytest.raises(ValueError, match="runner kernels: expected a quantizer of kind vq or cosine, got fsq"):
        choose_runner(weights, "kernels")
    without(monkeypatch, "onnxruntime")
    choice = choose_runner(weights)
    assert choice.name == "torch"
    assert "onnxruntime is not installed; `pip install onnxruntime`" in choice.reason
    without(monkeypatch, "onnxruntime", "torch")
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        choose_runner(weights)


@pytest.mark.parametrize(("wanted", "package"), [("onnx", "onnxruntime"), ("torch", "torch")])
def test_a_named_runner_that_cannot_be_had_is_an_error(monkeypatch: pytest.MonkeyPatch, wanted: str, package: str) -> None:
    assert choose_runner(PACKAGED_WEIGHTS, wanted).name == wanted
    without(monkeypatch, package)
    with pytest.raises(ValueError, match=f"runner {wanted}: {package} is not installed; `pip install {package}`"):
        choose_runner(PACKAGED_WEIGHTS, wanted)


def test_tensorrt_without_a_gpu_is_an_error_and_unknown_names_are(export_folder: Path) -> None:
    with pytest.raises(ValueError, match="runner tensorrt: "):
        open_runner(export_folder, "tensorrt")
    with pytest.raises(ValueError, match="expected one of auto, torch, onnx, kernels, tensorrt, got 'cuda'"):
        open_runner(None, "cuda")
    for name in ("torch", "kernels"):
        with pytest.raises(ValueError, match=f"runner {name}: expected a weights file"):
            open_runner(export_folder, name)


def test_int8_is_onnx_runtime_s(robot: SimulatedRobot, export_folder: Path) -> None:
    assert choose_runner(export_folder, "auto", int8=True) == ("onnx", "INT8 was asked for")
    with pytest.raises(ValueError, match="int8: expected runner onnx or auto, got tensorrt"):
        choose_runner(export_folder, "tensorrt", int8=True)


def test_with_a_gpu_auto_takes_tensorrt_for_an_export_and_says_what_a_weights_file_lacks(robot: SimulatedRobot, export_folder: Path) -> None:
    assert choose_runner(export_folder).name == "tensorrt"
    choice = choose_runner(PACKAGED_WEIGHTS)
    assert choice.name == "kernels"
    assert "TensorRT needs a folder of `copilot4d export`" in choice.reason


def test_one_parameter_changes_the_runner_and_not_the_tokens(robot: SimulatedRobot, export_folder: Path, tmp_path: Path) -> None:
    points, rays, told = cloud(500), some_rays(200), []
    with open_runner(export_folder, "onnx") as cpu:
        assert isinstance(cpu, OnnxRunner)
        expected, depth = cpu.encode(points), cpu.decode(cpu.encode(points), rays)
    with open_runner(export_folder, "tensorrt", engines=tmp_path / "engines", tell=told.append) as runner:
        assert isinstance(runner, TensorrtRunner)
        np.testing.assert_array_equal(runner.encode(points), expected)
        np.testing.assert_array_equal(runner.decode(expected, rays).depth_m, depth.depth_m)
    assert told[-1] == "runner tensorrt: as asked"
    assert robot.builds == 2
    robot.device.check()


def open_and_close(folder: Path, engines: Path) -> None:
    with open_runner(folder, "tensorrt", engines=engines):
        pass


def test_the_same_key_is_used_as_it_is_and_another_one_rebuilt(robot: SimulatedRobot, export_folder: Path, tmp_path: Path) -> None:
    open_and_close(export_folder, tmp_path)
    open_and_close(export_folder, tmp_path)
    assert robot.builds == 2  # encoder and decoder, once
    robot.version = "10.4.0"
    open_and_close(export_folder, tmp_path)
    assert robot.builds == 4
    robot.gpu_name = "Thor"
    open_and_close(export_folder, tmp_path)
    assert robot.builds == 6


def damage(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[len(content) // 3] ^= 4
    engine.write_bytes(content)


@pytest.mark.parametrize("harm", [
    damage, lambda engine: engine.write_bytes(engine.read_bytes()[:-1]), lambda engine: engine.with_name(f"{engine.name}.json").unlink()])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_engine_that_is_not_the_one_built_here_never_reaches_tensorrt(
        robot: SimulatedRobot, export_folder: Path, tmp_path: Path, harm: Callable[[Path], object], name: str) -> None:
    open_and_close(export_folder, tmp_path)
    harm(tmp_path / name)
    before = robot.device.trt.deserialized
    with pytest.raises(EngineRefused, match=f"{name}.*delete .* and build again"):
        open_and_close(export_folder, tmp_path)
    assert (robot.device.trt.deserialized, robot.builds) == (before, 2)


def test_engines_of_another_machine_are_refused_although_their_sidecars_are_whole(
        robot: SimulatedRobot, export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_and_close(export_folder, tmp_path / "engines")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(EngineRefused, match="not built here"):
        open_and_close(export_folder, tmp_path / "engines")


def test_cubins_beside_the_networks_are_loaded(robot: SimulatedRobot, export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading needs a GPU (its checks are tested in test_kernel_binaries.py); here: that they are found, and asked for by name."""
    loaded: list[tuple[set[str], Path, str]] = []
    monkeypatch.setattr(open_tensorrt, "load_kernels", lambda kernels, folder, device: loaded.append(({k.key for k in kernels}, folder, device)))
    folder = Path(shutil.copytree(export_folder, tmp_path / "copy"))
    open_and_close(folder, tmp_path / "engines")
    assert not loaded
    (folder / "kernels").mkdir()
    open_and_close(folder, tmp_path / "engines")
    (names, where, device), = loaded
    assert (where, device) == (folder / "kernels", "cpu")
    short = {name.split("__locals__")[-1] for name in names}
    assert {"_key_kernel", "voxel_kernel", "patch_kernel", "_threshold_kernel", "readout", "march"} <= short


def test_an_export_with_other_networks_rebuilds(robot: SimulatedRobot, export_folder: Path, tmp_path: Path) -> None:
    open_and_close(export_folder, tmp_path / "engines")
    model = half_filled_model()
    export(model._replace(tensors=model.tensors | {"encoder.norm.bias": model.tensors["encoder.norm.bias"] + 1}), tmp_path / "other")
    open_and_close(tmp_path / "other", tmp_path / "engines")
    assert robot.builds == 3  # only the encoder is another
