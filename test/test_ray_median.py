# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The median depth of a ray: worked by hand, and against its slow twin."""

from __future__ import annotations

import numpy as np
import pytest
import warp as wp
from reference import ray_median

from copilot4d_core.kernels.ray_median import RayMedian, surface_distance, with_next


@wp.kernel
def _gather(weights: wp.array2d(dtype=wp.float32), distances: wp.array2d(dtype=wp.float32), out: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
    i = wp.tid()
    median = RayMedian()
    largest = float(0.0)  # noqa: UP018  (a literal would be a constant to Warp)
    strongest_m = wp.float32(wp.nan)
    for k in range(weights.shape[1]):
        median = with_next(median, distances[i, k], weights[i, k])
        if weights[i, k] > largest:
            largest = weights[i, k]
            strongest_m = distances[i, k]
    out[i] = surface_distance(median, strongest_m)


def gathered(weights: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Surface of each ray, as the kernel gathers it."""
    out = np.empty(len(weights), dtype=np.float32)
    wp.launch(_gather, dim=len(weights), device="cpu", inputs=[
        wp.array(array.astype(np.float32), dtype=wp.float32, ndim=2, device="cpu") for array in (weights, distances)] + [
        wp.array(out, dtype=wp.float32, device="cpu", copy=False)])
    return out


@pytest.mark.parametrize(("samples", "expected"), [
    # The worked example: dust at 10 m, nothing at 11 m, a wall at 15 m.
    ([(10.0, 0.3), (11.0, 0.0), (15.0, 0.63)], 15.0),
    # Half is reached at 10.25 m; 0.2 * 10 + 0.4 * 10.25 + 0.2 * 10.5 over 0.8 is 10.25 again, with 0.4 behind it 10.3 m.
    ([(10.0, 0.2), (10.25, 0.4), (10.5, 0.2)], 10.25),
    ([(10.0, 0.2), (10.25, 0.4), (10.5, 0.4)], 10.3),
    # Two samples on each side belong to it, a third does not: (0.1 * -2 + 0.1 * -1 + 0.1 * 1 + 0.3 * 2) / 0.8 eighths of a metre behind 10 m.
    ([(9.625, 0.1), (9.75, 0.1), (9.875, 0.1), (10.0, 0.2), (10.125, 0.1), (10.25, 0.3), (10.375, 0.1)], 10.0 + 0.125 * 0.4 / 0.8),
    # Beyond 0.4 m nothing belongs to it, before or behind.
    ([(9.5, 0.3), (10.0, 0.3), (10.5, 0.4)], 10.0),
    # The first sample reaches half by itself; nothing lies before it, not even at 0 m.
    ([(0.125, 0.5), (0.25, 0.5)], 0.1875),
    # Never reached: where most of it is, alone.
    ([(10.0, 0.125), (10.25, 0.25), (10.375, 0.0625)], 10.25),
])
def test_by_hand(samples: list[tuple[float, float]], expected: float) -> None:
    distances, weights = (np.array([values]) for values in zip(*samples, strict=True))
    for got in (gathered(weights, distances)[0], ray_median(weights[0], distances[0])):
        assert got == pytest.approx(expected, abs=1e-5)


def test_no_sample_is_nothing() -> None:
    assert np.isnan(gathered(np.zeros((1, 0)), np.zeros((1, 0)))).all()


def test_kernel_gathers_what_the_twin_means() -> None:
    rng = np.random.default_rng(0)
    distances = 1.0 + np.cumsum(rng.choice([0.15, 0.19, 0.07, 2.0], size=(3000, 30)), axis=1)  # no two samples within rounding of 0.4 m
    alpha = rng.random((3000, 30)) ** 30
    weights = (alpha * np.cumprod(np.concatenate([np.ones((3000, 1)), 1 - alpha[:, :-1]], axis=1), axis=1)).astype(np.float32)
    sure = np.abs(np.cumsum(weights, axis=1) - 0.5).min(axis=1) > 1e-5
    expected = np.array([ray_median(*ray) for ray in zip(weights, distances, strict=True)])
    got = gathered(weights, distances)
    assert sure.sum() > 2900
    assert 0.5 < (weights[sure].sum(axis=1) >= 0.5).mean() < 1.0  # both kinds of rays
    np.testing.assert_allclose(got[sure], expected[sure], atol=1e-5)
