"""Slow, plain twins of the fast code, written after the equations. Nothing here imports a kernel."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from copilot4d_core.grid import Grid


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


def dense_feature_grid(model: torch.nn.Module, feature_HWC: Tensor) -> Tensor:
    """The whole neural feature grid, (channels, Z, Y, X): the read-out of every cell."""
    grid, nfg = model.grid, model.feature_grid
    per_patch, layers = grid.config.grid.feature_cells_per_patch, grid.voxels_YXZ[2]
    values = torch.einsum("hwc,rdc->hwrd", nfg.norm(feature_HWC), nfg.readout_weight) + nfg.readout_bias
    height, width = grid.patches_HW
    cells = values.view(height, width, per_patch, per_patch, layers, -1)
    return cells.permute(5, 4, 0, 2, 1, 3).reshape(-1, layers, height * per_patch, width * per_patch)


def query_dense(dense_DZYX: Tensor, position_M3: Tensor, grid: Grid) -> Tensor:
    """Trilinear look-up by `grid_sample`, align_corners False, values constant beyond the outermost centres; (M, channels)."""
    low, high = torch.from_numpy(grid.minimum_m), torch.from_numpy(grid.maximum_m)
    unit = 2 * (position_M3 - low) / (high - low) - 1
    sampled = F.grid_sample(dense_DZYX[None], unit[None, None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, :, 0, 0].T


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


class Rendered(NamedTuple):
    depth: Tensor
    weights: Tensor
    opacity: Tensor


def render_equation_4(logit_RS: Tensor, distance_RS: Tensor, valid_RS: Tensor) -> Rendered:
    """alpha = sigmoid(logit); w_i = alpha_i prod_{j<i} (1 - alpha_j); D = sum w_i h_i, as the paper writes it."""
    alpha = torch.sigmoid(logit_RS) * valid_RS
    clear = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], dim=1), dim=1)
    weights = alpha * clear
    return Rendered((weights * distance_RS).sum(1), weights, weights.sum(1))


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
