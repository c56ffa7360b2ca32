# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Muon against the singular value decomposition, and the two optimisers as one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from copilot4d_core.config import OptimizerKind, preset
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.training.optimizer import Muon, MuonAndAdamW, optimizer_for, orthogonalized, trunk_matrices


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(48, 144), (96, 48), (32, 32), (1, 5)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_singular_values_become_alike_and_vectors_stay(shape: tuple[int, int], size: float) -> None:
    matrix = size * torch.randn(shape, dtype=torch.float32)
    result = orthogonalized(matrix)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ result @ right.T  # diagonal where the singular vectors are those of the matrix
    kept = values > 0.02 * values[0]
    diagonal = inside.diagonal()[kept]
    assert ((diagonal > 0.3) & (diagonal < 1.3)).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3


def test_nothing_stays_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_a_step_by_hand() -> None:
    # A multiple of a matrix with orthonormal rows has equal singular values: of 1 / sqrt(2) each after the division by its norm. Five
    # Newton-Schulz steps of that one number give the factor of the rows.
    value = 2**-0.5
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    parameter = nn.Parameter(torch.ones(2, 4))
    parameter.grad = 3.0 * torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    # Weight decay first: 1 - 0.1 * 0.5; then 0.1 * 0.2 * sqrt(4) along the orthogonal matrix.
    expected = 0.95 - 0.1 * 0.2 * 2.0 * value * parameter.grad / 3.0
    assert torch.allclose(parameter, expected, atol=1e-6)


def test_momentum_remembers() -> None:
    parameter = nn.Parameter(torch.zeros(2, 2))
    muon = Muon([parameter], lr=1.0, weight_decay=0.0)
    parameter.grad = torch.eye(2)
    muon.step()
    first = parameter.detach().clone()
    parameter.grad = torch.zeros(2, 2)
    muon.step()
    assert (parameter - first).diagonal().max() < -0.1, "it goes on where the gradient has ended"
    parameter.grad = None
    before = parameter.detach().clone()
    muon.step()
    assert torch.equal(parameter, before), "what has no gradient stays"


def test_the_trunks_go_to_muon_and_every_parameter_to_one_of_both() -> None:
    model = Tokenizer(preset("tiny"))
    settings = dataclasses.replace(preset("tiny").training, optimizer=OptimizerKind.MUON)
    optimizer = optimizer_for(model, settings)
    assert isinstance(optimizer, MuonAndAdamW)
    listed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices = {names[id(matrix)] for matrix in trunk_matrices(model)}
    assert {"encoder.stage1.0.qkv.weight", "encoder.merge.weight", "decoder.stage2.1.mlp.2.weight", "decoder.upsample.weight"} <= matrices
    assert all(name.startswith(("encoder.", "decoder.")) and name.endswith("weight") and "norm" not in name for name in matrices)
    assert [id(parameter) for parameter in optimizer.param_groups[0]["params"]] == [id(matrix) for matrix in trunk_matrices(model)]


def test_both_as_one_are_each_on_its_own() -> None:
    settings = dataclasses.replace(preset("tiny").training, optimizer=OptimizerKind.MUON, learning_rate=0.01)
    torch.manual_seed(1)
    together = Tokenizer(preset("tiny"))
    torch.manual_seed(1)
    apart = Tokenizer(preset("tiny"))
    both = optimizer_for(together, settings)
    muon = Muon(trunk_matrices(apart), 0.01, settings.weight_decay)
    adamw = optimizer_for(apart, dataclasses.replace(settings, optimizer=OptimizerKind.ADAMW))
    chosen = {id(matrix) for matrix in trunk_matrices(apart)}
    for _ in range(2):
        for parameter, other in zip(together.parameters(), apart.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        both.step()
        muon.step()
        for parameter in apart.parameters():
            if id(parameter) in chosen:
                parameter.grad = None
        adamw.step()
    assert len(both.state) == sum(1 for _ in together.parameters())
    for (name, parameter), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_the_rate_that_a_run_sets_reaches_both() -> None:
    model = Tokenizer(preset("tiny"))
    optimizer = optimizer_for(model, dataclasses.replace(preset("tiny").training, optimizer=OptimizerKind.MUON, weight_decay=0.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(parameter, other) for parameter, other in zip(model.parameters(), before, strict=True))
