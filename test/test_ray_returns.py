# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a ray says beyond one depth: returns by hand, against their slow twin, and in a scene built for the whole march."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import warp as wp
from reference import ray_returns, render_dense

from copilot4d_core.config import Config, preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.runner import Rendering
from copilot4d_core.deploy.torch_runner import TorchRunner
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.ray_returns import RayReturns, closed, with_sample
from copilot4d_core.kernels.ray_samples import sample_rays
from copilot4d_core.model_file import random_model
from copilot4d_core.tokenizer.tokenizer import Tokenizer

CLEAR = -30.0
"""Occupancy logit of air: an alpha of 1e-13."""
SOLID = 30.0


@wp.kernel
def _gather(weights: wp.array2d(dtype=wp.float32), distances: wp.array2d(dtype=wp.float32), out: wp.array2d(dtype=wp.float32)):  # type: ignore[valid-type]
    i = wp.tid()
    returns = RayReturns()
    for k in range(weights.shape[1]):
        returns = with_sample(returns, distances[i, k], weights[i, k])
    returns = closed(returns)
    out[i, 0] = returns.near_m
    out[i, 1] = returns.near_weight
    out[i, 2] = returns.far_m
    out[i, 3] = returns.far_weight


def gathered(weights: np.ndarray, distances: np.ndarray) -> list[list[tuple[float, float]]]:
    """(distance, weight) of the returns of each ray, as the kernel gathers them."""
    out = np.empty((len(weights), 4), dtype=np.float32)
    wp.launch(_gather, dim=len(weights), device="cpu", inputs=[
        wp.array(array.astype(np.float32), dtype=wp.float32, ndim=2, device="cpu") for array in (weights, distances)] + [
        wp.array(out, dtype=wp.float32, ndim=2, device="cpu", copy=False)])
    return [[(m, weight) for m, weight in (row[:2], row[2:]) if weight > 0] for row in out.tolist()]


@pytest.mark.parametrize(("samples", "expected"), [
    # The worked example: dust at 10 m, nothing at 11 m, a wall at 15 m.
    ([(10.0, 0.3), (11.0, 0.0), (15.0, 0.63)], [(10.0, 0.3), (15.0, 0.63)]),
    # 0.1 and 0.3 one step apart are one return at (0.1 * 10 + 0.3 * 10.2) / 0.4.
    ([(10.0, 0.1), (10.2, 0.3)], [(10.15, 0.4)]),
    # Just 1 m apart is one return, a little more is two.
    ([(10.0, 0.2), (11.0, 0.2)], [(10.5, 0.4)]),
    ([(10.0, 0.2), (11.125, 0.2)], [(10.0, 0.2), (11.125, 0.2)]),
    # A chain of near neighbours is one return, however long: a ray that grazes the road.
    ([(10.0, 0.25), (11.0, 0.25), (12.0, 0.25), (13.0, 0.25)], [(11.5, 1.0)]),
    # What is unlit belongs to no return and bridges no gap.
    ([(10.0, 0.5), (10.75, 0.009), (11.5, 0.4)], [(10.0, 0.5), (11.5, 0.4)]),
    # A lit group below 0.1 is no return.
    ([(5.0, 0.09), (15.0, 0.8)], [(15.0, 0.8)]),
    # Of three the two heaviest, whichever they are, in order of distance.
    ([(5.0, 0.2), (10.0, 0.3), (15.0, 0.4)], [(10.0, 0.3), (15.0, 0.4)]),
    ([(5.0, 0.4), (10.0, 0.2), (15.0, 0.3)], [(5.0, 0.4), (15.0, 0.3)]),
    ([(5.0, 0.4), (10.0, 0.3), (15.0, 0.2)], [(5.0, 0.4), (10.0, 0.3)]),
    # Of equally heavy ones the nearer stay.
    ([(5.0, 0.25), (10.0, 0.25), (15.0, 0.25)], [(5.0, 0.25), (10.0, 0.25)]),
    ([(5.0, 0.0), (10.0, 0.0)], []),
])
def test_returns_by_hand(samples: list[tuple[float, float]], expected: list[tuple[float, float]]) -> None:
    distances, weights = (np.array([values]) for values in zip(*samples, strict=True))
    for got in (gathered(weights, distances)[0], ray_returns(weights[0], distances[0])):
        assert len(got) == len(expected)
        assert got == [pytest.approx(one, abs=1e-5) for one in expected]


def test_kernel_gathers_what_the_twin_lists() -> None:
    rng = np.random.default_rng(0)
    distances = np.cumsum(rng.choice([0.15, 0.15, 0.15, 2.0], size=(3000, 30)), axis=1)  # no gap within rounding of 1 m
    alpha = rng.random((3000, 30)) ** 6
    weights = (alpha * np.cumprod(np.concatenate([np.ones((3000, 1)), 1 - alpha[:, :-1]], axis=1), axis=1)).astype(np.float32)
    expected = [ray_returns(*ray) for ray in zip(weights, distances, strict=True)]
    got = gathered(weights, distances)
    # A return within rounding of the least weight may be seen by one and not by the other.
    same = [ray for ray in range(3000) if len(got[ray]) == len(expected[ray])]
    assert len(same) >= 2999
    assert {len(expected[ray]) for ray in same} == {1, 2}
    for ray in same:
        assert np.allclose(got[ray], expected[ray], atol=1e-4)


class Scene:
    """Space along the x axis whose occupancy is chosen, rendered by the kernels of a runner: layers of it at given distances.

    A mask cell is 1.25 m long; with steps of 2 m it holds one sample, in its middle. The ray starts in the middle of a cell, so that
    middles lie at 1.25 m, 2.5 m, ...
    """

    def __init__(self, step_m: float = 2.0, opacity_threshold: float = 0.5) -> None:
        base = preset("mini")
        rendering = dataclasses.replace(base.rendering, step_m=step_m, opacity_threshold=opacity_threshold)
        self.config: Config = dataclasses.replace(base, rendering=rendering,
                                                  spatial_skip=dataclasses.replace(base.spatial_skip, pool_voxels=4))
        self.grid = Grid(self.config)
        tensors = random_model(self.config).tensors
        weights = kernel_weights(tensors)
        matrix = np.zeros_like(weights.readout.matrix_RCH)
        matrix[:, 0, 0] = 1.0  # hidden unit 0 is channel 0 of the map
        output = np.zeros_like(weights.readout.output_H)
        output[0] = 1.0
        readout = weights.readout._replace(matrix_RCH=matrix, bias_RH=np.zeros_like(weights.readout.bias_RH), output_H=output, output_bias=CLEAR)
        self._stages = CpuStages(weights._replace(readout=readout), self.config)

    def render(self, layers: list[tuple[float, float]]) -> Rendering:
        """What one ray along +x meets.

        Args:
            layers: middle of a mask cell in metres from the ray's start, and its occupancy logit.
        """
        features = np.zeros((*self.grid.patches_HW, self.config.swin.dims[0]), dtype=np.float32)
        mask = np.zeros(self.grid.mask_cells_YXZ, dtype=bool)
        origin = np.array([[0.625, 0.625, 0.07]], dtype=np.float32)
        for rim in (1, 0):  # first with a patch more on both sides, into which the interpolation at a cell's edge reaches
            for middle_m, logit in layers:
                row, column, layer = self.grid.voxel_index(origin + np.array([[middle_m, 0, 0]], dtype=np.float32))[0]
                mask[row // 4, column // 4, layer] = True
                patch = column // 4 * 2  # a mask cell is two patches wide and long
                features[row // 4 * 2:row // 4 * 2 + 2, patch - rim:patch + 2 + rim, 0] = logit - CLEAR
        rays = Rays(origin, np.array([[1.0, 0, 0]], dtype=np.float32))
        return self._stages.render(features, mask, rays, with_returns=True)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


def logit(alpha: float) -> float:
    return math.log(alpha / (1 - alpha))


def returns_of(rendering: Rendering) -> list[tuple[float, float]]:
    assert rendering.returns is not None
    pairs = zip(rendering.returns.distance_m[:, 0].tolist(), rendering.returns.weight[:, 0].tolist(), strict=True)
    return [pair for pair in pairs if pair[1] > 0]


def test_dust_then_wall_gives_two_returns_and_every_depth_of_the_worked_example(scene: Scene) -> None:
    # alpha = 0.3 at 10 m, 0.9 at 15 m: w = 0.3 and 0.7 * 0.9 = 0.63, opacity 0.93, D / opacity = (3 + 9.45) / 0.93.
    rendering = scene.render([(10.0, logit(0.3)), (11.25, CLEAR), (15.0, logit(0.9))])
    assert returns_of(rendering) == [pytest.approx((10.0, 0.3), abs=1e-4), pytest.approx((15.0, 0.63), abs=1e-4)]
    assert rendering.opacity[0] == pytest.approx(0.93, abs=1e-4)
    assert rendering.expected_m[0] == pytest.approx(12.45 / 0.93, abs=1e-3)
    assert rendering.median_m[0] == rendering.strongest_m[0] == pytest.approx(15.0, abs=1e-4)


def test_one_opaque_layer_makes_every_depth_equal(scene: Scene) -> None:
    rendering = scene.render([(10.0, SOLID), (15.0, SOLID)])
    for depth_m in (rendering.expected_m, rendering.median_m, rendering.strongest_m):
        assert depth_m[0] == pytest.approx(10.0, abs=1e-4)
    assert rendering.opacity[0] == pytest.approx(1.0, abs=1e-6)
    assert returns_of(rendering) == [pytest.approx((10.0, 1.0), abs=1e-4)]
    assert rendering.returns is not None
    assert math.isnan(rendering.returns.distance_m[1, 0])


def test_two_layers_that_stop_half_of_the_light_each(scene: Scene) -> None:
    # w = 0.5 and 0.5 with a solid second layer: the mean lies between, median and strongest on the first. alpha is a little above
    # one half, so that rounding does not decide.
    alpha = 0.501
    rendering = scene.render([(10.0, logit(alpha)), (20.0, SOLID)])
    assert rendering.expected_m[0] == pytest.approx(10 * alpha + 20 * (1 - alpha), abs=1e-3)
    assert rendering.median_m[0] == rendering.strongest_m[0] == pytest.approx(10.0, abs=1e-4)
    assert returns_of(rendering) == [pytest.approx((10.0, alpha), abs=1e-4), pytest.approx((20.0, 1 - alpha), abs=1e-4)]


def test_median_and_strongest_differ_where_they_must(scene: Scene) -> None:
    # alpha 0.3, 0.5, 1 give w = 0.3, 0.35, 0.35: the sum reaches one half on the second; with 0.3, 0.4, 1: w = 0.3, 0.28, 0.42, so half is
    # reached on the second and the largest weight is that of the third.
    rendering = scene.render([(5.0, logit(0.3)), (10.0, logit(0.4)), (15.0, SOLID)])
    assert rendering.median_m[0] == pytest.approx(10.0, abs=1e-4)
    assert rendering.strongest_m[0] == pytest.approx(15.0, abs=1e-4)
    assert returns_of(rendering) == [pytest.approx((5.0, 0.3), abs=1e-4), pytest.approx((15.0, 0.42), abs=1e-4)]


def test_dust_before_an_open_sky_has_a_return_but_no_depth(scene: Scene) -> None:
    rendering = scene.render([(10.0, logit(0.3))])
    assert rendering.opacity[0] == pytest.approx(0.3, abs=1e-4)
    assert np.isnan([rendering.expected_m[0], rendering.median_m[0], rendering.strongest_m[0]]).all()
    assert returns_of(rendering) == [pytest.approx((10.0, 0.3), abs=1e-4)]


def test_what_stops_less_than_half_of_the_light_is_met_where_most_of_it_is() -> None:
    # w = 0.15 and 0.85 * 0.35 = 0.2975: together 0.4475, enough to have met something and under one half.
    rendering = Scene(opacity_threshold=0.35).render([(10.0, logit(0.15)), (15.0, logit(0.35))])
    assert rendering.opacity[0] == pytest.approx(0.4475, abs=1e-4)
    assert rendering.median_m[0] == rendering.strongest_m[0] == pytest.approx(15.0, abs=1e-4)
    assert rendering.expected_m[0] == pytest.approx((1.5 + 0.2975 * 15) / 0.4475, abs=1e-3)


def test_thick_dust_is_one_broad_return() -> None:
    # Two neighbouring cells at the usual step: 13 samples of alpha 0.05 in 2.5 m, each nearer than 1 m to the next.
    rendering = Scene(step_m=0.2).render([(10.0, logit(0.05)), (11.25, logit(0.05))])
    weight = 0.05 * 0.95 ** np.arange(13)
    distance = 9.375 + 2.5 / 13 * (np.arange(13) + 0.5)
    assert returns_of(rendering) == [pytest.approx(((weight * distance).sum() / weight.sum(), weight.sum()), abs=1e-3)]


def test_march_gathers_the_returns_of_the_dense_reference_and_the_same_depths_as_without() -> None:
    torch.manual_seed(0)
    model = Tokenizer(preset("tiny")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(500, 3)) * [1.0, 1.0, 0.3]
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    origin = rng.uniform(-2, 2, size=(500, 3)).astype(np.float32)
    mask = rng.random(model.grid.mask_cells_YXZ) < 0.15
    tokens = rng.integers(0, 64, size=model.grid.tokens_HW).astype(np.uint16)
    with TorchRunner(model, "test") as runner, torch.no_grad():
        plain = runner.decode_with_mask(tokens, Rays(origin, direction), mask)
        fast = runner.decode_with_mask(tokens, Rays(origin, direction), mask, with_returns=True)
        decoded = model.decode(model.look_up(torch.from_numpy(tokens.astype(np.int64))))
        samples = sample_rays(origin, direction, mask, model.grid, np.full(500, 0.5, dtype=np.float32))
        valid = torch.arange(samples.distance_RS.shape[1]) < torch.from_numpy(samples.count_R)[:, None]
        slow = render_dense(model, decoded.feature_HWC, torch.from_numpy(samples.distance_RS), valid, torch.from_numpy(origin),
                            torch.from_numpy(direction))
    assert plain.returns is None and fast.returns is not None
    for name in ("expected_m", "opacity", "median_m", "strongest_m"):
        assert np.array_equal(getattr(plain, name), getattr(fast, name), equal_nan=True)
    assert (fast.returns.weight.sum(axis=0) <= fast.opacity + 1e-5).all()
    agree, twos = 0, 0
    for ray in range(500):
        expected = ray_returns(slow.weights[ray].numpy(), samples.distance_RS[ray])
        got = [pair for pair in zip(fast.returns.distance_m[:, ray], fast.returns.weight[:, ray], strict=True) if pair[1] > 0]
        agree += len(got) == len(expected) and np.allclose(got, expected, atol=2e-4)
        twos += len(expected) == 2
    assert twos >= 50
    assert agree >= 495  # a sample or a return within rounding of its threshold may fall on either side
