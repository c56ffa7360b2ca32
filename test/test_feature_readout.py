# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The read-out of cells for any hidden width; what is listed, and beside the dense grid, see `test_kernels.py`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import warp as wp
from reference import slots_of

from copilot4d_core.config import preset
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout, ReadoutWeights
from copilot4d_core.kernels.skip_mask import SkipMask


@pytest.mark.parametrize("hidden", [1, 33, 40])
def test_read_out_of_any_width_keeps_to_its_rows(hidden: int) -> None:
    """Against a matrix product of NumPy; some rows are read out by another core than their neighbours."""
    config = preset("tiny")
    grid = Grid(dataclasses.replace(config, feature_grid=dataclasses.replace(config.feature_grid, hidden=hidden)))
    rng = np.random.default_rng(hidden)
    per_patch, layers, (height, width) = config.grid.feature_cells_per_patch, grid.feature_cells_YXZ[2], grid.patches_HW
    weights = ReadoutWeights(rng.normal(size=(per_patch**2 * layers, 5, hidden)).astype(np.float32),
                             rng.normal(size=(per_patch**2 * layers, hidden)).astype(np.float32), np.zeros(hidden, dtype=np.float32), 0.0)
    features = rng.normal(size=(height * width, 5)).astype(np.float32)
    where, cells = SkipMask(grid), FeatureReadout(weights, grid)
    where.fill(rng.random(grid.mask_cells_YXZ) < 0.2)
    cells(wp.array(features, dtype=wp.float32, ndim=2, device="cpu"), where)
    y, x, z = np.nonzero(slots := slots_of(cells))
    row = (y % per_patch * per_patch + x % per_patch) * layers + z
    expected = np.einsum("nc,nch->nh", features[y // per_patch * width + x // per_patch], weights.matrix_RCH[row]) + weights.bias_RH[row]
    assert len(y) > 1000 and np.abs(cells.hidden.numpy()[slots[y, x, z]] - expected).max() < 1e-4
