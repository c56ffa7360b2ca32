# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Equation 5, one function per term. Every reduction is named; weights are settings (`LossConfig`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from copilot4d_core.config import LossConfig
from copilot4d_core.kernels.cross_entropy import cross_entropy


class TokenizerLosses(NamedTuple):
    """Each term before its weight, and the weighted total; scalars."""

    total: Tensor
    depth_l1: Tensor
    surface_concentration: Tensor
    spatial_skip_bce: Tensor
    vq: Tensor
    opacity: Tensor
    likelihood: Tensor


class _CrossEntropy(Function):
    """Sum and gradient in one pass: there are millions of voxels."""

    @staticmethod
    def forward(ctx: Any, logit: Tensor, occupied: Tensor, positive_weight: float) -> Tensor:
        result = cross_entropy(logit.detach().reshape(-1).numpy(), occupied.reshape(-1).numpy(), positive_weight)
        ctx.gradient = torch.from_numpy(result.gradient_N).view(logit.shape)
        return torch.tensor(result.total, dtype=logit.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.gradient, None, None


def l1_depth_loss(depth_R: Tensor, depth_gt_R: Tensor) -> Tensor:
    """Mean over rays of |D - D_gt|, metres. Source: equation 5, first term."""
    return (depth_R - depth_gt_R).abs().mean()


def surface_concentration_loss(weight_RS: Tensor, distance_RS: Tensor, depth_gt_R: Tensor, eps_m: float = 0.4) -> Tensor:
    """Sum over samples, mean over rays, of w^2 where |h - D_gt| > eps. Source: equation 5, second term.

    Args:
        weight_RS: (R, S), 0 for a sample that does not exist.
        distance_RS: (R, S), metres.
        depth_gt_R: (R,), metres.
        eps_m: margin around the surface.
    """
    far = (distance_RS - depth_gt_R[:, None]).abs() > eps_m
    return (weight_RS.square() * far).sum(dim=1).mean()


def spatial_skip_bce_loss(logit: Tensor, occupied: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Mean over voxels of BCE(v, v_gt). Source: equation 5, third term.

    Args:
        logit: any shape; occupied: same shape, 0 or 1.
        positive_weight: factor on occupied voxels (about 0.5 % of all); 1 is the paper.
    """
    if logit.dtype == torch.float32 and logit.device.type == "cpu":
        total: Tensor = _CrossEntropy.apply(logit, occupied, positive_weight)  # type: ignore[no-untyped-call]
        return total / logit.numel()
    held = occupied.to(logit.dtype)
    return (positive_weight * held * F.softplus(-logit) + (1 - held) * F.softplus(logit)).mean()


def opacity_loss(opacity_R: Tensor, returned_R: Tensor) -> Tensor:
    """Mean over beams of the BCE between the opacity and whether the beam returned; not in the paper.

    Equation 5 is silent about beams without a return, so nothing would teach a ray to meet nothing.

    Args:
        opacity_R: (R,), sum of weights, 0..1.
        returned_R: (R,) bool.
    """
    opacity = opacity_R.clamp(1e-4, 1 - 1e-4)
    return F.binary_cross_entropy(opacity, returned_R.to(opacity.dtype))


LEAST_LIKELIHOOD = 0.01
"""Keeps the gradient of a ray that puts nothing at its surface finite."""


def surface_likelihood_loss(weight_RS: Tensor, distance_RS: Tensor, depth_gt_R: Tensor, eps_m: float = 0.4) -> Tensor:
    """Mean over rays of -log of the weight within eps of the surface; not in the paper.

    The weights of a ray say where it ends with what probability, and the median is read off them. Their mean, which the depth term
    looks at, can be right while they are not; this is least where they are right: a proper score. Near to it: Deng et al., DS-NeRF, 2022.

    Args: as of `surface_concentration_loss`.
    """
    near = (distance_RS - depth_gt_R[:, None]).abs() <= eps_m
    return -torch.log((weight_RS * near).sum(dim=1) + LEAST_LIKELIHOOD).mean()


def tokenizer_total_loss(settings: LossConfig, depth_R: Tensor, weight_RS: Tensor, distance_RS: Tensor, depth_gt_R: Tensor, returned_R: Tensor,
                         skip_logit: Tensor, occupied: Tensor, vq: Tensor) -> TokenizerLosses:
    """Equation 5 plus the opacity and the likelihood term.

    Args:
        settings: weights and margin.
        depth_R, weight_RS, distance_RS: rendering of R beams; the depth terms use those with a return only.
        depth_gt_R: metres, any value for a beam without a return; returned_R: (R,) bool.
        skip_logit, occupied: skip branch and its truth, one shape.
        vq: loss of the quantiser.
    """
    depth_l1 = l1_depth_loss(depth_R[returned_R], depth_gt_R[returned_R])
    concentration = surface_concentration_loss(weight_RS[returned_R], distance_RS[returned_R], depth_gt_R[returned_R], settings.concentration_eps_m)
    skip = spatial_skip_bce_loss(skip_logit, occupied, settings.skip_positive_weight)
    likelihood = surface_likelihood_loss(weight_RS[returned_R], distance_RS[returned_R], depth_gt_R[returned_R], settings.concentration_eps_m)
    opacity = opacity_loss(weight_RS.sum(dim=1), returned_R)
    total = (settings.depth_weight * depth_l1 + settings.concentration_weight * concentration + settings.skip_weight * skip
             + settings.vq_weight * vq + settings.opacity_weight * opacity + settings.likelihood_weight * likelihood)
    return TokenizerLosses(total, depth_l1, concentration, skip, vq, opacity, likelihood)
