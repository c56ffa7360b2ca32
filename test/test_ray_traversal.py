# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The walk through columns of any number of layers, beside one that goes cell by cell, and the two ways to a skip mask."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import warp as wp

from copilot4d_core.benchmark.plain_torch import sample_distances
from copilot4d_core.config import preset
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.ray_samples import sample_rays
from copilot4d_core.kernels.skip_mask import SkipMask


def grid_of(layers: int) -> Grid:
    """The region of `tiny`, cut into so many layers."""
    base = preset("tiny")
    height_m = base.grid.z_max_m - base.grid.z_min_m
    return Grid(dataclasses.replace(base, grid=dataclasses.replace(base.grid, voxel_z_m=height_m / layers)))


@pytest.mark.parametrize("layers", [1, 31, 32, 33, 64, 65, 128, 150])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_columns_of_bits_give_the_samples_of_a_walk_from_cell_to_cell(layers: int, share: float) -> None:
    grid, rng = grid_of(layers), np.random.default_rng(layers)
    mask = rng.random(grid.mask_cells_YXZ) < share
    assert mask.shape[2] == layers
    direction = rng.normal(size=(3000, 3))
    direction[:1000, 2] *= 0.03  # nearly level
    direction[1000:2000, :2] *= 0.03  # nearly upright
    direction = (direction / np.linalg.norm(direction, axis=1, keepdims=True)).astype(np.float32)
    origin = rng.uniform(grid.minimum_m, grid.maximum_m, size=(3000, 3)).astype(np.float32)
    origin[::3, :2] = 0.0  # where four columns meet, as at a sensor: half of such rays leave their first column at once
    fast = sample_rays(origin, direction, mask, grid, np.full(3000, 0.5, dtype=np.float32))
    distance, count = sample_distances(torch.from_numpy(origin).double(), torch.from_numpy(direction).double(), torch.from_numpy(mask), grid)
    assert (fast.count_R == np.minimum(count.numpy(), grid.config.rendering.max_samples)).all()
    longest = min(fast.distance_RS.shape[1], distance.shape[1])
    assert np.abs(fast.distance_RS[:, :longest] - distance.numpy()[:, :longest]).max() < 2e-6  # of up to 28 m in float32


@pytest.mark.parametrize("layers", [1, 31, 32, 33, 64, 65, 150])
def test_a_mask_from_logits_is_the_given_one(layers: int) -> None:
    grid, rng = grid_of(layers), np.random.default_rng(layers)
    mask = rng.random(grid.mask_cells_YXZ) < min(0.5, 2 / layers)
    given, predicted = SkipMask(grid), SkipMask(grid)
    given.fill(mask)
    predicted.fill_from_logits(wp.array(np.where(mask, 9.0, -9.0).astype(np.float32), dtype=wp.float32, ndim=3, device=CPU))
    assert np.array_equal(given.bits.numpy(), predicted.bits.numpy()) and np.array_equal(given.tops.numpy(), predicted.tops.numpy())
    highest = [max(np.flatnonzero(column) + 1, default=0) for column in mask.reshape(-1, layers)]
    assert given.tops.numpy().ravel().tolist() == highest and 0 in highest
