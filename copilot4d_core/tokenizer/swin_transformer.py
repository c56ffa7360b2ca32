# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Two-stage Swin encoder and decoder over a bird's-eye-view map.

Maps are (H, W, C), one scan at a time. The shift mask and the relative position bias are folded into one additive
constant per block, which is also what an exported graph wants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from copilot4d_core.kernels.swin_block import LABELS, BlockShape, BlockWeights, misfit, swin_block
from copilot4d_core.kernels.swin_block_gradient import swin_block_gradient


def sincos_positions(height: int, width: int, dim: int) -> Tensor:
    """Fixed sine-cosine positions of a map, (height, width, dim) float32.

    Source: ViT (Vaswani frequencies per axis). The paper's 13 M parameters leave no room for a learned table.
    """
    frequency = torch.exp(torch.arange(dim // 4, dtype=torch.float32) * (-math.log(10_000.0) / (dim // 4)))
    row = torch.arange(height, dtype=torch.float32)[:, None] * frequency
    column = torch.arange(width, dtype=torch.float32)[:, None] * frequency
    row_HC = torch.cat([row.sin(), row.cos()], dim=1)
    column_WC = torch.cat([column.sin(), column.cos()], dim=1)
    return torch.cat([row_HC[:, None].expand(-1, width, -1), column_WC[None].expand(height, -1, -1)], dim=2)


def _relative_index(window: int) -> Tensor:
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    place = torch.stack([row.flatten(), column.flatten()])
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def _shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """(windows, window^2, window^2): 0 between cells that were neighbours before the roll, -100 otherwise."""
    region = torch.zeros(height, width)
    edges = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in edges for c in edges):
        region[rows, columns] = number
    flat = _windows(region[..., None], window).squeeze(-1)
    return (flat[:, :, None] != flat[:, None, :]).float() * -100.0


def _windows(map_HWC: Tensor, window: int) -> Tensor:
    height, width, channels = map_HWC.shape
    tiled = map_HWC.view(height // window, window, width // window, window, channels)
    return tiled.permute(0, 2, 1, 3, 4).reshape(-1, window * window, channels)


def _unwindow(windows_NTC: Tensor, window: int, height: int, width: int) -> Tensor:
    tiled = windows_NTC.view(height // window, width // window, window, window, -1)
    return tiled.permute(0, 2, 1, 3, 4).reshape(height, width, -1)


class _InKernels(Function):
    """A whole block as one node of the graph, which keeps nothing but its input."""

    @staticmethod
    def forward(ctx: Any, map_HWC: Tensor, shape: BlockShape, shift: int, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(map_HWC, *weights)
        ctx.shape, ctx.shift = shape, shift
        return torch.from_numpy(swin_block(map_HWC.detach().numpy(), _values(weights), shape, shift))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        map_HWC, *weights = ctx.saved_tensors
        out = swin_block_gradient(map_HWC.detach().numpy(), gradients[0].numpy(), _values(weights), ctx.shape, ctx.shift)
        return torch.from_numpy(out.map_HWC), None, None, *map(torch.from_numpy, out.weights)


def _values(weights: Sequence[Tensor]) -> BlockWeights:
    return BlockWeights(*(weight.detach().numpy() for weight in weights))


class SwinBlock(nn.Module):
    """Window attention and MLP, pre-norm; every second block shifts the windows by half.

    Source: Swin Transformer (Liu et al. 2021). Unusual: training in float32 on a CPU runs a block as two kernels, forward and backward;
    everything else, and what is exported, runs it layer by layer.
    """

    trains_in_kernels = True
    """Off for the plain step that the benchmark compares with."""
    shift_mask: Tensor
    relative_index: Tensor

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float, shape_HW: tuple[int, int]) -> None:
        super().__init__()
        if min(shape_HW) <= window:
            shift = 0
        self.heads, self.window, self.shift = heads, window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        self.shape = BlockShape(dim, heads, hidden, window)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)
        self.register_buffer("relative_index", _relative_index(window), persistent=False)
        mask = _shift_mask(*shape_HW, window, shift) if shift else torch.zeros(1, window * window, window * window)
        self.register_buffer("shift_mask", mask, persistent=False)

    def attention_bias(self) -> Tensor:
        """Relative bias and shift mask as one constant, (windows or 1, heads, T, T)."""
        bias = self.relative_bias[self.relative_index].permute(2, 0, 1)
        return bias[None] + self.shift_mask[:, None]

    def forward(self, map_HWC: Tensor) -> Tensor:
        """(H, W, dim) to the same shape."""
        if self._has_kernels(map_HWC):
            out: Tensor = _InKernels.apply(  # type: ignore[no-untyped-call]
                map_HWC, self.shape, self.shift, *(self.get_parameter(label) for label in LABELS))
            return out
        return self.layer_by_layer(map_HWC)

    def _has_kernels(self, map_HWC: Tensor) -> bool:
        return (self.training and self.trains_in_kernels and map_HWC.device.type == "cpu" and map_HWC.dtype == torch.float32
                and not torch.is_autocast_enabled("cpu") and not misfit(self.shape))

    def layer_by_layer(self, map_HWC: Tensor) -> Tensor:
        """As `forward`, in torch's own operations."""
        height, width, _ = map_HWC.shape
        normed = self.norm1(map_HWC)
        if self.shift:
            normed = torch.roll(normed, (-self.shift, -self.shift), dims=(0, 1))
        tokens = _windows(normed, self.window)
        query, key, value = self.qkv(tokens).view(*tokens.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=self.attention_bias().to(query.dtype))
        merged = self.projection(attended.transpose(1, 2).reshape(tokens.shape))
        merged = _unwindow(merged, self.window, height, width)
        if self.shift:
            merged = torch.roll(merged, (self.shift, self.shift), dims=(0, 1))
        attended_HWC = map_HWC + merged
        out_HWC: Tensor = attended_HWC + self.mlp(self.norm2(attended_HWC))
        return out_HWC


def _stage(depth: int, dim: int, heads: int, window: int, mlp_ratio: float, shape_HW: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(*(SwinBlock(dim, heads, window, (i % 2) * (window // 2), mlp_ratio, shape_HW) for i in range(depth)))


class SwinEncoder(nn.Module):
    """Norm and positions, stage 1 on the patch map, patch merging, stage 2 on the token map.

    Source: CoPilot4D, figure 6. Patch merging: 2 x 2 patchify, LN, Linear.
    """

    positions_HWC: Tensor

    def __init__(self, dims: tuple[int, int], depths: tuple[int, int], heads: tuple[int, int], window: int, mlp_ratio: float,
                 patches_HW: tuple[int, int]) -> None:
        super().__init__()
        tokens_HW = (patches_HW[0] // 2, patches_HW[1] // 2)
        self.register_buffer("positions_HWC", sincos_positions(*patches_HW, dims[0]), persistent=False)
        self.norm = nn.LayerNorm(dims[0])
        self.stage1 = _stage(depths[0], dims[0], heads[0], window, mlp_ratio, patches_HW)
        self.merge_norm, self.merge = nn.LayerNorm(4 * dims[0]), nn.Linear(4 * dims[0], dims[1])
        self.stage2 = _stage(depths[1], dims[1], heads[1], window, mlp_ratio, tokens_HW)

    def forward(self, patch_HWC: Tensor) -> Tensor:
        """(H, W, dims[0]) patch map to (H / 2, W / 2, dims[1]) token features."""
        map_HWC = self.stage1(self.norm(patch_HWC) + self.positions_HWC)
        height, width, channels = map_HWC.shape
        merged = map_HWC.view(height // 2, 2, width // 2, 2, channels).permute(0, 2, 1, 3, 4).reshape(height // 2, width // 2, -1)
        token_HWC: Tensor = self.stage2(self.merge(self.merge_norm(merged)))
        return token_HWC


class SwinDecoder(nn.Module):
    """Linear from the code, stage 2 on the token map, patch upsampling, stage 1 on the patch map.

    Source: CoPilot4D, figure 6. Upsampling: DeConv (2 x 2, stride 2), LN, Linear. The figure shows no position in the
    decoder; the tokens carry it.
    """

    def __init__(self, code_dim: int, dims: tuple[int, int], depths: tuple[int, int], heads: tuple[int, int], window: int, mlp_ratio: float,
                 patches_HW: tuple[int, int]) -> None:
        super().__init__()
        tokens_HW = (patches_HW[0] // 2, patches_HW[1] // 2)
        self.input = nn.Linear(code_dim, dims[1])
        self.stage2 = _stage(depths[0], dims[1], heads[1], window, mlp_ratio, tokens_HW)
        # A 2 x 2 deconvolution of stride 2 is one linear map per cell to its four children.
        self.upsample = nn.Linear(dims[1], 4 * dims[1])
        self.upsample_norm, self.upsample_linear = nn.LayerNorm(dims[1]), nn.Linear(dims[1], dims[0])
        self.stage1 = _stage(depths[1], dims[0], heads[0], window, mlp_ratio, patches_HW)

    def forward(self, code_HWC: Tensor) -> Tensor:
        """(H, W, code_dim) codes to (2 H, 2 W, dims[0]) features."""
        map_HWC = self.stage2(self.input(code_HWC))
        height, width, _ = map_HWC.shape
        children = self.upsample(map_HWC).view(height, width, 2, 2, -1).permute(0, 2, 1, 3, 4).reshape(2 * height, 2 * width, -1)
        feature_HWC: Tensor = self.stage1(self.upsample_linear(self.upsample_norm(children)))
        return feature_HWC
