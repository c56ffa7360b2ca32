# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The sparse stages the plain way in torch, after the equations: what `bench --compare` measures against, and the tests' slow twins.

What goes in: a tokenizer, points or the decoder's map and rays. What comes out: the patch map, or what each ray meets.
Unusual: nothing here runs a kernel of this package; the feature grid is dense, and every ray has as many samples as the longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from copilot4d_core.data.scan import Rays
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.ray_median import BESIDE, SURFACE_M
from copilot4d_core.model_file import Model
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import tokenizer_from_model

RAYS_AT_ONCE = 8192
"""More would not fit into memory: their samples are padded to the longest ray's."""


def patch_map(model: Tokenizer, point_N3: Tensor) -> Tensor:
    """Points to the patch map before its layer norm, (H, W, C): sort by voxel, then sums over ranges.

    Args:
        point_N3: float32, metres; at least one inside the region. Differentiable in the model.
    """
    grid = model.grid
    low, high, size = (torch.from_numpy(values) for values in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m))
    rows, columns, layers = grid.voxels_YXZ
    patch, slots = grid.config.grid.patch_voxels, grid.config.grid.patch_voxels**2
    point_N3 = point_N3[((point_N3 >= low) & (point_N3 < high)).all(dim=1)]
    cell_N3 = ((point_N3 - low) / size).floor().long().minimum(torch.tensor([columns, rows, layers]) - 1)
    column, row, layer = cell_N3.T
    slot = row % patch * patch + column % patch
    key_N = ((row // patch * (columns // patch) + column // patch) * slots + slot) * layers + layer
    key_N, order = key_N.sort(stable=True)
    offset_N3 = (((point_N3 - low) / size - (cell_N3 + 0.5)) * 2)[order]
    voxel_V, voxel_start = _ranges(key_N)
    pillar_P, pillar_start = _ranges(voxel_V // layers)
    patch_C, patch_start = _ranges(pillar_P // slots)
    pillar_PC = model.bev_pooling(model.voxel_encoder(offset_N3, voxel_start), voxel_V % layers, pillar_start)
    result: Tensor = model.patch_embedding(pillar_PC, pillar_P % slots, patch_start, patch_C)
    return result


def _ranges(sorted_N: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values, and where the range of each begins, with the end of the last."""
    values, count = torch.unique_consecutive(sorted_N, return_counts=True)
    return values, F.pad(count.cumsum(0), (1, 0))


def patch_map_of(model: Model) -> Callable[[FloatArray], FloatArray]:
    """`patch_map` of a model's arrays, in NumPy's."""
    tokenizer = tokenizer_from_model(model)

    @torch.inference_mode()
    def run(points_m: FloatArray) -> FloatArray:
        return np.asarray(patch_map(tokenizer, torch.from_numpy(points_m)).numpy())

    return run


def march_of(model: Model, normed_HWC: FloatArray, mask_YXZ: BoolArray) -> Callable[[Rays], FloatArray]:
    """Median depths by `march`, through the dense grid of a decoder's map after its norm, in NumPy's arrays.

    The dense grid is built here, not when rays come.
    """
    tokenizer = tokenizer_from_model(model)
    with torch.inference_mode():
        dense = dense_from_normed(tokenizer, torch.from_numpy(normed_HWC))
    mlp = tokenizer.feature_grid.mlp
    return lambda rays: np.asarray(march(dense, mlp, tokenizer.grid, rays.origins_m, rays.directions, mask_YXZ).median.numpy())


def dense_feature_grid(model: Tokenizer, feature_HWC: Tensor) -> Tensor:
    """The whole neural feature grid, (channels, Z, Y, X): the read-out of every cell."""
    return dense_from_normed(model, model.feature_grid.norm(feature_HWC))


def dense_from_normed(model: Tokenizer, normed_HWC: Tensor) -> Tensor:
    """The same from the decoder's map after the layer norm."""
    grid, nfg = model.grid, model.feature_grid
    per_patch, layers = grid.config.grid.feature_cells_per_patch, grid.voxels_YXZ[2]
    values = torch.einsum("hwc,rdc->hwrd", normed_HWC, nfg.readout_weight) + nfg.readout_bias
    height, width = grid.patches_HW
    cells = values.view(height, width, per_patch, per_patch, layers, -1)
    return cells.permute(5, 4, 0, 2, 1, 3).reshape(-1, layers, height * per_patch, width * per_patch)


def query_dense(dense_DZYX: Tensor, position_M3: Tensor, grid: Grid) -> Tensor:
    """Trilinear look-up by `grid_sample`, align_corners False, values constant beyond the outermost centres; (M, channels)."""
    low, high = torch.from_numpy(grid.minimum_m), torch.from_numpy(grid.maximum_m)
    unit = 2 * (position_M3 - low) / (high - low) - 1
    sampled = F.grid_sample(dense_DZYX[None], unit[None, None, None], mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, :, 0, 0].T


class Rendered(NamedTuple):
    """Of each ray: sum of weight times distance, the weights, and their sum."""

    depth: Tensor
    weights: Tensor
    opacity: Tensor


def render_equation_4(logit_RS: Tensor, distance_RS: Tensor, valid_RS: Tensor) -> Rendered:
    """alpha = sigmoid(logit); w_i = alpha_i prod_{j<i} (1 - alpha_j); D = sum w_i h_i, as the paper writes it."""
    alpha = torch.sigmoid(logit_RS) * valid_RS
    clear = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1]], dim=1), dim=1)
    weights = alpha * clear
    return Rendered((weights * distance_RS).sum(1), weights, weights.sum(1))


class Marched(NamedTuple):
    """Of each ray, (R,), metres."""

    depth: Tensor
    """Sum of weight times distance."""
    median: Tensor
    """As in `kernels/ray_median.py`; NaN without a sample."""


def median_depth(weight_RS: Tensor, distance_RS: Tensor, valid_RS: Tensor) -> Tensor:
    """Weighted mean distance of the sample that reaches half and of its neighbours on the same surface, (R,); where none does, the distance of the
    largest weight, NaN without a sample."""
    reached_RS = weight_RS.cumsum(dim=1) >= 0.5
    half_R1 = reached_RS.byte().argmax(dim=1, keepdim=True)
    place = torch.arange(weight_RS.shape[1])
    surface = ((place - half_R1).abs() <= BESIDE) & ((distance_RS - distance_RS.gather(1, half_R1)).abs() <= SURFACE_M) & valid_RS
    weight = weight_RS * surface
    strongest = torch.where(valid_RS.any(dim=1), distance_RS.gather(1, weight_RS.argmax(dim=1, keepdim=True)).squeeze(1), torch.nan)
    return torch.where(reached_RS[:, -1], (weight * distance_RS).sum(dim=1) / weight.sum(dim=1), strongest)


def sample_distances(origin_R3: Tensor, direction_R3: Tensor, mask_YXZ: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Samples of every ray inside the mask, all rays one cell further at a time: distances (R, S), as exact as the rays, and counts (R,)."""
    low, high = (torch.from_numpy(corner_m).to(origin_R3.dtype) for corner_m in (grid.minimum_m, grid.maximum_m))
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
    return _spread(torch.cat(runs), len(origin_R3), grid.config.rendering.step_m)


def _spread(run_N3: Tensor, rays: int, step_m: float) -> tuple[Tensor, Tensor]:
    """Runs (ray, begin, end) to distances of each ray, evenly inside each run and at most a step apart."""
    ray, first, last = run_N3[run_N3[:, 0].argsort(stable=True)].T
    number = ((last - first) / step_m).ceil().long().clamp(min=1)
    run = torch.repeat_interleave(number)
    place = torch.arange(len(run)) - (number.cumsum(0) - number)[run]
    distance = first[run] + (place + 0.5) * ((last - first) / number)[run]
    count = torch.zeros(rays, dtype=torch.long).index_add_(0, ray.long(), number)
    out = torch.zeros(rays, max(1, int(count.max())), dtype=run_N3.dtype)
    out[ray.long()[run], torch.arange(len(run)) - (count.cumsum(0) - count)[ray.long()[run]]] = distance
    return out, count


@torch.inference_mode()
def march(dense_DZYX: Tensor, mlp: nn.Module, grid: Grid, origins_m: FloatArray, directions: FloatArray, mask_YXZ: BoolArray,
          kind: torch.dtype = torch.float32) -> Marched:
    """What each ray meets in the dense grid.

    Args:
        dense_DZYX: from `dense_feature_grid`, of type `kind`, as is the MLP.
        origins_m, directions: (R, 3) float32.
        mask_YXZ: (Y, X, Z) bool, what is rendered.
    """
    origins, towards = (torch.from_numpy(np.ascontiguousarray(array)).to(kind) for array in (origins_m, directions))
    distance, count = sample_distances(origins, towards, torch.from_numpy(mask_YXZ), grid)
    depths, medians = [], []
    for part in torch.split(torch.arange(len(count)), RAYS_AT_ONCE):
        along = distance[part]
        position = origins[part, None] + along[..., None] * towards[part, None]
        logits = mlp(query_dense(dense_DZYX, position.reshape(-1, 3), grid)).view(along.shape)
        valid = torch.arange(along.shape[1]) < count[part, None]
        rendered = render_equation_4(logits, along, valid)
        depths.append(rendered.depth)
        medians.append(median_depth(rendered.weights, along, valid))
    return Marched(torch.cat(depths), torch.cat(medians))
