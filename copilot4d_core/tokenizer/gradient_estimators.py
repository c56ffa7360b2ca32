# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Gradients past the choice of a code: a choice has none of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from copilot4d_core.config import Estimator

SHORTEST = 1e-6
"""A shorter vector has no direction to turn from."""


def straight_through(latent_ND: Tensor, code_ND: Tensor) -> Tensor:
    """The codes, (N, D); their gradient reaches the latents unchanged."""
    return latent_ND + (code_ND - latent_ND).detach()


def rotated(latent_ND: Tensor, code_ND: Tensor) -> Tensor:
    """The codes, (N, D); their gradient reaches the latents as if a constant rotation and scaling had made codes of latents.

    Source: the rotation trick, arXiv 2410.06424, equation 4: R = I - 2 r r' + 2 q e' with unit vectors e of the latent, q of
    the code and r of their sum. A latent or code without a direction keeps the straight-through gradient.
    """
    latent, code = latent_ND.detach(), code_ND.detach()
    length, code_length = latent.norm(dim=1, keepdim=True), code.norm(dim=1, keepdim=True)
    start, end = normalize(latent, dim=1), normalize(code, dim=1)
    middle = normalize(start + end, dim=1)
    turned = latent_ND - 2 * (latent_ND * middle).sum(dim=1, keepdim=True) * middle + 2 * (latent_ND * start).sum(dim=1, keepdim=True) * end
    passed = turned * (code_length / length.clamp(min=SHORTEST))
    passed = torch.where((length > SHORTEST) & (code_length > SHORTEST), passed, latent_ND)
    return passed + (code_ND - passed).detach()


ESTIMATORS: dict[Estimator, Callable[[Tensor, Tensor], Tensor]] = {Estimator.STRAIGHT_THROUGH: straight_through, Estimator.ROTATION: rotated}
