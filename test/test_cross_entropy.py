# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The binary cross-entropy kernel against torch's own in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from copilot4d_core.kernels import cross_entropy as module
from copilot4d_core.kernels import launch
from copilot4d_core.kernels.cross_entropy import cross_entropy
from copilot4d_core.tokenizer.tokenizer_losses import spatial_skip_bce_loss


def expected(logit_N: np.ndarray, truth_N: np.ndarray, positive_weight: float) -> tuple[float, np.ndarray]:
    logit = torch.from_numpy(logit_N).double().requires_grad_()
    total = functional.binary_cross_entropy_with_logits(
        logit, torch.from_numpy(truth_N).double(), pos_weight=torch.tensor(positive_weight, dtype=torch.float64), reduction="sum")
    total.backward()
    assert logit.grad is not None
    return float(total.detach()), logit.grad.numpy()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1024, 1025, module.PART - 1, module.PART, 3 * module.PART + 7])
@pytest.mark.parametrize("positive_weight", [1.0, 20.0])
def test_sum_and_gradient_are_those_of_torch(count: int, positive_weight: float) -> None:
    rng = np.random.default_rng(count)
    logit, truth = rng.normal(-5, 6, count).astype(np.float32), rng.random(count) < 0.1
    result = cross_entropy(logit, truth, positive_weight)
    total, gradient = expected(logit, truth, positive_weight)
    assert result.total == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(result.gradient_N, gradient, atol=1e-6 * positive_weight)


def test_logits_far_from_zero_neither_overflow_nor_vanish() -> None:
    logit = np.array([-1e4, -200, -90, -0.0, 0.0, 90, 200, 1e4] * 16, dtype=np.float32)
    for truth in (np.zeros(128, dtype=bool), np.ones(128, dtype=bool)):
        result = cross_entropy(logit, truth, 2.0)
        total, gradient = expected(logit, truth, 2.0)
        assert result.total == pytest.approx(total, rel=1e-6)
        np.testing.assert_allclose(result.gradient_N, gradient, atol=1e-6)


def test_nothing_costs_nothing() -> None:
    result = cross_entropy(np.zeros(0, dtype=np.float32), np.zeros(0, dtype=bool), 1.0)
    assert (result.total, len(result.gradient_N)) == (0.0, 0)


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_true", [False, True])
def test_what_is_not_finite_makes_the_sum_so(strange: float, is_true: bool) -> None:
    logit = np.zeros(40, dtype=np.float32)
    logit[37] = strange
    result = cross_entropy(logit, np.full(40, is_true), 1.0)
    assert not np.isfinite(result.total)
    assert not np.isfinite(result.gradient_N[37])
    assert np.isfinite(np.delete(result.gradient_N, 37)).all()


@pytest.mark.parametrize("cores", [1, 3])
def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    rng = np.random.default_rng(0)
    logit, truth = rng.normal(size=200_000).astype(np.float32), rng.random(200_000) < 0.1
    first = cross_entropy(logit, truth, 1.0)
    monkeypatch.setattr(launch, "num_cores", lambda: cores)
    again = cross_entropy(logit, truth, 1.0)
    assert again.total == first.total
    assert np.array_equal(again.gradient_N, first.gradient_N)


def test_the_loss_is_the_same_in_float64_where_there_is_no_kernel() -> None:
    torch.manual_seed(0)
    logit, occupied = torch.randn(6, 4, 2, 2, 16), (torch.rand(6, 2, 4, 2, 16) < 0.1).transpose(1, 2)
    sides = []
    for source in (logit.clone().requires_grad_(), logit.double().requires_grad_()):
        loss = spatial_skip_bce_loss(source, occupied, 3.0)
        (5.0 * loss).backward()
        assert source.grad is not None
        sides.append((loss.item(), source.grad.double()))
    assert sides[0][0] == pytest.approx(sides[1][0], rel=1e-6)
    assert torch.allclose(sides[0][1], sides[1][1], atol=1e-8)
