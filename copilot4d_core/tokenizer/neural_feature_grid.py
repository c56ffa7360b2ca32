# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Decoder features to occupancy along rays: the neural feature grid and equation 4.

The grid (512 x 512 x 64 x 16 at paper size) is a linear read-out of the decoder's map, so it is never built: a cell is
computed from its patch cell's feature and one row of the read-out, and only where a ray looks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function

from copilot4d_core.config import FeatureGridConfig
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.interpolation import corners, interpolate, interpolate_backward
from copilot4d_core.kernels.ray_samples import sample_rays
from copilot4d_core.kernels.volume_rendering import render_weights, render_weights_backward


class RenderedRays(NamedTuple):
    """Rendering of R rays with S samples each; weights are 0 where a ray has no sample."""

    distance_RS: Tensor
    """Metres from the origin (h_i)."""
    weight_RS: Tensor
    """w_i of equation 4."""
    depth_R: Tensor
    """D = sum w_i h_i, metres, as in equation 4 (not divided by the opacity)."""
    opacity_R: Tensor
    """sum w_i, 0..1; 0 for a ray that crosses no occupied cell."""


class _Interpolate(Function):
    @staticmethod
    def forward(ctx: Any, feature_UC: Tensor, slot_M8: Tensor, weight_M8: Tensor) -> Tensor:
        ctx.save_for_backward(slot_M8, weight_M8)
        ctx.num_cells = len(feature_UC)
        return torch.from_numpy(interpolate(feature_UC.detach().contiguous().numpy(), slot_M8.numpy(), weight_M8.numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        slot_M8, weight_M8 = ctx.saved_tensors
        gradient = gradients[0].contiguous().numpy()
        return torch.from_numpy(interpolate_backward(gradient, slot_M8.numpy(), weight_M8.numpy(), ctx.num_cells)), None, None


class _RenderWeights(Function):
    @staticmethod
    def forward(ctx: Any, logit_RS: Tensor, count_R: Tensor) -> Tensor:
        weight_RS = torch.from_numpy(render_weights(logit_RS.detach().contiguous().numpy(), count_R.numpy()))
        ctx.save_for_backward(logit_RS, count_R, weight_RS)
        return weight_RS

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        logit_RS, count_R, weight_RS = (tensor.detach().contiguous().numpy() for tensor in ctx.saved_tensors)
        return torch.from_numpy(render_weights_backward(logit_RS, count_R, weight_RS, gradients[0].contiguous().numpy())), None


class _ReadOut(Function):
    """Rows of the read-out times features: one small matrix product per row that is in use."""

    @staticmethod
    def forward(ctx: Any, feature_NC: Tensor, weight_RDC: Tensor, bias_RD: Tensor, row_start: list[tuple[int, int, int]], patch_U: Tensor) -> Tensor:
        gathered = feature_NC[patch_U]
        out = torch.empty(len(patch_U), weight_RDC.shape[1])
        for row, first, last in row_start:
            torch.addmm(bias_RD[row], gathered[first:last], weight_RDC[row].T, out=out[first:last])
        ctx.save_for_backward(gathered, weight_RDC, patch_U)
        ctx.row_start, ctx.num_patches = row_start, len(feature_NC)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gathered, weight_RDC, patch_U = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        weight_gradient, bias_gradient = torch.zeros_like(weight_RDC), torch.zeros(weight_RDC.shape[:2])
        gathered_gradient = torch.empty_like(gathered)
        for row, first, last in ctx.row_start:
            part = gradient[first:last]
            torch.mm(part.T, gathered[first:last], out=weight_gradient[row])
            bias_gradient[row] = part.sum(dim=0)
            torch.mm(part, weight_RDC[row], out=gathered_gradient[first:last])
        feature_gradient = torch.zeros(ctx.num_patches, gathered.shape[1]).index_add_(0, patch_U, gathered_gradient)
        return feature_gradient, weight_gradient, bias_gradient, None, None


class NeuralFeatureGrid(nn.Module):
    """Lazy feature grid, trilinear query, occupancy MLP and volume rendering.

    Source: CoPilot4D, figure 6 (LN, Linear to 2 x 2 x Z x 16 a patch cell; MLP 16, 32, 1) and equation 4.
    """

    def __init__(self, grid: Grid, dim: int, settings: FeatureGridConfig) -> None:
        super().__init__()
        self.grid = grid
        rows, columns, layers = grid.feature_cells_YXZ
        readout_rows = grid.config.grid.feature_cells_per_patch**2 * layers
        self.num_cells = rows * columns * layers
        self.norm = nn.LayerNorm(dim)
        self.readout_weight = nn.Parameter(torch.empty(readout_rows, settings.channels, dim))
        self.readout_bias = nn.Parameter(torch.zeros(readout_rows, settings.channels))
        nn.init.trunc_normal_(self.readout_weight, std=dim**-0.5)
        output = nn.Linear(settings.hidden, 1)
        nn.init.constant_(output.bias, settings.occupancy_bias)
        self.mlp = nn.Sequential(nn.Linear(settings.channels, settings.hidden), nn.ReLU(), output)
        self._slot_of_cell = np.empty(self.num_cells, dtype=np.int32)

    def query(self, feature_HWC: Tensor, position_M3: FloatArray) -> Tensor:
        """Grid features at positions, trilinear between cell centres.

        Args:
            feature_HWC: (H, W, dim) decoder map.
            position_M3: (M, 3) float32, metres, inside the region.
        Returns:
            (M, channels). Differentiable in the map and the read-out, not in the positions.
        """
        around = corners(position_M3, self.grid)
        used = np.zeros(self.num_cells, dtype=bool)
        used[around.cell_M8.reshape(-1)] = True
        cells = np.flatnonzero(used)
        self._slot_of_cell[cells] = np.arange(len(cells), dtype=np.int32)
        slot_M8 = torch.from_numpy(self._slot_of_cell[around.cell_M8])
        height, width, dim = feature_HWC.shape
        row, patch = np.divmod(cells, height * width)
        rows, first = np.unique(row, return_index=True)
        last = np.append(first[1:], len(row))
        ranges = [(int(r), int(a), int(b)) for r, a, b in zip(rows, first, last, strict=True)]
        features = self.norm(feature_HWC).reshape(height * width, dim).float()
        cell_UC = _ReadOut.apply(  # type: ignore[no-untyped-call]
            features, self.readout_weight, self.readout_bias, ranges, torch.from_numpy(patch))
        result: Tensor = _Interpolate.apply(cell_UC, slot_M8, torch.from_numpy(around.weight_M8))  # type: ignore[no-untyped-call]
        return result

    def render(self, feature_HWC: Tensor, mask_YXZ: BoolArray, origin_R3: FloatArray, direction_R3: FloatArray, jitter_R: FloatArray) -> RenderedRays:
        """Equation 4 along rays, sampled only inside the skip mask.

        Args:
            feature_HWC: (H, W, dim) decoder map.
            mask_YXZ: pooled skip mask, bool.
            origin_R3, direction_R3: (R, 3) float32, metres and unit vectors.
            jitter_R: (R,) float32 in 0..1; 0.5 for a deterministic result.
        """
        samples = sample_rays(origin_R3, direction_R3, mask_YXZ, self.grid, jitter_R)
        valid = np.arange(samples.distance_RS.shape[1]) < samples.count_R[:, None]
        ray, place = np.nonzero(valid)
        distance = samples.distance_RS[ray, place]
        position = origin_R3[ray] + distance[:, None] * direction_R3[ray]
        logit_RS = torch.zeros(valid.shape)
        if len(ray):
            logit = self.mlp(self.query(feature_HWC, position)).squeeze(1)
            logit_RS = logit_RS.index_put((torch.from_numpy(ray), torch.from_numpy(place)), logit)
        weight_RS = _RenderWeights.apply(logit_RS, torch.from_numpy(samples.count_R))  # type: ignore[no-untyped-call]
        distance_RS = torch.from_numpy(np.ascontiguousarray(samples.distance_RS))
        return RenderedRays(distance_RS, weight_RS, (weight_RS * distance_RS).sum(dim=1), weight_RS.sum(dim=1))
