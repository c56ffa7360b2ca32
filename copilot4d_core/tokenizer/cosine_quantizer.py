# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Codes are directions: latents and codes have length 1, and the nearest code is that of the largest dot product."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer


class CosineQuantizer(VectorQuantizer):
    """As `VectorQuantizer` on the unit sphere.

    Source: Yu et al., Vector-quantized Image Modeling with Improved VQGAN, arXiv 2110.04627, section 3.2. For unit vectors
    |z - e|^2 = 2 - 2 z.e, so the smallest distance and the largest dot product choose the same code.
    """

    def placed(self, latent_ND: Tensor) -> Tensor:
        return normalize(latent_ND, dim=1)

    def codes(self) -> Tensor:
        return normalize(self.codebook, dim=1)
