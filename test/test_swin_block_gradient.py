# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The kernels of a Swin block in training against torch's own operations and automatic gradients."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from copilot4d_core.config import preset
from copilot4d_core.kernels import launch
from copilot4d_core.tokenizer.swin_transformer import SwinBlock
from copilot4d_core.tokenizer.tokenizer import Tokenizer

CASES = [(16, 2, 2.0, (16, 16), 0), (32, 4, 3.0, (16, 24), 4), (48, 3, 2.0, (32, 32), 4), (32, 1, 1.0, (8, 16), 4), (32, 2, 0.5, (40, 8), 0)]
"""Channels, heads, MLP ratio, map, shift; channels of a head are 8, 16 and 32, and one map is a single window high."""


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def block(case: tuple[int, int, float, tuple[int, int], int]) -> SwinBlock:
    """A block whose every weight matters."""
    dim, heads, mlp_ratio, shape_HW, shift = case
    made = SwinBlock(dim, heads, 8, shift, mlp_ratio, shape_HW)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def gradients(made: SwinBlock, map_HWC: Tensor, gradient_HWC: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    source = map_HWC.clone().requires_grad_()
    out = made(source)
    made.zero_grad()
    out.backward(gradient_HWC)
    assert source.grad is not None
    yield "output", out.detach().numpy()
    yield "map", source.grad.numpy()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        yield name, parameter.grad.numpy().copy()


@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_those_of_torch(case: tuple[int, int, float, tuple[int, int], int]) -> None:
    made = block(case)
    map_HWC, gradient_HWC = torch.randn(*case[3], case[0]), torch.randn(*case[3], case[0])
    assert made._has_kernels(map_HWC)
    ours = dict(gradients(made, map_HWC, gradient_HWC))
    made.trains_in_kernels = False
    torchs = dict(gradients(made, map_HWC, gradient_HWC))
    assert len(ours) == 15
    for name, theirs in torchs.items():
        np.testing.assert_allclose(ours[name], theirs, atol=2e-5 * np.abs(theirs).max(), rtol=0, err_msg=name)


def test_gradients_follow_finite_differences() -> None:
    case = CASES[1]
    made = block(case)
    map_HWC, gradient_HWC = torch.randn(*case[3], case[0]), torch.randn(*case[3], case[0])
    ours = dict(gradients(made, map_HWC, gradient_HWC))
    made.trains_in_kernels = False
    exact = made.double()
    for name, parameter in exact.named_parameters():
        along = torch.randn_like(parameter)
        with torch.no_grad():
            sides = []
            for step in (1e-5, -1e-5):
                parameter.add_(along, alpha=step)
                sides.append((exact(map_HWC.double()) * gradient_HWC).sum())
                parameter.sub_(along, alpha=step)
        slope = float(sides[0] - sides[1]) / 2e-5
        assert (ours[name] * along.numpy()).sum() == pytest.approx(slope, rel=1e-3, abs=1e-4 * float(np.linalg.norm(ours[name]))), name


@pytest.mark.parametrize("cores", [1, 3])
def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    made = block(CASES[1])
    map_HWC, gradient_HWC = torch.randn(16, 24, 32), torch.randn(16, 24, 32)
    first = dict(gradients(made, map_HWC, gradient_HWC))
    monkeypatch.setattr(launch, "num_cores", lambda: cores)
    for name, again in gradients(made, map_HWC, gradient_HWC):
        assert np.array_equal(first[name], again), name


@pytest.mark.parametrize("factor", [20.0, 100.0])
def test_saturated_attention_and_gelu_keep_finite_gradients(factor: float) -> None:
    made = block(CASES[0])
    with torch.no_grad():
        made.mlp[0].weight.mul_(factor)
        made.qkv.weight.mul_(factor)
    map_HWC, gradient_HWC = torch.randn(16, 16, 16), torch.randn(16, 16, 16)
    ours = dict(gradients(made, map_HWC, gradient_HWC))
    made.trains_in_kernels = False
    for name, theirs in gradients(made, map_HWC, gradient_HWC):
        np.testing.assert_allclose(ours[name], theirs, atol=2e-3 * np.abs(theirs).max(), rtol=0, err_msg=name)


def test_numbers_that_are_not_finite_come_out_as_such() -> None:
    made = block(CASES[0])
    map_HWC = torch.randn(16, 16, 16)
    map_HWC[3, 5, 7] = torch.nan
    ours = dict(gradients(made, map_HWC, torch.ones(16, 16, 16)))
    assert np.isnan(ours["output"][3, 5]).all()
    assert np.isnan(ours["map"][3, 5]).any()


def test_nothing_but_float32_in_training_on_a_cpu_takes_the_kernels() -> None:
    made = block(CASES[0])
    map_HWC = torch.randn(16, 16, 16)
    assert made._has_kernels(map_HWC)
    assert not made.eval()._has_kernels(map_HWC)
    assert not made.train()._has_kernels(map_HWC.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not made._has_kernels(map_HWC)
    assert not SwinBlock(24, 2, 8, 0, 2.0, (16, 16))._has_kernels(torch.zeros(16, 16, 24)), "24 channels are no multiple of 16"
    made.trains_in_kernels = False
    assert not made._has_kernels(map_HWC)


@pytest.mark.parametrize("name", ["tiny", "mini", "paper"])
def test_every_preset_trains_in_kernels(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        blocks = [module for module in Tokenizer(config).modules() if isinstance(module, SwinBlock)]
    assert blocks
    assert all(made._has_kernels(torch.zeros(8, 8, made.shape.dim)) for made in blocks)
