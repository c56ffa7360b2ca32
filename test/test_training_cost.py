# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of one training sample at paper size, counted by torch and by hand; `pytest -s` prints them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from copilot4d_core.config import preset
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.grid import Grid
from copilot4d_core.tokenizer.neural_feature_grid import NeuralFeatureGrid
from copilot4d_core.tokenizer.spatial_skipping import SpatialSkipBranch
from copilot4d_core.tokenizer.swin_transformer import SwinDecoder, SwinEncoder

PAPER = preset("paper")
GRID = Grid(PAPER)
DIMS, SWIN = PAPER.swin.dims, PAPER.swin
PATCHES, TOKENS = (rows * columns for rows, columns in (GRID.patches_HW, GRID.tokens_HW))
CODE = PAPER.quantizer.codebook_dim


def counted(module: nn.Module, *shape: int) -> tuple[int, int]:
    """Operations of forward and backward; on torch's meta device, which computes shapes only."""
    with FlopCounterMode(display=False) as forward:
        result: Tensor = module.to("meta")(torch.empty(*shape, device="meta", requires_grad=True))
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def blocks(number: int, cells: int, dim: int) -> int:
    """Swin blocks by hand: query, key and value, projection, two MLP layers of four times the width; scores and their sums over a window."""
    linear = 2 * cells * dim * dim * (3 + 1 + 4 + 4)
    attention = 2 * 2 * cells * SWIN.window**2 * dim
    return number * (linear + attention)


def rendering() -> tuple[int, int]:
    """Of the rays of one sample along a simulated 64-beam scan, inside the cells that hold its points."""
    scan = next(simulate_drive(0, 1, "hdl64"))
    points = scan.points_m[GRID.inside(scan.points_m)]
    count = PAPER.training.rays_per_scan + PAPER.training.empty_rays_per_scan
    chosen = points[np.random.default_rng(0).permutation(len(points))[:count]]
    directions = (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)
    head = NeuralFeatureGrid(GRID, DIMS[0], PAPER.feature_grid)
    feature = torch.randn(*GRID.patches_HW, DIMS[0], requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        rays = head.render(feature, GRID.pool_mask(GRID.occupancy(points)), np.zeros_like(directions), directions, np.full(count, 0.5, np.float32))
    with FlopCounterMode(display=False) as backward:
        rays.depth_R.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_operations_of_a_sample_at_paper_size() -> None:
    encoder = SwinEncoder(DIMS, SWIN.encoder_depths, SWIN.heads, SWIN.window, SWIN.mlp_ratio, GRID.patches_HW)
    decoder = SwinDecoder(CODE, DIMS, SWIN.decoder_depths, SWIN.heads, SWIN.window, SWIN.mlp_ratio, GRID.patches_HW)
    skip = SpatialSkipBranch(DIMS[0], PAPER.grid.patch_voxels, GRID.voxels_YXZ[2], PAPER.spatial_skip.pool_voxels, PAPER.spatial_skip.bias)
    parts = {"encoder trunk": counted(encoder, *GRID.patches_HW, DIMS[0]), "pre-quantiser": counted(nn.Linear(DIMS[1], CODE), TOKENS, DIMS[1]),
             "nearest code": (2 * TOKENS * CODE * PAPER.quantizer.codebook_size, 0), "decoder trunk": counted(decoder, *GRID.tokens_HW, CODE),
             "skip branch": counted(skip, *GRID.patches_HW, DIMS[0]), "rendering": rendering()}
    merge = 2 * TOKENS * 4 * DIMS[0] * DIMS[1]
    assert parts["encoder trunk"][0] == blocks(2, PATCHES, DIMS[0]) + merge + blocks(6, TOKENS, DIMS[1])
    upsample = 2 * TOKENS * DIMS[1] * 4 * DIMS[1] + 2 * PATCHES * DIMS[1] * DIMS[0]
    assert parts["decoder trunk"][0] == 2 * TOKENS * CODE * DIMS[1] + blocks(6, TOKENS, DIMS[1]) + upsample + blocks(2, PATCHES, DIMS[0])
    assert parts["skip branch"][0] == 2 * PATCHES * DIMS[0] * 4 * 4 * GRID.voxels_YXZ[2]
    for name in ("encoder trunk", "pre-quantiser", "decoder trunk", "skip branch"):
        assert parts[name][1] == 2 * parts[name][0], "each product has two gradients of its own size"
    for name, (forward, backward) in parts.items():
        print(f"{name:14} forward {forward / 1e9:7.1f}, backward {backward / 1e9:7.1f} GFLOP")
    print(f"{'a sample':14} {sum(map(sum, parts.values())) / 1e12:.2f} TFLOP")
