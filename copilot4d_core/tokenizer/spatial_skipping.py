# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which cells are worth rendering: the spatial-skip branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpatialSkipBranch(nn.Module):
    """LN and Linear on the decoder's features to one logit per voxel; max-pooled and thresholded to the skip mask.

    Source: CoPilot4D, figures 6 and 8; first bias -5. Training renders the ground-truth mask, inference the predicted one.
    """

    def __init__(self, dim: int, patch_voxels: int, layers: int, pool_voxels: int, bias: float) -> None:
        super().__init__()
        self.patch_voxels, self.layers, self.pool = patch_voxels, layers, pool_voxels // patch_voxels
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, patch_voxels * patch_voxels * layers)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, bias)

    def forward(self, feature_HWC: Tensor) -> Tensor:
        """(H, W, dim) to logits (H, W, patch rows, patch columns, layers), one a voxel."""
        height, width, _ = feature_HWC.shape
        logits: Tensor = self.linear(self.norm(feature_HWC))
        return logits.view(height, width, self.patch_voxels, self.patch_voxels, self.layers)

    def pooled_logits(self, logit_HWPPZ: Tensor) -> Tensor:
        """Largest logit of each pooled cell, (H / pool, W / pool, layers)."""
        height, width, *_ = logit_HWPPZ.shape
        per_patch = logit_HWPPZ.amax(dim=(2, 3))
        return per_patch.view(height // self.pool, self.pool, width // self.pool, self.pool, self.layers).amax(dim=(1, 3))

    def pooled(self, feature_HWC: Tensor) -> Tensor:
        """As `pooled_logits` of `forward`, for inference: the volume of one logit per voxel never exists.

        The largest of several linear maps is taken map by map: at paper size 17 MB at a time instead of 268 MB.
        """
        height, width, dim = feature_HWC.shape
        normed = self.norm(feature_HWC)
        weight_SZC, bias_SZ = self.linear.weight.view(-1, self.layers, dim), self.linear.bias.view(-1, self.layers)
        largest: Tensor = functional.linear(normed, weight_SZC[0], bias_SZ[0])
        for weight_ZC, bias_Z in zip(weight_SZC[1:], bias_SZ[1:], strict=True):
            largest = torch.maximum(largest, functional.linear(normed, weight_ZC, bias_Z))
        return largest.view(height // self.pool, self.pool, width // self.pool, self.pool, self.layers).amax(dim=(1, 3))

    def mask(self, logit_HWPPZ: Tensor, threshold: float) -> Tensor:
        """Pooled cells whose probability exceeds the threshold, (Y, X, Z) bool."""
        return self.pooled_logits(logit_HWPPZ) > torch.logit(torch.tensor(threshold)).item()

    def target(self, occupancy_YXZ: Tensor) -> Tensor:
        """Voxel occupancy (Y, X, Z) in the order of the logits."""
        rows, columns, layers = occupancy_YXZ.shape
        patch = self.patch_voxels
        return occupancy_YXZ.view(rows // patch, patch, columns // patch, patch, layers).transpose(1, 2)
