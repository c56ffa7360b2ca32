# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points of a voxel to one feature: PointNet with sum pooling."""

from __future__ import annotations

from torch import Tensor, nn

from copilot4d_core.tokenizer.segments import segment_sum


class VoxelPointNet(nn.Module):
    """MLP per point, sum over the points of a voxel, layer norm.

    Source: CoPilot4D, figure 6: Linear, LN, ReLU, Linear; sum + LN replaces the max of PointNet. The input is the
    point minus its voxel's centre, divided by half the voxel (so -1..1); reflectance is not used.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, offset_N3: Tensor, voxel_start_V1: Tensor) -> Tensor:
        """Feature of each occupied voxel.

        Args:
            offset_N3: (N, 3) float32, points sorted by voxel, in half voxels.
            voxel_start_V1: (V + 1,) int64.
        Returns:
            (V, dim). An empty voxel has no row and contributes nothing later.
        """
        point_NC = self.mlp(offset_N3)
        voxel_VC: Tensor = self.norm(segment_sum(point_NC, voxel_start_V1))
        return voxel_VC
