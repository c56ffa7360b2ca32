# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Binary cross-entropy of many logits and its gradient, in one pass over them (training on the CPU).

In: logits and what is true. Out: the sum, and the gradient of that sum by each logit.
Unusual: log(1 + e^-|x|) is not taken one by one: 64 of the factors are multiplied first, which float32 holds, and then one logarithm is taken.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, FloatArray
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.vectors import VECTORS, WIDEST

PART = 65_536
"""Logits of one row of a launch: each has a sum of its own, so that the total does not depend on how many cores there are."""


class CrossEntropy(NamedTuple):
    """Over all logits."""

    total: float
    gradient_N: FloatArray
    """Of `total`."""


_SUM = VECTORS + f"""
    constexpr int PART = {PART}, TOGETHER = 64;
""" + """
    typedef unsigned char vb __attribute__((ext_vector_type(16), aligned(1)));
    const int first = part * PART, last = first + PART < logits.shape[0] ? first + PART : logits.shape[0];
    double clear_cost = 0.0, held_cost = 0.0;
    for (int begin = first; begin < last; begin += 16 * TOGETHER) {
        vf clear_sum = (vf)(0.0f), held_sum = (vf)(0.0f), clear_factors = (vf)(1.0f), held_factors = (vf)(1.0f);
        for (int i = begin; i < begin + 16 * TOGETHER && i < last; i += 16) {
            // Lanes beyond the end cost nothing: they are clear, and as unlikely as can be.
            float padded[16], slope[16];
            unsigned char wanted[16];
            const int lanes = last - i < 16 ? last - i : 16;
            for (int k = 0; k < lanes; ++k) { padded[k] = logits.data[i + k]; wanted[k] = truth.data[i + k]; }
            for (int k = lanes; k < 16; ++k) { padded[k] = -1.0e30f; wanted[k] = 0; }
            const vf x = load(padded), power = exponential(-__builtin_elementwise_abs(x)), factor = 1.0f + power;
            const vi held = __builtin_convertvector(*reinterpret_cast<const vb*>(wanted), vi) != 0;
            // Neither maximum nor bound lets a NaN through; what is not finite must make the sum so, too.
            const vf strange = x - x;
            // softplus(x) = max(x, 0) + log(1 + e^-|x|) where it is clear, softplus(-x) where it is held.
            clear_sum += strange + (held ? (vf)(0.0f) : __builtin_elementwise_max(x, (vf)(0.0f)));
            held_sum += held ? __builtin_elementwise_max(-x, (vf)(0.0f)) : (vf)(0.0f);
            clear_factors *= held ? (vf)(1.0f) : factor;
            held_factors *= held ? factor : (vf)(1.0f);
            const vf likely = (x < 0.0f ? power : (vf)(1.0f)) / factor, unlikely = (x < 0.0f ? (vf)(1.0f) : power) / factor;
            store(slope, strange + (held ? -positive_weight * unlikely : likely));
            for (int k = 0; k < lanes; ++k) gradient.data[i + k] = slope[k];
        }
        clear_cost += sum_of(clear_sum);
        held_cost += sum_of(held_sum);
        for (int k = 0; k < 16; ++k) {
            clear_cost += __builtin_log(static_cast<double>(clear_factors[k]));
            held_cost += __builtin_log(static_cast<double>(held_factors[k]));
        }
    }
    totals.data[part] = clear_cost + positive_weight * held_cost;
"""


@wp.func_native(_SUM)
def _sum(part: int, logits: wp.array(dtype=wp.float32), truth: wp.array(dtype=wp.uint8), positive_weight: float,
         gradient: wp.array(dtype=wp.float32), totals: wp.array(dtype=wp.float64)):
    ...


@wp.kernel(module="unique", **WIDEST)
def _cross_entropy_kernel(first: int, logits: wp.array(dtype=wp.float32), truth: wp.array(dtype=wp.uint8), positive_weight: float,
                          gradient: wp.array(dtype=wp.float32), totals: wp.array(dtype=wp.float64)):
    _sum(first + wp.tid(), logits, truth, positive_weight, gradient, totals)


def cross_entropy(logit_N: FloatArray, truth_N: BoolArray, positive_weight: float) -> CrossEntropy:
    """Sum of -log(1 - v) over what is false and of -log(v) over what is true, the latter times `positive_weight`; v = 1 / (1 + e^-logit).

    Args:
        logit_N: float32, contiguous.
        truth_N: bool, contiguous.
    """
    parts = -(-len(logit_N) // PART)
    gradient_N, totals = np.empty(len(logit_N), dtype=np.float32), np.zeros(parts)

    def flat(values: Any, dtype: Any) -> Any:
        return wp.array(values, dtype=dtype, device=CPU, copy=False)

    launch_rows(_cross_entropy_kernel, parts, [flat(logit_N, wp.float32), flat(truth_N.view(np.uint8), wp.uint8), positive_weight,
                                               flat(gradient_N, wp.float32), flat(totals, wp.float64)], least=1)
    return CrossEntropy(float(totals.sum()), gradient_N)
