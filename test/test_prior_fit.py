# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Fitting a prior: the gradient is the loss's, classes hold what belongs together, and a law of the tokens is found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from stand_in_runner import StandInRunner
from tiny_prior import MODEL_ID

from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.prior_file import PriorFile
from copilot4d_core.deploy.token_prior import TokenPrior
from copilot4d_core.evaluation.report import DataSet
from copilot4d_core.training import fit_prior
from copilot4d_core.training.fit_prior import fit
from copilot4d_core.training.prior_classes import divide
from copilot4d_core.training.prior_network import PriorNetwork, first_parameters
from copilot4d_core.training.prior_scans import Group, groups, tokens_of

SIZES = np.array([3, 1, 4])


def plain_grids(count: int, rng: np.random.Generator, codes: int = 16, other: float = 0.0) -> np.ndarray:
    """Grids (B, 16, 16) of one code each; a share of the cells holds any other."""
    one = np.broadcast_to(rng.integers(0, codes, (count, 1, 1)), (count, 16, 16))
    return np.where(rng.random(one.shape) < other, rng.integers(0, codes, one.shape), one).astype(np.uint16)


class TestNetwork:
    @pytest.mark.parametrize("name", list(first_parameters(np.ones(8, dtype=int), 3, np.random.default_rng(0))))
    def test_gradient_is_that_of_finite_differences(self, name: str) -> None:
        rng = np.random.default_rng(5)
        network, ranks = PriorNetwork(8, 16, SIZES), rng.integers(0, 8, (3, 128)).astype(np.int32)
        parameters = first_parameters(np.bincount(ranks.reshape(-1), minlength=8), 3, rng)
        parameters["place_bias"] += rng.normal(0, 0.1, parameters["place_bias"].shape).astype(np.float32)
        gradient = network.losses(parameters, ranks).gradient
        assert gradient.keys() == parameters.keys() and gradient[name].shape == parameters[name].shape
        along = gradient[name] / np.linalg.norm(gradient[name])
        step = 0.02

        def cost(sign: int) -> float:
            bits = network.losses(parameters | {name: parameters[name] + np.float32(sign * step) * along}, ranks).bits
            return float(bits.astype(np.float64).mean() * np.log(2))

        assert (cost(1) - cost(-1)) / (2 * step) == pytest.approx(float(np.linalg.norm(gradient[name])), rel=0.02)

    def test_a_network_that_knows_nothing_pays_for_every_choice(self) -> None:
        network, ranks = PriorNetwork(8, 8, SIZES), np.tile(np.arange(8, dtype=np.int32), (1, 8))
        parameters = {name: np.zeros_like(value) for name, value in first_parameters(np.ones(8, dtype=int), 3, np.random.default_rng(0)).items()}
        bits = network.losses(parameters, ranks).bits
        # One of three classes, then one of 3, 1 or 4 codes.
        expected = np.log2(3) + np.log2([3, 3, 3, 1, 4, 4, 4, 4])
        assert np.sort(bits) == pytest.approx(np.sort(np.tile(expected, 8)), rel=1e-5)


def test_too_many_tokens_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    runner = StandInRunner()
    runner.config = dataclasses.replace(runner.config, quantizer=dataclasses.replace(runner.config.quantizer, codebook_size=32768))
    with pytest.raises(ValueError, match="at most 8,192 different tokens, got 32,768"):
        fit_prior.fit_prior(runner, [], [], tmp_path / "prior.safetensors", fit_prior.Settings(1, 0, 1))


class TestClasses:
    def test_codes_that_never_meet_are_in_other_classes(self) -> None:
        rng = np.random.default_rng(0)
        kind = np.arange(64) % 4
        tokens = np.stack([rng.choice(np.flatnonzero(kind == number % 4), (16, 16)) for number in range(40)]).astype(np.uint16)
        order, sizes = divide(tokens, 64, seed=0)
        assert np.array_equal(np.sort(order), np.arange(64)) and sizes.min() >= 1 and sizes.sum() == 64
        assert all(len(set(kind[part])) == 1 for part in np.split(order, np.cumsum(sizes)[:-1]))

    def test_few_codes_are_no_trouble(self) -> None:
        order, sizes = divide(np.zeros((1, 16, 16), dtype=np.uint16), 8, seed=0)
        assert sorted(order.tolist()) == list(range(8)) and sizes.sum() == 8


class TestFit:
    def test_a_law_is_found_and_kept_in_whole_numbers(self) -> None:
        rng = np.random.default_rng(0)
        arrays = fit([Group("plain", plain_grids(200, rng, other=0.05), 1.0)], 16, 150, rng)
        prior = TokenPrior(PriorFile(arrays, MODEL_ID, {}, "00" * 32))
        bits = [-np.log2(prior.intervals(tokens)[1] / 65536).sum() / 256 for tokens in plain_grids(8, np.random.default_rng(1), other=0.05)]
        # Any code: 4 bits. Whether a cell holds the grid's code (0.953) costs 0.27 bits, which other code 3.9 bits of one cell in 21.
        assert 0.46 * 0.8 < np.mean(bits) < 0.46 * 1.5

    def test_whole_numbers_cost_what_the_floats_did(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = {}

        def quantize(parameters: object, network: PriorNetwork, ranks: object, order: np.ndarray, *more: object) -> object:
            seen.update(parameters=parameters, network=network, order=order)
            return original(parameters, network, ranks, order, *more)  # type: ignore[arg-type]

        original = fit_prior.quantize
        monkeypatch.setattr(fit_prior, "quantize", quantize)
        rng = np.random.default_rng(0)
        prior = TokenPrior(PriorFile(fit([Group("plain", plain_grids(100, rng, other=0.3), 1.0)], 16, 80, rng), MODEL_ID, {}, "00" * 32))
        tokens = plain_grids(8, rng, other=0.3)
        ranks = np.argsort(seen["order"])[tokens.reshape(8, -1)].astype(np.int32)
        floats = seen["network"].losses(seen["parameters"], ranks).bits.sum()
        whole = sum(-np.log2(prior.intervals(grid)[1] / 65536).sum() for grid in tokens)
        assert whole == pytest.approx(floats, rel=0.01)


class Source:
    """A data set of rings around the sensor."""

    name = "rings"

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Scan:
        rays = SphericalPattern(8, 64, -20.0, 5.0).rays(np.zeros(3, dtype=np.float32)).directions
        return scan_from_points(f"ring{index}", rays * np.float32(4.0 + index), None, raw_bytes=0)


class TestScans:
    def test_copies_differ_and_the_scan_itself_is_first(self) -> None:
        data, runner = DataSet("rings", Source(), 1), StandInRunner()  # type: ignore[arg-type]
        tokens = tokens_of(runner, data, 3, np.random.default_rng(0), lambda indices, name: indices)
        assert tokens.shape == (16, 16, 16)
        assert np.array_equal(tokens[4], runner.encode(Source()[1].points_m))
        assert len({grid.tobytes() for grid in tokens}) == 16

    def test_a_source_counts_by_the_root_of_its_size_and_simulated_scans_by_a_tenth(self) -> None:
        data = DataSet("rings", Source(), 1)  # type: ignore[arg-type]
        found = groups(StandInRunner(), [data, data], 0, 1, np.random.default_rng(0), lambda indices, name: indices)
        assert [(group.name, len(group.tokens)) for group in found] == [("rings", 4), ("rings", 4), ("simulator", 1)]
        assert [group.weight for group in found[:2]] == [2.0, 2.0]
        assert found[2].weight == pytest.approx(0.1 * sum(group.weight for group in found))
