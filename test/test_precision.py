# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Training in bfloat16: the Swin trunks alone, and nearly the same loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from copilot4d_core.config import preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.model_file import read_tensors
from copilot4d_core.training.examples import Example, Examples
from copilot4d_core.training.train import train
from copilot4d_core.training.training_module import TrainingModule

TINY = preset("tiny")
CONFIG = dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, learning_rate=3e-3, steps=2, codebook_start_step=10))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "bag"
    write_cloud_bag(path, "/points", simulate_drive(3, 2, "vlp16"))
    return path


@pytest.fixture(scope="module")
def example(drive: Path) -> Example:
    return Examples(CONFIG, [drive], None)[0]


def module_of(bf16: bool) -> TrainingModule:
    torch.manual_seed(0)
    return TrainingModule(CONFIG, bf16)


def test_only_the_swin_trunks_multiply_in_bf16(example: Example) -> None:
    module = module_of(bf16=True)
    made: dict[str, torch.dtype] = {}
    taken: dict[str, torch.dtype] = {}

    def watch(name: str) -> object:
        def look(_: nn.Module, arguments: tuple[object, ...], result: object) -> None:
            tensors = [value for value in arguments if isinstance(value, Tensor) and value.is_floating_point()]
            if tensors and isinstance(result, Tensor):
                taken[name], made[name] = tensors[0].dtype, result.dtype
        return look

    for name, part in module.tokenizer.named_modules():
        part.register_forward_hook(watch(name))  # type: ignore[arg-type]
    quantizer_took: list[torch.dtype] = []
    module.tokenizer.quantizer.register_forward_pre_hook(lambda _, arguments: quantizer_took.append(arguments[0].dtype))
    losses, = module.losses([example])
    losses.total.backward()
    linear = {name: made[name] for name, part in module.tokenizer.named_modules() if isinstance(part, nn.Linear) and name in made}
    trunk = {name for name in linear if name.startswith(("encoder.", "decoder."))}
    assert len(trunk) > 30 and {linear[name] for name in trunk} == {torch.bfloat16}
    others = set(linear) - trunk
    assert {"voxel_encoder.mlp.0", "bev_pooling.mlp.0", "pre_quantizer.2", "feature_grid.mlp.0", "spatial_skip.linear"} <= others
    for name in [*others, "voxel_encoder", "bev_pooling", "patch_embedding", "pre_quantizer", "spatial_skip"]:
        assert (taken[name], made[name]) == (torch.float32, torch.float32), name
    assert quantizer_took == [torch.float32] and {term.dtype for term in losses} == {torch.float32}
    assert {parameter.dtype for parameter in module.tokenizer.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in module.tokenizer.parameters() if parameter.grad is not None} == {torch.float32}
    assert module.tokenizer.quantizer.codebook.dtype == module.tokenizer.quantizer.bank.dtype == torch.float32


def test_the_loss_falls_in_bf16_as_in_fp32(example: Example) -> None:
    curves = []
    for bf16 in (False, True):
        module, curve = module_of(bf16), []
        for _ in range(30):
            losses, = module.losses([example])
            module.optimizer.zero_grad()
            losses.total.backward()
            torch.nn.utils.clip_grad_norm_(module.tokenizer.parameters(), 1.0)
            module.optimizer.step()
            curve.append(losses.total.item())
        curves.append(np.array(curve))
    fp32, bf16_curve = curves
    assert not np.array_equal(fp32, bf16_curve)
    assert bf16_curve[-1] < 0.75 * bf16_curve[0]
    # A bfloat16 has 8 bits, so each number is wrong by up to 0.4 %; the loss drifts apart by less than a few times that.
    assert np.abs(bf16_curve / fp32 - 1).max() < 0.02


def test_outside_training_the_model_is_that_of_fp32(example: Example) -> None:
    one, other = (module_of(bf16).tokenizer.eval() for bf16 in (False, True))
    assert torch.equal(one.tokenize(example.points_m), other.tokenize(example.points_m))
    assert other.decode(other.look_up(other.tokenize(example.points_m))).feature_HWC.dtype == torch.float32


def test_a_run_keeps_its_precision(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("copilot4d_core.training.train.CALIBRATION_SCANS", 2)
    train(CONFIG, [drive], tmp_path / "run", bf16=True)
    assert read_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["precision"] == "bf16"
    with pytest.raises(ValueError, match="started with --precision bf16, got fp32"):
        train(CONFIG, [drive], tmp_path / "run", resume=True)
