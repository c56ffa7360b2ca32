# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The median depth alone is that of a whole rendering, bit for bit, although its rays stop earlier."""

# No `from __future__ import annotations`: Warp reads the annotations of kernels as values.
from dataclasses import replace

import numpy as np
import pytest
import torch
import warp as wp

from copilot4d_core.config import preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.torch_runner import TorchRunner
from copilot4d_core.kernels.ray_median import BESIDE, RayMedian, is_known, median_distance, with_next
from copilot4d_core.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("occupancy_bias", [-1.0, 0.0, 3.0])
def test_it_is_that_of_a_whole_rendering(threshold: float, occupancy_bias: float) -> None:
    torch.manual_seed(0)
    settings = preset("tiny")
    settings = replace(settings, rendering=replace(settings.rendering, opacity_threshold=threshold, step_m=0.2),
                       feature_grid=replace(settings.feature_grid, occupancy_bias=occupancy_bias))
    model = Tokenizer(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(3000, 3)) * [1.0, 1.0, 0.3]
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    rays = Rays(rng.uniform(-2, 2, size=(3000, 3)).astype(np.float32), direction)
    tokens = rng.integers(0, 64, size=model.grid.tokens_HW).astype(np.uint16)
    with TorchRunner(model, "test") as runner:
        whole, alone = runner.decode(tokens, rays), runner.depth(tokens, rays)
    assert alone.shape == (3000,) and alone.dtype == np.float32
    assert np.isfinite(alone).sum() > 100
    np.testing.assert_array_equal(alone, whole.depth_m)


@wp.kernel
def walk(weights: wp.array2d(dtype=float), distances: wp.array2d(dtype=float), least: float, known_at: wp.array(dtype=int),  # type: ignore[valid-type]
         then: wp.array(dtype=float), at_the_end: wp.array(dtype=float)):  # type: ignore[valid-type]
    """At which sample a ray's median is known, what it is then, and what it is behind the last sample."""
    ray = wp.tid()
    median = RayMedian()
    for sample in range(weights.shape[1]):  # type: ignore[attr-defined]
        median = with_next(median, distances[ray, sample], weights[ray, sample])  # type: ignore[index]
        if known_at[ray] < 0 and is_known(median, least):  # type: ignore[index]
            known_at[ray] = sample  # type: ignore[index]
            then[ray] = median_distance(median)  # type: ignore[index]
    at_the_end[ray] = median_distance(median)  # type: ignore[index]


@pytest.mark.parametrize("least", [0.5, 0.9])
def test_it_is_known_as_early_as_it_can_be_and_not_before(least: float) -> None:
    rng = np.random.default_rng(0)
    alpha = rng.random((2000, 40)) ** 4
    clear = np.cumprod(np.concatenate([np.ones((2000, 1)), 1 - alpha[:, :-1]], axis=1), axis=1)
    weights = (alpha * clear).astype(np.float32)
    distances = np.cumsum(rng.choice([0.2, 0.35, 3.0], size=(2000, 40)), axis=1).astype(np.float32)
    known_at, then, at_the_end = np.full(2000, -1, dtype=np.int32), np.empty(2000, dtype=np.float32), np.empty(2000, dtype=np.float32)
    arrays = [wp.array(values, device="cpu", copy=False) for values in (weights, distances)]
    results = [wp.array(values, device="cpu", copy=False) for values in (known_at, then, at_the_end)]
    wp.launch(walk, dim=2000, inputs=[*arrays, least, *results], device="cpu")
    total = np.cumsum(weights.astype(np.float64), axis=1)
    sure = (np.abs(total - 0.5).min(axis=1) > 1e-5) & (np.abs(total - least).min(axis=1) > 1e-5)
    # Half is reached, the samples behind it that may belong to its surface are seen, and the ray has met something.
    expected = np.maximum((total >= 0.5).argmax(axis=1) + BESIDE, (total >= least).argmax(axis=1))
    known = sure & (total[:, -1] >= least) & (expected < 40)
    assert known.sum() > 1500 and expected[known].mean() < 15
    assert np.array_equal(known_at[known], expected[known])
    assert np.array_equal(then[known], at_the_end[known])
    assert (known_at[sure & (total[:, -1] < least)] == -1).all()
