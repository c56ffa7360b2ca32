# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Voxels of a pillar to one bird's-eye-view feature, with a learned embedding of the height."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copilot4d_core.tokenizer.segments import segment_sum


class BEVPillarPooling(nn.Module):
    """Concatenate the z embedding, MLP per voxel, sum over z, layer norm.

    Source: CoPilot4D, figure 6 (the text adds the embedding after a linear layer; the figure concatenates it).
    Only occupied voxels are summed: an empty voxel contributes nothing.
    """

    def __init__(self, voxel_dim: int, z_embedding_dim: int, dim: int, layers: int) -> None:
        super().__init__()
        self.z_embedding = nn.Embedding(layers, z_embedding_dim)
        self.mlp = nn.Sequential(nn.Linear(voxel_dim + z_embedding_dim, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, voxel_VC: Tensor, layer_V: Tensor, pillar_start_P1: Tensor) -> Tensor:
        """Feature of each occupied pillar.

        Args:
            voxel_VC: (V, voxel_dim), voxels sorted by pillar.
            layer_V: (V,) int64, z index of each voxel.
            pillar_start_P1: (P + 1,) int64.
        Returns:
            (P, dim).
        """
        embedded = self.mlp(torch.cat([voxel_VC, self.z_embedding(layer_V)], dim=1))
        pillar_PC: Tensor = self.norm(segment_sum(embedded, pillar_start_P1))
        return pillar_PC
