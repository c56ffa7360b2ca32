# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The whole method in one class: points to tokens, tokens to depth along rays.

    points -> voxels -> pillars -> patch map -> SwinEncoder -> latents -> Quantizer -> tokens
    tokens -> codes -> SwinDecoder -> features -> SpatialSkipBranch -> mask
                                              \\-> NeuralFeatureGrid, along rays inside the mask -> depth

Source: CoPilot4D (ICLR 2024), section 4.1 and figure 6. One scan at a time; maps are (rows = y, columns = x, channels).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from copilot4d_core.config import Config
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.voxelize import Voxels, voxelize
from copilot4d_core.model_file import tensor_shapes
from copilot4d_core.tokenizer.bev_pooling import BEVPillarPooling
from copilot4d_core.tokenizer.choose_quantizer import choose_quantizer
from copilot4d_core.tokenizer.neural_feature_grid import NeuralFeatureGrid, RenderedRays
from copilot4d_core.tokenizer.patch_embedding import SparsePatchEmbedding
from copilot4d_core.tokenizer.quantizer import Quantized
from copilot4d_core.tokenizer.spatial_skipping import SpatialSkipBranch
from copilot4d_core.tokenizer.swin_transformer import SwinDecoder, SwinEncoder
from copilot4d_core.tokenizer.voxel_encoder import VoxelPointNet


class Decoded(NamedTuple):
    """What the decoder makes of a token grid."""

    feature_HWC: Tensor
    """Patch map from which the feature grid is read."""
    skip_logit_HWPPZ: Tensor
    """One logit per voxel: is there anything?"""


class Tokenizer(nn.Module):
    """LiDAR tokenizer: `encode_latent`, `quantize`, `decode`, `render`."""

    trunks_in_bf16 = False
    """Whether the Swin trunks multiply in bfloat16 while training; coordinates, codes, rendering and losses stay float32."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.grid = config, Grid(config)
        swin, dims = config.swin, config.swin.dims
        layers, patches = self.grid.voxels_YXZ[2], self.grid.patches_HW
        patch_voxels = config.grid.patch_voxels
        self.voxel_encoder = VoxelPointNet(config.voxel_encoder.dim)
        self.bev_pooling = BEVPillarPooling(config.voxel_encoder.dim, config.bev_pooling.z_embedding_dim, config.bev_pooling.dim, layers)
        self.patch_embedding = SparsePatchEmbedding(config.bev_pooling.dim, dims[0], patch_voxels, patches)
        self.encoder = SwinEncoder(dims, swin.encoder_depths, swin.heads, swin.window, swin.mlp_ratio, patches)
        self.pre_quantizer = nn.Sequential(nn.LayerNorm(dims[1]), nn.GELU(), nn.Linear(dims[1], config.quantizer.codebook_dim))
        self.quantizer = choose_quantizer(config)
        self.decoder = SwinDecoder(config.quantizer.codebook_dim, dims, swin.decoder_depths, swin.heads, swin.window, swin.mlp_ratio, patches)
        self.feature_grid = NeuralFeatureGrid(self.grid, dims[0], config.feature_grid)
        self.spatial_skip = SpatialSkipBranch(dims[0], patch_voxels, layers, config.spatial_skip.pool_voxels, config.spatial_skip.bias)

    def voxelize(self, points_m: FloatArray) -> Voxels:
        """Occupied voxels of a cloud, (N, 3) float32 metres; points outside the region are left out."""
        return voxelize(points_m, self.grid)

    def encode_patches(self, voxels: Voxels) -> Tensor:
        """Sparse half of the encoder: occupied voxels to the dense patch map, (H, W, dims[0])."""
        offset_N3 = torch.from_numpy(voxels.offset_N3)
        voxel_start, layer, pillar_start, slot, patch_start, patch_index = (torch.from_numpy(np.asarray(index)).long() for index in voxels[1:])
        pillar_PC = torch.zeros(0, self.config.bev_pooling.dim)
        if len(layer):
            voxel_VC = self.voxel_encoder(offset_N3, voxel_start)
            pillar_PC = self.bev_pooling(voxel_VC, layer, pillar_start)
        patch_HWC: Tensor = self.patch_embedding(pillar_PC, slot, patch_start, patch_index)
        return patch_HWC

    def encode_latent(self, patch_HWC: Tensor) -> Tensor:
        """Dense half of the encoder: patch map to latents before quantisation, (H, W, codebook_dim) on the token map."""
        with self._trunk_precision():
            token_HWC = self.encoder(patch_HWC)
        latent_HWD: Tensor = self.pre_quantizer(token_HWC.float())
        return latent_HWD

    def blank_cells(self, patch_HWC: Tensor) -> Tensor:
        """Token cells that become token 0: no point in them or in the eight beside them, (H / 2, W / 2) bool; none where the settings say so."""
        if not self.config.quantizer.blank_token:
            return torch.zeros(self.grid.tokens_HW, dtype=torch.bool)
        held = (patch_HWC.detach() != self.patch_embedding.bias.detach()).any(dim=2).float()
        return functional.max_pool2d(held[None], kernel_size=6, stride=2, padding=2)[0] == 0  # a cell is 2 x 2 patches, 3 x 3 cells are 6 x 6

    def quantize(self, latent_HWD: Tensor, occupied_HW: Tensor, blank_HW: Tensor) -> tuple[Quantized, Tensor]:
        """Chosen codes; the quantiser's result and the codes as a map, (H, W, codebook_dim).

        Args:
            latent_HWD: (H, W, codebook_dim).
            occupied_HW: bool, cells that hold points; looked at in training only.
            blank_HW: bool, see `blank_cells`.
        """
        quantized = self.quantizer(latent_HWD.flatten(0, 1), occupied_HW.flatten(), blank_HW.flatten())
        return quantized, quantized.code_ND.view(latent_HWD.shape)

    def tokenize(self, points_m: FloatArray) -> Tensor:
        """Tokens of a cloud, (H, W) int64; the quantiser must be in evaluation mode."""
        return self.tokenize_patches(self.encode_patches(self.voxelize(points_m)))

    def tokenize_patches(self, patch_HWC: Tensor) -> Tensor:
        """As `tokenize`, from the patch map."""
        blank = self.blank_cells(patch_HWC)
        quantized, _ = self.quantize(self.encode_latent(patch_HWC), torch.zeros_like(blank), blank)
        return quantized.token_N.view(self.grid.tokens_HW)

    def look_up(self, token_HW: Tensor) -> Tensor:
        """Code vectors of a token grid, (H, W, codebook_dim)."""
        return self.quantizer.look_up(token_HW)

    def decode(self, code_HWD: Tensor) -> Decoded:
        """Codes to decoder features and skip logits."""
        with self._trunk_precision():
            feature = self.decoder(code_HWD)
        feature = feature.float()
        return Decoded(feature, self.spatial_skip(feature))

    def _trunk_precision(self) -> AbstractContextManager[object]:
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16, enabled=self.trunks_in_bf16 and self.training)

    def predicted_mask(self, decoded: Decoded) -> BoolArray:
        """Skip mask as deployed, (Y, X, Z) bool; all of it where the settings say so."""
        if not self.config.spatial_skip.enabled:
            return np.ones(self.grid.mask_cells_YXZ, dtype=bool)
        mask: BoolArray = self.spatial_skip.mask(decoded.skip_logit_HWPPZ, self.config.spatial_skip.threshold).numpy()
        return mask

    def render(self, decoded: Decoded, mask_YXZ: BoolArray, origin_R3: FloatArray, direction_R3: FloatArray,
               jitter_R: FloatArray | None = None) -> RenderedRays:
        """Equation 4 along rays inside the mask; without jitter the samples lie in the middle of their intervals."""
        jitter = np.full(len(origin_R3), 0.5, dtype=np.float32) if jitter_R is None else jitter_R
        return self.feature_grid.render(decoded.feature_HWC, mask_YXZ, origin_R3, direction_R3, jitter)

    def num_parameters(self) -> int:
        """Trained numbers, the codebook included however it is updated."""
        return sum(math.prod(shape) for shape in tensor_shapes(self.config).values())
