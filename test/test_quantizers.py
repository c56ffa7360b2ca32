# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The quantisers beside the paper's, and the rotation trick: values worked by hand, and those of vector-quantize-pytorch 1.31."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from copilot4d_core.code_table import code_table, codebook_shapes
from copilot4d_core.config import CodebookUpdate, Config, Estimator, QuantizerConfig, QuantizerKind, preset
from copilot4d_core.tokenizer.choose_quantizer import choose_quantizer
from copilot4d_core.tokenizer.cosine_quantizer import CosineQuantizer
from copilot4d_core.tokenizer.finite_scalar_quantizer import FiniteScalarQuantizer
from copilot4d_core.tokenizer.gradient_estimators import rotated, straight_through
from copilot4d_core.tokenizer.quantizer import Quantizer
from copilot4d_core.tokenizer.residual_quantizer import FINE_AFTER_STEPS, ResidualQuantizer
from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer

SETTINGS: dict[str, dict[str, Any]] = {
    "vq": {"codebook_size": 24, "codebook_dim": 4},
    "cosine": {"kind": QuantizerKind.COSINE, "codebook_size": 24, "codebook_dim": 4},
    "cosine gradient": {"kind": QuantizerKind.COSINE, "codebook_size": 24, "codebook_dim": 4, "update": CodebookUpdate.GRADIENT},
    "fsq": {"kind": QuantizerKind.FSQ, "levels": (4, 3, 3), "codebook_size": 36, "codebook_dim": 3},
    "residual": {"kind": QuantizerKind.RESIDUAL, "levels": (6, 4), "codebook_size": 24, "codebook_dim": 4},
}


def everywhere(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All cells occupied, none of them blank."""
    return torch.ones(len(latent), dtype=torch.bool), torch.zeros(len(latent), dtype=torch.bool)


def made(name: str, start_step: int = 0) -> Quantizer:
    config = dataclasses.replace(preset("tiny"), quantizer=QuantizerConfig(**SETTINGS[name]))
    return choose_quantizer(dataclasses.replace(config, training=dataclasses.replace(config.training, codebook_start_step=start_step)))


def test_rotation_by_hand() -> None:
    # (1, 0) to (0, 2): a quarter turn to the left and twice the length; its transpose turns gradients to the right.
    latent, code = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 2.0]])
    passed = rotated(latent, code)
    assert passed.detach().tolist() == [[0.0, 2.0]]
    for gradient, expected in (([1.0, 0.0], [0.0, -2.0]), ([0.0, 1.0], [2.0, 0.0])):
        found, = torch.autograd.grad(passed, latent, torch.tensor([gradient]), retain_graph=True)
        assert found[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_rotation_is_a_rotation_times_the_ratio_of_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        latent, code = (torch.randn(1, 6, generator=generator, dtype=torch.float64) for _ in range(2))
        matrix = jacobian(lambda x, code=code: rotated(x, code)[0], latent)[:, 0]
        ratio = code.norm() / latent.norm()
        assert torch.allclose(matrix @ matrix.T, ratio**2 * torch.eye(6, dtype=torch.float64))
        assert torch.det(matrix / ratio).item() == pytest.approx(1.0)
        assert torch.allclose(matrix @ latent[0], code[0])
        # Only the plane of the two turns: what is perpendicular to both keeps its direction.
        other = torch.linalg.svd(torch.cat([latent, code]), full_matrices=True).Vh[2]
        assert torch.allclose(matrix @ other, ratio * other)


@pytest.mark.parametrize(("latent", "code"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_a_vector_without_a_direction_keeps_the_straight_gradient(latent: list[float], code: list[float]) -> None:
    x = torch.tensor([latent], requires_grad=True)
    for estimate in (rotated, straight_through):
        found, = torch.autograd.grad(estimate(x, torch.tensor([code])), x, torch.tensor([[3.0, 5.0]]))
        assert found.tolist() == [[3.0, 5.0]]


def test_the_estimator_of_the_settings_is_used() -> None:
    layer = VectorQuantizer(QuantizerConfig(codebook_size=2, codebook_dim=2, estimator=Estimator.ROTATION, commitment_weight=0.0))
    layer.codebook.copy_(torch.tensor([[0.0, 2.0], [-9.0, -9.0]]))
    latent = torch.tensor([[1.0, 0.0]], requires_grad=True)
    result = layer.train()(latent, *everywhere(latent))
    found, = torch.autograd.grad(result.code_ND, latent, torch.tensor([[1.0, 0.0]]))
    assert found[0].tolist() == pytest.approx([0.0, -2.0], abs=1e-6)


def test_cosine_chooses_the_nearest_direction_and_codes_have_length_1() -> None:
    # From (1, 0.2) the code (0.5, 0.8) is nearer, but (20, 1) lies in a more similar direction.
    layer = CosineQuantizer(QuantizerConfig(kind=QuantizerKind.COSINE, codebook_size=2, codebook_dim=2)).eval()
    layer.codebook.copy_(torch.tensor([[0.5, 0.8], [20.0, 1.0]]))
    for length in (0.01, 1.0, 100.0):
        result = layer(length * torch.tensor([[1.0, 0.2]]), *everywhere(torch.zeros(1)))
        assert result.token_N.tolist() == [1]
        assert result.code_ND[0].tolist() == pytest.approx([20 / math.sqrt(401), 1 / math.sqrt(401)])


def test_cosine_moves_a_code_to_the_mean_direction() -> None:
    # Directions (1, 0) and (0, 1) of latents of length 3 and 5, decay 0.5 from code (1, 0): sum 0.5 (1, 0) + 0.5 (1, 1) = (1, 0.5).
    layer = CosineQuantizer(QuantizerConfig(kind=QuantizerKind.COSINE, codebook_size=2, codebook_dim=2, decay=0.5))
    layer.codebook.copy_(torch.tensor([[1.0, 0.0], [-1.0, -1.0]]))
    layer.code_sum.copy_(layer.codebook)
    latent = torch.tensor([[3.0, 0.0], [0.0, 5.0]])
    result = layer.train()(latent, *everywhere(latent))
    assert result.token_N.tolist() == [0, 0]
    assert layer.codes()[0].tolist() == pytest.approx([1 / math.sqrt(1.25), 0.5 / math.sqrt(1.25)])
    # |(1, 0) - (1, 0)|^2 = 0 and |(0, 1) - (1, 0)|^2 = 2: mean over two channels and two cells.
    assert result.loss.item() == pytest.approx(0.5)


def scalars(levels: tuple[int, ...], start_step: int = 0) -> FiniteScalarQuantizer:
    settings = QuantizerConfig(kind=QuantizerKind.FSQ, levels=levels, codebook_size=math.prod(levels), codebook_dim=len(levels))
    return FiniteScalarQuantizer(settings, start_step)


def test_scalars_by_hand_with_odd_and_even_levels() -> None:
    # Levels 3 take -1, 0, 1; levels 4 take -2, -1, 0, 1, as channels of a code divided by 1 and 2. Digits count from 0; the second counts 3.
    layer = scalars((3, 4)).eval()
    result = layer(torch.tensor([[0.0, 0.0], [9.0, 9.0], [-9.0, -9.0], [9.0, -9.0]]), *everywhere(torch.zeros(4)))
    assert result.token_N.tolist() == [1 + 3 * 2, 2 + 3 * 3, 0, 2]
    assert result.code_ND.tolist() == [[0.0, 0.0], [1.0, 0.5], [-1.0, -1.0], [1.0, -1.0]]
    assert len({tuple(code) for code in layer.look_up(torch.arange(12)).tolist()}) == 12


@pytest.mark.parametrize(("levels", "tokens"), [((8, 5, 5, 5), [500, 565, 106, 670, 832, 869]), ((4, 3, 7, 6), [294, 326, 29, 371, 428, 450])])
def test_scalars_are_those_of_vector_quantize_pytorch(levels: tuple[int, ...], tokens: list[int]) -> None:
    latent = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.3, -1.2, 2.0, 0.1], [-0.7, 0.4, -0.2, -3.0], [1.1, 0.9, -0.5, 0.26], [-5.0, 5.0, -5.0, 5.0],
                           [0.2, 0.26, -0.26, 1.3]])
    assert scalars(levels).eval()(latent, *everywhere(latent)).token_N.tolist() == tokens


def test_scalars_gradient_and_late_start() -> None:
    # Five levels at 0: half range 2.002, tanh' = 1, divided by 2. Before the start step channels are bounded but not rounded.
    layer = scalars((5,), start_step=1).train()
    latent = torch.tensor([[0.0], [0.2]], requires_grad=True)
    early, late = layer(latent, *everywhere(latent)), layer(latent, *everywhere(latent))
    assert early.code_ND[1].item() == pytest.approx(math.tanh(0.2) * 1.001) and late.code_ND.tolist() == [[0.0], [0.0]]
    for result in (early, late):
        assert result.loss.item() == 0
        assert torch.autograd.grad(result.code_ND[0], latent)[0].flatten().tolist() == pytest.approx([1.001, 0.0])


def residual(start_step: int = 0, **changes: Any) -> ResidualQuantizer:
    settings = QuantizerConfig(kind=QuantizerKind.RESIDUAL, levels=(2, 3), codebook_size=6, codebook_dim=2)
    return ResidualQuantizer(dataclasses.replace(settings, **changes), start_step)


def test_residual_by_hand() -> None:
    # (10.9, 0.1): coarse (10, 0) leaves (0.9, 0.1), fine (1, 0) leaves (-0.1, 0.1). Mean squares 0.41 and 0.01.
    layer = residual()
    layer.coarse.codebook.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0]]))
    layer.fine.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    latent = torch.tensor([[10.9, 0.1]], requires_grad=True)
    quiet = layer.eval()(latent, *everywhere(latent))
    assert quiet.token_N.tolist() == [1 * 3 + 1] and quiet.code_ND.tolist() == [[11.0, 0.0]]
    assert layer.look_up(torch.tensor([[4, 2]])).tolist() == [[[11.0, 0.0], [0.0, 1.0]]]
    taught = layer.train()(latent, *everywhere(latent))
    assert taught.token_N.tolist() == [4] and taught.loss.item() == pytest.approx(0.42)
    assert taught.code_ND[0].tolist() == pytest.approx([11.0, 0.0], abs=1e-5)
    assert torch.autograd.grad(taught.code_ND.sum(), latent)[0].tolist() == [[1.0, 1.0]]


def test_residual_starts_coarse_then_fine() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse, fine = torch.tensor([[0.0, 0.0], [10.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, -1.0], [-1.0, 0.0]])
    layer, start = residual(start_step=30, bank_size_factor=50).train(), 30
    for step in range(1, start + FINE_AFTER_STEPS + 20):
        picked = torch.randint(6, (64,), generator=generator)
        latent = coarse[picked // 3] + fine[picked % 3]
        result = layer(latent, *everywhere(latent))
        if step <= start + FINE_AFTER_STEPS:
            assert torch.allclose(result.code_ND, latent, atol=1e-5), "features pass as they are"
    assert (result.code_ND - latent).abs().max() < 0.1
    assert len(result.token_N.unique()) == 6


def test_without_a_bank_k_means_never_touches_the_codebook() -> None:
    settings = QuantizerConfig(codebook_size=4, codebook_dim=2, kmeans_bank=False, dead_after_steps=2, reinit_interval_steps=2)
    layer = VectorQuantizer(settings, start_step=1).train()
    far = torch.tensor([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [90.0, 90.0]])
    layer.codebook.copy_(far)
    for _ in range(10):
        layer(torch.zeros(8, 2), *everywhere(torch.zeros(8)))
    assert int(layer.bank_fill) == 0 and int(layer.last_reinit) == 0
    assert torch.equal(layer.codebook[1:], far[1:])


@pytest.mark.parametrize("name", SETTINGS)
def test_what_every_quantiser_keeps(name: str) -> None:
    layer, generator = made(name), torch.Generator().manual_seed(1)
    settings = QuantizerConfig(**SETTINGS[name])
    latent = torch.randn(400, settings.codebook_dim, generator=generator)
    if name != "fsq":  # spread the codes, so that most are chosen
        for key, value in layer.state_dict().items():
            if key.endswith("codebook"):
                value.mul_(2.0)
    with torch.no_grad():
        taught = layer.train()(latent, *everywhere(latent))
        quiet, decision = layer.eval()(latent, *everywhere(latent)), layer.decide(latent)
        table = layer.look_up(torch.arange(settings.codebook_size))
    assert taught.code_ND.shape == quiet.code_ND.shape == latent.shape
    assert int(quiet.token_N.min()) >= 0 and int(quiet.token_N.max()) < settings.codebook_size and len(quiet.token_N.unique()) > 12
    assert torch.equal(quiet.code_ND, table[quiet.token_N]), "what is decoded is what was encoded, bit for bit"
    assert torch.equal(decision.token_N, quiet.token_N) and (decision.margin_N >= 0).all()
    state = {f"quantizer.{key}": value.detach().numpy() for key, value in layer.state_dict().items()}
    assert {key: state[key].shape for key in codebook_shapes(settings)} == codebook_shapes(settings)
    assert np.abs(code_table(settings, state) - table.detach().numpy()).max() < 1e-6
    assert all(value.ndim == 0 for value in layer.statistics().values())


@pytest.mark.parametrize(("changes", "words"), [
    ({"levels": (2, 2)}, ["quantizer.levels", "kind vq has none", "[2, 2]"]),
    ({"kind": QuantizerKind.FSQ, "levels": (8, 5, 5, 5)}, ["make 1000 tokens, got 1024", "set quantizer.codebook_size to 1000"]),
    ({"kind": QuantizerKind.FSQ, "levels": (8, 5, 5, 5), "codebook_size": 1000}, ["one channel a level", "set quantizer.codebook_dim to 4"]),
    ({"kind": QuantizerKind.FSQ, "levels": (4, 2), "codebook_size": 8, "codebook_dim": 2}, ["fsq needs at least 3 each", "[4, 2]"]),
    ({"kind": QuantizerKind.FSQ, "levels": (4,), "codebook_size": 4, "codebook_dim": 1, "estimator": Estimator.ROTATION}, ["fsq rounds", "rotation"]),
    ({"kind": QuantizerKind.RESIDUAL, "levels": (8, 8, 16)}, ["two codebooks", "[8, 8, 16]"]),
    ({"kind": QuantizerKind.RESIDUAL, "levels": (256, 256), "codebook_size": 65536}, ["65535", "65536"]),
])
def test_kinds_and_levels_that_do_not_fit_are_refused(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        QuantizerConfig(**changes)
    for word in words:
        assert word in str(refusal.value)


def test_a_pair_of_codes_is_one_token_of_16_bits() -> None:
    settings = QuantizerConfig(kind=QuantizerKind.RESIDUAL, levels=(256, 128), codebook_size=32768, codebook_dim=2)
    layer = choose_quantizer(Config(quantizer=settings)).eval()
    token = layer(torch.randn(5000, 2, generator=torch.Generator().manual_seed(0)), *everywhere(torch.zeros(5000))).token_N
    assert int(token.max()) > 16384 and np.array_equal(token.numpy().astype(np.uint16), token.numpy())
