# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Slow, plain twins of the fast code, written after the equations; those in torch are the benchmark's. Nothing here uses a kernel."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from copilot4d_core.benchmark.plain_torch import Rendered, dense_feature_grid, query_dense, render_equation_4, sample_distances
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout

__all__ = ["Rendered", "cells_in_mask", "dense_feature_grid", "mask_runs", "query_dense", "ray_returns", "render_dense", "render_equation_4",
           "sample_distances", "slots_of", "voxel_lists"]


def voxel_lists(points: np.ndarray, grid: Grid) -> dict[tuple[int, int, int], list[int]]:
    """Points of each occupied voxel, by a plain loop; keys are (row, column, layer)."""
    low, high, size = grid.minimum_m, grid.maximum_m, grid.voxel_size_m
    rows, columns, layers = grid.voxels_YXZ
    cells: dict[tuple[int, int, int], list[int]] = {}
    for i, point in enumerate(points):
        if not all(low[a] <= point[a] < high[a] for a in range(3)):
            continue
        x, y, z = (math.floor((point[a] - low[a]) / size[a]) for a in range(3))
        key = (min(y, rows - 1), min(x, columns - 1), min(z, layers - 1))
        cells.setdefault(key, []).append(i)
    return cells


def cells_in_mask(mask: np.ndarray, grid: Grid) -> np.ndarray:
    """Feature-grid cells inside the mask, grown by one cell in every direction; (Y, X, Z) bool."""
    rows, columns, _ = grid.feature_cells_YXZ
    cells = mask.repeat(rows // mask.shape[0], axis=0).repeat(columns // mask.shape[1], axis=1)
    for axis in range(3):
        ahead, behind = (np.roll(cells, shift, axis) for shift in (1, -1))
        first: list = [slice(None)] * 3
        last: list = [slice(None)] * 3
        first[axis], last[axis] = 0, -1
        ahead[tuple(first)], behind[tuple(last)] = False, False
        cells = cells | ahead | behind
    return cells


def mask_runs(origin: np.ndarray, direction: np.ndarray, mask: np.ndarray, grid: Grid, fine_m: float = 1e-3) -> list[tuple[float, float]]:
    """Intervals of a ray inside occupied mask cells, by stepping a millimetre at a time."""
    rows, columns, layers = mask.shape
    cell = (grid.maximum_m - grid.minimum_m) / np.array([columns, rows, layers], dtype=np.float32)
    distance = np.arange(0.0, 200.0, fine_m)
    position = origin + distance[:, None] * direction
    inside = np.all((position >= grid.minimum_m) & (position < grid.maximum_m), axis=1)
    index = np.clip(np.floor((position - grid.minimum_m) / cell).astype(int), 0, [columns - 1, rows - 1, layers - 1])
    occupied = inside & mask[index[:, 1], index[:, 0], index[:, 2]]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], occupied.astype(int), [0]])))
    return [(float(distance[a]), float(distance[min(b, len(distance) - 1)])) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def render_dense(model: torch.nn.Module, feature_HWC: Tensor, distance_RS: Tensor, valid_RS: Tensor, origin_R3: Tensor,
                 direction_R3: Tensor) -> Rendered:
    """Rendering through the dense feature grid, `grid_sample` and `cumprod`, at given sample distances."""
    dense = dense_feature_grid(model, feature_HWC)
    position = origin_R3[:, None] + distance_RS[..., None] * direction_R3[:, None]
    features = query_dense(dense, position.reshape(-1, 3), model.grid)
    logits = model.feature_grid.mlp(features).reshape(distance_RS.shape)
    return render_equation_4(logits, distance_RS, valid_RS)


def ray_median(weights: np.ndarray, distances: np.ndarray) -> float:
    """Depth of one ray's surface, in the words of `kernels/ray_median.py`; NaN for none."""
    if not len(weights):
        return np.nan
    reached = np.flatnonzero(np.cumsum(weights) >= 0.5)
    if not len(reached):
        return float(distances[np.argmax(weights)])
    near = [i for i in range(reached[0] - 2, reached[0] + 3) if 0 <= i < len(weights) and abs(distances[i] - distances[reached[0]]) <= 0.41]
    return float(np.average(distances[near], weights=weights[near]))


def ray_returns(weights: np.ndarray, distances: np.ndarray) -> list[tuple[float, float]]:
    """(distance, weight) of up to two returns of one ray, nearest first, in the words of `kernels/ray_returns.py`.

    Samples of weight 0.01 or more, grouped where they lie 1 m or less behind one another; of the groups of weight 0.1 or more the heaviest two.
    """
    groups: list[list[tuple[float, float]]] = []
    for weight, distance in zip(weights.tolist(), distances.tolist(), strict=True):
        if weight < 0.01:
            continue
        if not groups or distance - groups[-1][-1][0] > 1.0:
            groups.append([])
        groups[-1].append((distance, weight))
    found = []
    for group in groups:
        total = sum(weight for _, weight in group)
        if total >= 0.1:
            found.append((sum(weight * distance for distance, weight in group) / total, total))
    heaviest = sorted(found, key=lambda one: -one[1])[:2]  # keeps the order of equals, so the nearer stays
    return sorted(heaviest)


def slots_of(cells: FeatureReadout) -> np.ndarray:
    """(Y, X, Z): row of `hidden` of each cell, 0 where none is listed or the memory ended; counted bit by bit."""
    rows, columns, layers = cells.grid.feature_cells_YXZ
    slots = np.zeros((rows, columns, layers), dtype=np.int64)
    for column, (before, *words) in enumerate(cells.listed.numpy().tolist()):
        bits = [z for z in range(layers) if words[z // 32] >> z % 32 & 1]
        slots[column // columns, column % columns, bits] = before + 1 + np.arange(len(bits))
    return np.where(slots <= cells.capacity, slots, 0)
