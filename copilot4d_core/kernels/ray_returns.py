# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Up to two returns of a ray, gathered from its weights sample by sample (inference).

A sample is lit when its weight is at least `LIT_WEIGHT`, as a sensor's receiver has a threshold. Lit samples no more than `SEPARATION_M`
apart make one return, as two echoes that overlap in time are one echo: its weight is their sum, its distance their weighted mean.
Of the returns of at least `LEAST_WEIGHT` the two heaviest are kept, the nearer one first; of equally heavy ones the nearer stays.
Unusual: samples come in order of distance, so one return is open at a time, and the memory of a ray does not grow with its samples.
"""

from __future__ import annotations

import warp as wp

LIT_WEIGHT = 0.01
SEPARATION_M = 1.0
LEAST_WEIGHT = 0.1


@wp.struct
class RayReturns:
    """The two heaviest returns so far, and the one that is still open; a weight of 0 means there is none."""

    near_m: float
    near_weight: float
    far_m: float
    far_weight: float
    moment: float
    """Sum of weight times distance of the open return."""
    weight: float
    last_m: float
    """Distance of its last sample."""


@wp.func
def closed(returns: RayReturns):
    """The returns once the open one is complete."""
    if returns.weight >= LEAST_WEIGHT:
        distance = returns.moment / returns.weight
        if returns.near_weight == 0.0:
            returns.near_m = distance
            returns.near_weight = returns.weight
        elif returns.far_weight == 0.0:
            returns.far_m = distance
            returns.far_weight = returns.weight
        elif returns.near_weight < returns.far_weight and returns.near_weight < returns.weight:
            returns.near_m = returns.far_m
            returns.near_weight = returns.far_weight
            returns.far_m = distance
            returns.far_weight = returns.weight
        elif returns.far_weight < returns.weight:
            returns.far_m = distance
            returns.far_weight = returns.weight
    returns.moment = 0.0
    returns.weight = 0.0
    return returns


@wp.func
def with_sample(returns: RayReturns, distance: float, weight: float):
    """The returns after one more sample, which lies behind those before."""
    if weight >= LIT_WEIGHT:
        if returns.weight > 0.0 and distance - returns.last_m > SEPARATION_M:
            returns = closed(returns)
        returns.moment = returns.moment + weight * distance
        returns.weight = returns.weight + weight
        returns.last_m = distance
    return returns
