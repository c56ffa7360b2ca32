# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Occupied pillars to the dense patch map: the only place where the sparse half of the encoder ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copilot4d_core.tokenizer.segments import segment_sum


class SparsePatchEmbedding(nn.Module):
    """Patchify and Linear, summed pillar by pillar; the layer norm that follows is the dense encoder's first step.

    Source: CoPilot4D, figure 6 (4 x 4 pillars a patch cell). The linear layer over a patch is a sum over its pillars,
    so blank pillars cost nothing and the dense pillar map never exists.
    """

    def __init__(self, pillar_dim: int, dim: int, patch_voxels: int, patches_HW: tuple[int, int]) -> None:
        super().__init__()
        self.patches_HW = patches_HW
        self.weight = nn.Parameter(torch.empty(patch_voxels * patch_voxels, pillar_dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.weight, std=(patch_voxels * patch_voxels * pillar_dim) ** -0.5)

    def forward(self, pillar_PC: Tensor, slot_P: Tensor, patch_start_C1: Tensor, patch_index_C: Tensor) -> Tensor:
        """Dense patch map before its layer norm.

        Args:
            pillar_PC: (P, pillar_dim), pillars sorted by patch cell.
            slot_P: (P,) int64, place of each pillar inside its patch cell.
            patch_start_C1: (C + 1,) int64; patch_index_C: (C,) int64, occupied patch cells, row-major.
        Returns:
            (H, W, dim); a blank patch cell holds the bias.
        """
        height, width = self.patches_HW
        map_NC = self.bias.expand(height * width, -1)
        if len(slot_P):
            order = torch.argsort(slot_P, stable=True)
            parts = torch.split(pillar_PC[order], torch.bincount(slot_P, minlength=len(self.weight)).tolist())
            embedded = torch.cat([part @ weight for part, weight in zip(parts, self.weight, strict=True)])
            summed = segment_sum(embedded[torch.argsort(order)], patch_start_C1)
            map_NC = map_NC.index_add(0, patch_index_C, summed)
        return map_NC.view(height, width, -1)
