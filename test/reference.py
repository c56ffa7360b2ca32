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


def sample_distances(origin_R3: Tensor, direction_R3: Tensor, mask_YXZ: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Samples of every ray inside the mask, all rays one cell further at a time: distances (R, S) and counts (R,)."""
    low, high = torch.from_numpy(grid.minimum_m), torch.from_numpy(grid.maximum_m)
    shape = torch.tensor(mask_YXZ.shape)[[1, 0, 2]]
    size = (high - low) / shape
    a, b = (low - origin_R3) / direction_R3, (high - origin_R3) / direction_R3
    at = torch.minimum(a, b).amax(dim=1).clamp(min=0.0)
    end = torch.maximum(a, b).amin(dim=1)
    cell = ((origin_R3 + at[:, None] * direction_R3 - low) / size).floor().long().clamp(torch.zeros(3, dtype=torch.long), shape - 1)
    step = torch.where(direction_R3 > 0, 1, -1)
    following = (low + (cell + (step > 0)) * size - origin_R3) / direction_R3
    delta = (size / direction_R3).abs()
    begin = torch.full_like(at, -1.0)
    runs: list[Tensor] = []
    while True:
        inside = (at < end) & (cell >= 0).all(dim=1) & (cell < shape).all(dim=1)
        safe = cell.clamp(torch.zeros(3, dtype=torch.long), shape - 1)
        occupied = inside & mask_YXZ[safe[:, 1], safe[:, 0], safe[:, 2]]
        ends = torch.nonzero((begin >= 0) & ~occupied).flatten()
        runs.append(torch.stack([ends.to(at.dtype), begin[ends], at[ends]], dim=1))
        begin[ends] = -1.0
        begin = torch.where(occupied & (begin < 0), at, begin)
        if not inside.any():
            break
        axis = following.argmin(dim=1, keepdim=True)
        at = torch.where(inside, torch.minimum(following.gather(1, axis).squeeze(1), end), at)
        cell.scatter_add_(1, axis, step.gather(1, axis))
        following.scatter_add_(1, axis, delta.gather(1, axis))
    ray, first, last = torch.cat(runs)[torch.cat(runs)[:, 0].argsort(stable=True)].T
    number = ((last - first) / grid.config.rendering.step_m).ceil().long().clamp(min=1)
    run = torch.repeat_interleave(number)
    place = torch.arange(len(run)) - (number.cumsum(0) - number)[run]
    distance = first[run] + (place + 0.5) * ((last - first) / number)[run]
    count = torch.zeros(len(origin_R3), dtype=torch.long).index_add_(0, ray.long(), number)
    out = torch.zeros(len(origin_R3), max(1, int(count.max())))
    out[ray.long()[run], torch.arange(len(run)) - (count.cumsum(0) - count)[ray.long()[run]]] = distance
    return out, count


def render_dense(model: torch.nn.Module, feature_HWC: Tensor, distance_RS: Tensor, valid_RS: Tensor, origin_R3: Tensor,
                 direction_R3: Tensor) -> Rendered:
    """Rendering through the dense feature grid, `grid_sample` and `cumprod`, at given sample distances."""
    dense = dense_feature_grid(model, feature_HWC)
    position = origin_R3[:, None] + distance_RS[..., None] * direction_R3[:, None]
    features = query_dense(dense, position.reshape(-1, 3), model.grid)
    logits = model.feature_grid.mlp(features).reshape(distance_RS.shape)
    return render_equation_4(logits, distance_RS, valid_RS)
