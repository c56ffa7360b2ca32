# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sixteen rays side by side give what each of them gives by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import warp as wp

from copilot4d_core.config import preset
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout, ReadoutWeights
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.packet_lanes import LANES
from copilot4d_core.kernels.ray_march import OPACITY, WEIGHTED, Rows, march_rays, march_singly
from copilot4d_core.kernels.ray_packets import MOST_LAYERS, fits_packets, march_packets
from copilot4d_core.kernels.skip_mask import SkipMask

STOPPED_M = 1e-4
"""A march may stop where 1e-6 of the light is left, and the two do so behind different samples: that much of up to 30 m, and rounding."""
ROUNDING_M = 1e-5


def grid_of(layers: int, hidden: int, **rendering: Any) -> Grid:
    """The region of `tiny`, cut into so many layers."""
    base = preset("tiny")
    height_m = base.grid.z_max_m - base.grid.z_min_m
    return Grid(dataclasses.replace(base, grid=dataclasses.replace(base.grid, voxel_z_m=height_m / layers),
                                    feature_grid=dataclasses.replace(base.feature_grid, hidden=hidden),
                                    rendering=dataclasses.replace(base.rendering, **rendering)))


class Scene:
    """Random cells inside a random mask."""

    def __init__(self, grid: Grid, share: float, seed: int) -> None:
        self.grid, rng = grid, np.random.default_rng(seed)
        hidden, channels = grid.config.feature_grid.hidden, 4
        rows = grid.config.grid.feature_cells_per_patch ** 2 * grid.feature_cells_YXZ[2]
        weights = ReadoutWeights(rng.normal(size=(rows, channels, hidden)).astype(np.float32), rng.normal(size=(rows, hidden)).astype(np.float32),
                                 rng.normal(size=hidden).astype(np.float32) * 8 / hidden, -1.0)
        self.mask, self.cells = SkipMask(grid), FeatureReadout(weights, grid)
        self.mask.fill(rng.random(grid.mask_cells_YXZ) < share)
        patches = rng.normal(size=(grid.patches_HW[0] * grid.patches_HW[1], channels)).astype(np.float32)
        self.cells(wp.array(patches, dtype=wp.float32, ndim=2, device=CPU), self.mask)

    def marched(self, march: Any, origins: FloatArray, directions: FloatArray, rows: Rows) -> FloatArray:
        """(rows, R); -1 stands where nothing was written."""
        out = np.full((rows, len(origins)), -1.0, dtype=np.float32)
        from_m, along = (wp.array(values, dtype=wp.vec3, device=CPU, copy=False) for values in (origins, directions))
        march(self.cells, self.mask, from_m, along, len(origins), wp.array(out, dtype=wp.float32, ndim=2, device=CPU, copy=False))
        return out


def some_rays(grid: Grid, count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Neighbours, as a sensor shoots them; nearly level and nearly upright ones, some along an axis, some from outside the region."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3))
    third = count // 3
    angle = np.linspace(-3.1, 3.1, third)
    direction[:third] = np.stack([np.cos(angle), np.sin(angle), np.full(third, -0.08)], axis=1)
    direction[third : 2 * third : 3, 2] *= 0.03
    direction[third + 1 : 2 * third : 3, :2] *= 0.03
    axes = direction[2 * third :: 5]
    axes[:] = np.eye(3)[rng.integers(3, size=len(axes))] * rng.choice([-1, 1], size=(len(axes), 1))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    origin = rng.uniform(grid.minimum_m, grid.maximum_m, size=(count, 3))
    origin[:third] = 0.0  # where four columns meet, as at a sensor
    origin[third + 5 :: 7] *= 2.5
    return origin.astype(np.float32), direction.astype(np.float32)


def assert_same(ours: FloatArray, other: FloatArray) -> None:
    assert np.array_equal(np.isnan(ours), np.isnan(other))
    difference = np.nan_to_num(np.abs(ours - other))
    allowed = np.full((len(ours), 1), ROUNDING_M)
    if len(ours) > 1:
        allowed[WEIGHTED] = STOPPED_M
    # Where two samples are nearly as strong, or the sum of weights nearly one half, rounding chooses: one ray of a thousand at most.
    assert (difference > allowed).any(axis=0).sum() <= ours.shape[1] // 1000


@pytest.mark.parametrize(("layers", "hidden", "share", "rows"), [
    (1, 8, 0.3, Rows.DEPTH), (16, 8, 0.5, Rows.RENDERING), (32, 8, 0.05, Rows.RETURNS), (31, 24, 0.05, Rows.RETURNS),
    (33, 32, 0.02, Rows.DEPTH), (64, 32, 0.1, Rows.RETURNS), (64, 40, 0.95, Rows.DEPTH)])
def test_packets_meet_what_single_rays_meet(layers: int, hidden: int, share: float, rows: Rows) -> None:
    grid = grid_of(layers, hidden)
    scene, (origins, directions) = Scene(grid, share, layers), some_rays(grid, 3007, layers)
    ours, single = scene.marched(march_packets, origins, directions, rows), scene.marched(march_singly, origins, directions, rows)
    assert_same(ours, single)
    met = np.isfinite(ours[0]).mean() if rows is Rows.DEPTH else (ours[OPACITY] >= 0.5).mean()
    assert 0.05 < met < 0.98  # some rays of this scene end, and some do not


@pytest.mark.parametrize("rendering", [{"max_samples": 5}, {"max_samples": 3}, {"opacity_threshold": 0.3}, {"opacity_threshold": 0.9},
                                       {"step_m": 0.05}])
def test_they_obey_the_same_settings(rendering: dict[str, Any]) -> None:
    grid = grid_of(16, 8, **rendering)
    scene, (origins, directions) = Scene(grid, 0.2, 1), some_rays(grid, 3000, 1)
    for rows in Rows:
        assert_same(scene.marched(march_packets, origins, directions, rows), scene.marched(march_singly, origins, directions, rows))


def test_they_stop_where_the_light_is_gone() -> None:
    """Behind which sample is a march's own affair; never before the light is gone, so that other rays are the same."""
    grid, stop = grid_of(16, 8, stop_transmittance=0.2), 0.2
    scene, (origins, directions) = Scene(grid, 0.2, 1), some_rays(grid, 3000, 1)
    ours, single = (scene.marched(march, origins, directions, Rows.RENDERING) for march in (march_packets, march_singly))
    whole = Scene(grid_of(16, 8), 0.2, 1).marched(march_packets, origins, directions, Rows.RENDERING)
    dark = single[OPACITY] >= 1 - stop
    assert 0.1 < dark.mean() < 0.9
    assert (ours[OPACITY, dark] >= 1 - stop - 1e-6).all() and (ours[OPACITY] < whole[OPACITY] - 1e-3).any()
    assert_same(ours[:, ~dark], single[:, ~dark])


@pytest.mark.parametrize("count", [1, LANES - 1, LANES, LANES + 1])
def test_a_packet_that_is_not_full_writes_its_own_rays_only(count: int) -> None:
    grid = grid_of(16, 8)
    scene, (origins, directions) = Scene(grid, 0.3, 2), some_rays(grid, 40, 2)
    out = np.full((Rows.RENDERING, 40), -7.0, dtype=np.float32)
    arrays = [wp.array(values, dtype=wp.vec3, device=CPU, copy=False) for values in (origins, directions)]
    march_packets(scene.cells, scene.mask, *arrays, count, wp.array(out, dtype=wp.float32, ndim=2, device=CPU, copy=False))
    assert np.array_equal(out[:, :count], scene.marched(march_packets, origins, directions, Rows.RENDERING)[:, :count], equal_nan=True)
    assert (out[:, count:] == -7.0).all() and (out[:, :count] != -7.0).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_empty_and_a_full_mask(share: float) -> None:
    grid = grid_of(64, 32)
    scene, (origins, directions) = Scene(grid, share, 3), some_rays(grid, 1000, 3)
    ours = scene.marched(march_packets, origins, directions, Rows.RETURNS)
    assert_same(ours, scene.marched(march_singly, origins, directions, Rows.RETURNS))
    assert (ours[OPACITY] == 0).all() == (share == 0.0)


def test_more_layers_than_a_packet_holds_are_marched_singly() -> None:
    grid = grid_of(MOST_LAYERS + 1, 8)
    scene, (origins, directions) = Scene(grid, 0.1, 4), some_rays(grid, 500, 4)
    assert not fits_packets(scene.mask) and fits_packets(SkipMask(grid_of(MOST_LAYERS, 8)))
    single = scene.marched(march_singly, origins, directions, Rows.RENDERING)
    assert np.array_equal(scene.marched(march_rays, origins, directions, Rows.RENDERING), single, equal_nan=True)
    assert (single[OPACITY] > 0.5).any()
