# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The median depth of a ray, gathered from its weights sample by sample (inference): where the surface lies that stops half of the light.

It is the weighted mean distance of the sample at which the summed weight reaches one half and of up to `BESIDE` samples before and behind
it, as far as they lie within `SURFACE_M`. Our choice: the margin is that of the concentration term, and a centimetre, so that rounding does
not decide over samples two steps of 0.2 m away. The distance of that one sample would be off by up to half a step, whatever the weights say;
dust before a wall stays out of the mean.
A ray whose weights do not reach one half has no such sample; where so little is enough (`rendering.opacity_threshold`), its surface is the sample of
the largest weight.
"""

from __future__ import annotations

import warp as wp

SURFACE_M = 0.41
BESIDE = 2


@wp.struct
class RayMedian:
    """Of the samples so far; a weight of 0 means that half is not reached."""

    total: float
    """Sum of all weights."""
    half_m: float
    """Distance of the sample that reached half."""
    weight: float
    offset: float
    """Sums over the samples of the surface: weight, and weight times distance from `half_m`."""
    wanted: int
    """Samples behind it that may still belong to the surface."""
    last_m: float
    last_weight: float
    earlier_m: float
    earlier_weight: float


@wp.func
def _beside(median: RayMedian, distance: float, weight: float):
    if wp.abs(distance - median.half_m) <= SURFACE_M:
        median.weight += weight
        median.offset += weight * (distance - median.half_m)
    return median


@wp.func
def with_last(median: RayMedian, distance: float, weight: float):
    """The median that remembers one more sample; the last two may lie just before the one that reaches half."""
    median.earlier_m = median.last_m
    median.earlier_weight = median.last_weight
    median.last_m = distance
    median.last_weight = weight
    return median


@wp.func
def with_next(median: RayMedian, distance: float, weight: float):
    """The median after one more sample, which lies behind those before."""
    if median.total < 0.5 and median.total + weight >= 0.5:
        median.half_m = distance
        median.weight = weight
        median.wanted = BESIDE
        median = _beside(median, median.last_m, median.last_weight)
        median = _beside(median, median.earlier_m, median.earlier_weight)
    elif median.wanted > 0:
        median = _beside(median, distance, weight)
        median.wanted -= 1
    median = with_last(median, distance, weight)
    median.total += weight
    return median


@wp.func
def concerns_median(median: RayMedian, total: float):
    """Whether samples that bring the sum of weights to `total` have to go through `with_next`: half is among them, or was just before."""
    return median.wanted > 0 or (median.total < 0.5 and total >= 0.5)


@wp.func
def is_known(median: RayMedian, least: float):
    """Whether no later sample changes the median or that the ray met something, for which the summed weight must be `least`, one half or more."""
    return median.total >= least and median.wanted == 0


@wp.func
def needed_to(median: RayMedian, least: float):
    """Distance from which on no sample changes the median or that the ray met something, as far as the samples so far tell; metres."""
    return wp.where(median.total >= least, median.half_m + SURFACE_M + 0.001, float(1.0e30))


@wp.func
def median_distance(median: RayMedian):
    """Metres; NaN where half was never reached."""
    result = wp.float32(wp.nan)
    if median.weight > 0.0:
        result = median.half_m + median.offset / median.weight
    return result


@wp.func
def surface_distance(median: RayMedian, strongest_m: float):
    """Metres: the median, or the sample of the largest weight where half was never reached; NaN without either."""
    return wp.where(median.weight > 0.0, median_distance(median), strongest_m)
