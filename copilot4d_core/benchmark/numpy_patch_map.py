# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points to the patch map in NumPy: sort by voxel, then `np.add.reduceat` over ranges.

What goes in: points and the weights of the sparse half of the encoder. What comes out: the same map as the kernels'.
Unusual: as in the kernels, linear layers behind a sum are applied to the sum, so that both do the same work.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.pillar_features import PillarWeights

Integers = npt.NDArray[np.int64]
_EPS = 1e-5


def numpy_patch_map(points_m: FloatArray, weights: PillarWeights, grid: Grid) -> FloatArray:
    """Dense patch map before its layer norm, (H, W, C) float32.

    Args:
        points_m: (N, 3) float32, metres; at least one inside the region.
    """
    points_m = points_m[grid.inside(points_m)]
    index = grid.voxel_index(points_m)
    offset = ((points_m - grid.minimum_m) / grid.voxel_size_m - (index[:, [1, 0, 2]] + np.float32(0.5))) * np.float32(2)
    key = _keys(index, grid)
    order = np.argsort(key)
    key = key[order]
    layers, slots = grid.voxels_YXZ[2], grid.config.grid.patch_voxels**2
    point_start = _starts(key)
    voxel = key[point_start]
    voxel_start = _starts(voxel // layers)
    pillar = voxel[voxel_start] // layers
    pillar_start = _starts(pillar // slots)

    hidden = np.maximum(_norm(offset[order] @ weights.point_in + weights.point_vectors[0], *weights.point_vectors[1:]), 0)
    number = np.diff(np.append(point_start, len(key)))[:, None]
    summed = np.add.reduceat(hidden, point_start) @ weights.point_out + number * weights.voxel_vectors[0]
    voxel_VD = _norm(summed.astype(np.float32), *weights.voxel_vectors[1:])
    hidden = np.maximum(_norm(voxel_VD @ weights.layer_in + weights.layer_table[voxel % layers], *weights.layer_vectors), 0)
    number = np.diff(np.append(voxel_start, len(voxel)))[:, None]
    summed = np.add.reduceat(hidden, voxel_start) @ weights.pillar_out + number * weights.pillar_vectors[0]
    pillar_PC = _norm(summed.astype(np.float32), *weights.pillar_vectors[1:])
    return _embedded(pillar_PC, pillar, pillar_start, weights, grid)


def _embedded(pillar_PC: FloatArray, pillar: Integers, start: Integers, weights: PillarWeights, grid: Grid) -> FloatArray:
    """Each pillar times the matrix of its place in the patch cell, summed over the cell."""
    slots = grid.config.grid.patch_voxels**2
    height, width = grid.patches_HW
    slot = pillar % slots
    embedded = np.empty((len(pillar), weights.patch_in.shape[2]), dtype=np.float32)
    for place in range(slots):
        chosen = slot == place
        embedded[chosen] = pillar_PC[chosen] @ weights.patch_in[place]
    result = np.tile(weights.patch_bias, (height * width, 1))
    result[pillar[start] // slots] += np.add.reduceat(embedded, start)
    return result.reshape(height, width, -1)


def _keys(index: npt.NDArray[np.int32], grid: Grid) -> Integers:
    """Number of each voxel: patch cells first, then pillars inside one, then layers."""
    row, column, layer = index.T.astype(np.int64)
    patch, layers = grid.config.grid.patch_voxels, grid.voxels_YXZ[2]
    cell = row // patch * (grid.voxels_YXZ[1] // patch) + column // patch
    return np.asarray((cell * patch**2 + row % patch * patch + column % patch) * layers + layer)


def _starts(sorted_values: Integers) -> Integers:
    """Where each range of equal values begins."""
    return np.flatnonzero(np.append(True, sorted_values[1:] != sorted_values[:-1]))


def _norm(values: FloatArray, scale: FloatArray, shift: FloatArray) -> FloatArray:
    centred = values - values.mean(axis=1, keepdims=True)
    result: FloatArray = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(_EPS)) * scale + shift
    return result
