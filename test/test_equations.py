# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Equations worked by hand: rendering, quantiser, losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference import render_equation_4

from copilot4d_core.config import CodebookUpdate, LossConfig, QuantizerConfig, Reduction
from copilot4d_core.kernels.volume_rendering import render_weights
from copilot4d_core.tokenizer.neural_feature_grid import _RenderWeights
from copilot4d_core.tokenizer.tokenizer_losses import (
    l1_depth_loss,
    opacity_loss,
    spatial_skip_bce_loss,
    surface_concentration_loss,
    surface_likelihood_loss,
    tokenizer_total_loss,
)
from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer, k_means, nearest_code


def logit(alpha: float) -> float:
    return math.log(alpha / (1 - alpha))


def marks(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All cells occupied, none of them blank."""
    return torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)


def quantizer(codebook: list[list[float]], **settings: object) -> VectorQuantizer:
    size, dim = len(codebook), len(codebook[0])
    result = VectorQuantizer(QuantizerConfig(codebook_size=size, codebook_dim=dim, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        result.codebook.copy_(torch.tensor(codebook))
        result.code_sum.copy_(result.codebook)
    return result


def test_dust_then_wall_gives_the_weights_of_the_worked_example() -> None:
    # alpha = 0.3 at 10 m (dust), 0 at 11 m, 0.9 at 15 m (wall): w = 0.3, 0, 0.7 * 0.9 = 0.63; their sum is 0.93.
    logits = np.array([[logit(0.3), -200.0, logit(0.9)]], dtype=np.float32)
    weights = render_weights(logits, np.array([3], dtype=np.int32))[0]
    assert weights == pytest.approx([0.3, 0.0, 0.63], abs=1e-6)
    assert weights.sum() == pytest.approx(0.93, abs=1e-6)
    assert float(weights @ [10.0, 11.0, 15.0]) == pytest.approx(12.45, abs=1e-5)


def test_weights_equal_the_plain_product_and_sum_to_at_most_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 30, generator=generator) * 4
    counts = torch.randint(0, 31, (200,), generator=generator, dtype=torch.int32)
    valid = torch.arange(30) < counts[:, None]
    plain = render_equation_4(logits.double(), torch.ones(200, 30).double(), valid)
    fast = render_weights(logits.numpy(), counts.numpy())
    assert np.abs(fast - plain.weights.numpy()).max() < 1e-6
    assert (fast >= 0).all() and fast.sum(axis=1).max() <= 1 + 1e-6


def test_one_opaque_sample_takes_all_the_weight() -> None:
    weights = render_weights(np.array([[-80.0, 80.0, 80.0]], dtype=np.float32), np.array([3], dtype=np.int32))[0]
    assert weights == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("value", [-80.0, 80.0])
def test_gradients_stay_finite_at_saturated_logits(value: float) -> None:
    logits = torch.full((2, 5), value, requires_grad=True)
    _RenderWeights.apply(logits, torch.tensor([5, 3], dtype=torch.int32)).square().sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_rendering_backward_passes_gradcheck() -> None:
    logits = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    counts = torch.tensor([6, 3, 0, 1], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda x: _RenderWeights.apply(x, counts), (logits,))


def test_nearest_code_of_a_two_by_two_codebook() -> None:
    # Distances of (0.9, 0.2): to (1, 0) 0.01 + 0.04, to (0, 1) 0.81 + 0.64.
    tokens = nearest_code(torch.tensor([[0.9, 0.2], [0.1, 0.7]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert tokens.tolist() == [0, 1]


def test_nearest_code_equals_the_direct_distance() -> None:
    generator = torch.Generator().manual_seed(2)
    latent, codebook = torch.randn(500, 16, generator=generator), torch.randn(40, 16, generator=generator)
    direct = (latent[:, None].double() - codebook[None].double()).square().sum(dim=2).argmin(dim=1)
    assert torch.equal(nearest_code(latent, codebook), direct)


def test_moving_average_step_by_hand_and_an_unused_code_does_not_move() -> None:
    # Code 0 gets (1, 1) and (3, 1): count 2, sum (4, 2). With decay 0.5: size 0.5 * 1 + 0.5 * 2 = 1.5,
    # sum 0.5 * (0, 0) + 0.5 * (4, 2) = (2, 1), code (2, 1) / 1.5.
    layer = quantizer([[0.0, 0.0], [10.0, 10.0]], decay=0.5, laplace_eps=1e-9)
    layer.train()
    layer(torch.tensor([[1.0, 1.0], [3.0, 1.0]]), *marks(2))
    assert layer.codebook[0].tolist() == pytest.approx([2 / 1.5, 1 / 1.5], abs=1e-6)
    assert layer.codebook[1].tolist() == [10.0, 10.0]


def test_commitment_and_straight_through_gradient() -> None:
    # latent (0.5, 0) to code (0, 0): mean square 0.25 / 2; its gradient 2 * 0.5 / 2 = 0.5 on x.
    layer = quantizer([[0.0, 0.0], [5.0, 5.0]])
    layer.train()
    latent = torch.tensor([[0.5, 0.0]], requires_grad=True)
    result = layer(latent, *marks(1))
    assert result.code_ND.detach().tolist() == [[0.0, 0.0]]
    assert result.loss.item() == pytest.approx(0.125)
    gradient, = torch.autograd.grad(result.code_ND.sum(), latent, retain_graph=True)
    assert gradient.tolist() == [[1.0, 1.0]]
    commitment, = torch.autograd.grad(result.loss, latent)
    assert commitment.tolist() == [[0.5, 0.0]]


def test_gradient_codebook_weights_and_sum_reduction() -> None:
    # |z - e|^2 = 4 as a sum: 0.25 * 4 + 1.0 * 4 = 5; the codebook gets 0.25 * 2 * (e - z) = 0.25 * 2 * -2 = -1.
    layer = quantizer([[0.0, 0.0], [50.0, 50.0]], update=CodebookUpdate.GRADIENT, reduction=Reduction.SUM)
    layer.train()
    result = layer(torch.tensor([[2.0, 0.0]]), *marks(1))
    assert result.loss.item() == pytest.approx(5.0)
    result.loss.backward()
    assert layer.codebook.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_dead_codes_bring_a_new_codebook_by_the_rule() -> None:
    settings = QuantizerConfig(codebook_size=4, codebook_dim=2, dead_after_steps=5, reinit_interval_steps=8, dead_share=0.3, bank_size_factor=20)
    layer = VectorQuantizer(settings)
    with torch.no_grad():
        layer.codebook.copy_(torch.tensor([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [90.0, 90.0]]))
    layer.train()
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).repeat(4, 1)
    for _ in range(8):
        layer(corners, *marks(16))
    assert int(layer.last_reinit) == 8, "three of four codes are dead after 5 steps, but 8 steps must pass first"
    assert sorted(layer.codebook.round().tolist()) == [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]


def test_half_of_the_bank_comes_from_occupied_cells() -> None:
    layer = VectorQuantizer(QuantizerConfig(codebook_size=10, codebook_dim=1, bank_size_factor=100))
    layer.train()
    latent = torch.cat([torch.zeros(950, 1), torch.ones(50, 1)])
    for _ in range(80):
        layer(latent, latent[:, 0] > 0.5, marks(len(latent))[1])
    share = layer.bank.mean().item()
    # Half by choice, and 5 % of the other half by chance.
    assert share == pytest.approx(0.525, abs=0.05)


def test_k_means_finds_separate_clusters() -> None:
    generator = torch.Generator().manual_seed(3)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    vectors = centres.repeat_interleave(50, dim=0) + 0.1 * torch.randn(150, 2, generator=generator)
    found = k_means(vectors, 3, 10, generator)
    assert torch.cdist(centres, found).min(dim=1).values.max() < 0.1


def test_evaluation_returns_the_code_itself() -> None:
    layer = quantizer([[0.1, 0.2], [0.7, 0.3]]).eval()
    result = layer(torch.tensor([[0.11, 0.19]]), *marks(1))
    assert torch.equal(result.code_ND, layer.codebook[result.token_N])


def test_loss_terms_by_hand() -> None:
    weights = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    distance = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    truth = torch.tensor([2.0, 3.0])
    assert l1_depth_loss(torch.tensor([1.5, 2.6]), truth).item() == pytest.approx((0.5 + 0.4) / 2)
    # Far samples: the first of each ray; squares 0.25 and 0.04, summed per ray, mean over rays.
    assert surface_concentration_loss(weights, distance, truth, 0.4).item() == pytest.approx((0.25 + 0.04) / 2)
    assert surface_concentration_loss(weights, distance, truth, 1.0).item() == pytest.approx(0.04 / 2)
    # Within 0.4 m of the surface lie weights of 0.5 and 0.8, within 1 m 1.0 and 0.8.
    assert surface_likelihood_loss(weights, distance, truth, 0.4).item() == pytest.approx(-(math.log(0.51) + math.log(0.81)) / 2)
    assert surface_likelihood_loss(weights, distance, truth, 1.0).item() == pytest.approx(-(math.log(1.01) + math.log(0.81)) / 2)
    assert surface_likelihood_loss(weights, distance, truth + 9, 0.4).item() == pytest.approx(-math.log(0.01))
    assert spatial_skip_bce_loss(torch.zeros(2), torch.tensor([True, False])).item() == pytest.approx(math.log(2))
    assert spatial_skip_bce_loss(torch.zeros(2), torch.tensor([True, False]), 3.0).item() == pytest.approx(2 * math.log(2))
    assert opacity_loss(torch.tensor([0.5, 0.25]), torch.tensor([True, False])).item() == pytest.approx((math.log(2) - math.log(0.75)) / 2)


def test_total_is_the_weighted_sum_and_leaves_empty_beams_out_of_the_depth() -> None:
    settings = LossConfig(depth_weight=2.0, concentration_weight=3.0, skip_weight=5.0, vq_weight=7.0, opacity_weight=11.0, likelihood_weight=13.0)
    weights = torch.tensor([[0.5, 0.5], [0.5, 0.0]])
    losses = tokenizer_total_loss(settings, torch.tensor([1.5, 0.5]), weights, torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([2.0, 0.0]),
                                  torch.tensor([True, False]), torch.zeros(3), torch.tensor([True, False, False]), torch.tensor(0.5))
    assert losses.depth_l1.item() == pytest.approx(0.5)
    assert losses.surface_concentration.item() == pytest.approx(0.25)
    expected = 2 * 0.5 + 3 * 0.25 + 5 * math.log(2) + 7 * 0.5 + 11 * losses.opacity.item() - 13 * math.log(0.51)
    assert losses.total.item() == pytest.approx(expected)
