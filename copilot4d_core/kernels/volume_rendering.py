# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Equation 4 along each ray in log space, with its backward (training).

x_i is the occupancy logit of sample i: log T_i = -sum_{j<i} softplus(x_j); w_i = exp(logsigmoid(x_i) + log T_i).
Unusual: no alpha is ever formed, so saturated logits keep finite gradients (1 - alpha would be 0 in float32).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.grid import IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows

AnyFloat = npt.NDArray[Any]


@wp.func
def softplus(x: Any):
    """log(1 + exp(x)) without overflow."""
    zero = x - x
    return wp.max(x, zero) + wp.log(zero + type(x)(1.0) + wp.exp(-wp.abs(x)))


@wp.kernel
def _weights_kernel(first: int, logits: wp.array2d(dtype=Any), counts: wp.array(dtype=wp.int32), weights: wp.array2d(dtype=Any)):
    i = first + wp.tid()
    log_clear = logits.dtype(0.0)
    for k in range(logits.shape[1]):
        if k < counts[i]:
            x = logits[i, k]
            weights[i, k] = wp.exp(log_clear - softplus(-x))
            log_clear = log_clear - softplus(x)
        else:
            weights[i, k] = logits.dtype(0.0)


@wp.kernel
def _weights_backward_kernel(first: int, logits: wp.array2d(dtype=Any), counts: wp.array(dtype=wp.int32), weights: wp.array2d(dtype=Any),
                             gradient: wp.array2d(dtype=Any), out: wp.array2d(dtype=Any)):
    i = first + wp.tid()
    behind = logits.dtype(0.0)
    for k in range(logits.shape[1]):
        out[i, k] = logits.dtype(0.0)
    for j in range(counts[i]):
        k = counts[i] - 1 - j
        x = logits[i, k]
        own = gradient[i, k] * weights[i, k]
        # d w_k / d x_k = w_k (1 - alpha_k); every weight behind shrinks with -alpha_k.
        out[i, k] = own * wp.exp(-softplus(x)) - wp.exp(-softplus(-x)) * behind
        behind = behind + own


def _arrays(scalar: type, *arrays: AnyFloat) -> list[Any]:
    return [wp.array(a, dtype=wp.int32 if a.dtype == np.int32 else scalar, device=CPU, copy=False) for a in arrays]


def render_weights(logit_RS: AnyFloat, count_R: IntArray) -> AnyFloat:
    """Weights of equation 4, w_i = alpha_i prod_{j<i} (1 - alpha_j), from occupancy logits.

    Args:
        logit_RS: (R, S) float32 or float64.
        count_R: (R,) int32, valid samples of each ray.
    Returns:
        (R, S) of the logits' dtype; 0 beyond the count. Rows sum to at most 1.
    """
    weights = np.empty_like(logit_RS)
    scalar = wp.float64 if logit_RS.dtype == np.float64 else wp.float32
    launch_rows(_weights_kernel, len(logit_RS), _arrays(scalar, logit_RS, count_R, weights))
    return weights


def render_weights_backward(logit_RS: AnyFloat, count_R: IntArray, weight_RS: AnyFloat, gradient_RS: AnyFloat) -> AnyFloat:
    """Gradient of `render_weights` with respect to the logits, (R, S)."""
    out = np.empty_like(logit_RS)
    scalar = wp.float64 if logit_RS.dtype == np.float64 else wp.float32
    launch_rows(_weights_backward_kernel, len(logit_RS), _arrays(scalar, logit_RS, count_R, weight_RS, gradient_RS, out))
    return out
