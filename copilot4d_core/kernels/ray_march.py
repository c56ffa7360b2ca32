# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The whole of rendering in one pass per ray (inference): skip, look up, occupancy, equation 4, early stop.

In: the feature-grid cells inside the skip mask, and rays. Out: the median depth alone, or expected, median and strongest depth, opacity and, when
asked for, two returns. The median is known before a ray is dark, which saves a quarter of the samples.
Unusual: a sample interpolates the hidden layer of the occupancy MLP, not the features; see `feature_readout.py`. This kernel runs on a GPU, a
thread a ray, and on any CPU; there `ray_packets.py` does the same for sixteen rays at once, in half the time.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
import enum
from functools import cache
from typing import Any

import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.native import NATIVE, TREE
from copilot4d_core.kernels.ray_median import RayMedian, concerns_median, is_known, needed_to, surface_distance, with_last, with_next
from copilot4d_core.kernels.ray_packets import fits_packets, march_inputs, march_packets
from copilot4d_core.kernels.ray_returns import RayReturns, closed, with_sample
from copilot4d_core.kernels.ray_traversal import MaskGrid, course_of, next_run, past_run, region_entry, samples_in_run, start_walk
from copilot4d_core.kernels.skip_mask import SkipMask

WEIGHTED, OPACITY, MEDIAN, STRONGEST, NEAR, NEAR_WEIGHT, FAR, FAR_WEIGHT = range(8)
"""Rows of the result of `Rows.RENDERING` and `Rows.RETURNS`. WEIGHTED: sum w_i h_i in metres, D of equation 4. OPACITY: sum w_i. MEDIAN: of
`ray_median.py` in metres, NaN without a sample. STRONGEST: distance in metres of the largest weight, NaN without a sample. A ray that crosses no
occupied cell has 0, 0, NaN, NaN. NEAR, FAR: distances in metres of the two returns of `ray_returns.py`, and their weights; 0, 0 for one that is
not there."""


class Rows(enum.IntEnum):
    """What is rendered: how many rows the result has."""

    DEPTH = 1
    """The median alone, as deployed: NaN for a ray whose opacity is below the threshold. Bit for bit that of the others."""
    RENDERING = 4
    """WEIGHTED to STRONGEST."""
    RETURNS = 8
    """All of them."""


BATCH = 8
"""Samples that are looked at together: their cells are on the way from memory while the first are still computed."""


_CLEAR_SHARES = NATIVE + """
    const int hidden = {hidden}, batch = {batch};
    // In loops over the samples of a batch, so that the compiler finds the vector instructions, and the memory is asked for all of them early.
    // The first sample in float64, the others as some cells from it: 80 m over cells of a few centimetres leaves float32 an error that moves far
    // surfaces by a millimetre.
    const double first_x = x_start + first * x_slope, first_y = y_start + first * y_slope, first_z = z_start + first * z_slope;
    const int base_x = static_cast<int>(first_x), base_y = static_cast<int>(first_y), base_z = static_cast<int>(first_z);
    const float from_x = static_cast<float>(first_x - base_x), from_y = static_cast<float>(first_y - base_y),
                from_z = static_cast<float>(first_z - base_z);
    const float per_x = static_cast<float>(x_slope), per_y = static_cast<float>(y_slope), per_z = static_cast<float>(z_slope);
    const int last_x = shape_x - 1 - base_x, last_y = shape_y - 1 - base_y, last_z = shape_z - 1 - base_z;
    float fx[batch], fy[batch], fz[batch];
    int column[batch], layer[batch];
    for (int s = 0; s < batch; ++s) {{
        const float along = static_cast<float>(s) * spacing;
        float at_x = from_x + along * per_x, at_y = from_y + along * per_y, at_z = from_z + along * per_z;
        at_x = at_x < -base_x ? -base_x : at_x > last_x ? last_x : at_x;
        at_y = at_y < -base_y ? -base_y : at_y > last_y ? last_y : at_y;
        at_z = at_z < -base_z ? -base_z : at_z > last_z ? last_z : at_z;
        int x = static_cast<int>(FLOOR(at_x)), y = static_cast<int>(FLOOR(at_y)), z = static_cast<int>(FLOOR(at_z));
        x = x > last_x - 1 ? last_x - 1 : x;
        y = y > last_y - 1 ? last_y - 1 : y;
        z = z > last_z - 1 ? last_z - 1 : z;
        fx[s] = at_x - x, fy[s] = at_y - y, fz[s] = at_z - z;
        column[s] = (base_y + y) * shape_x + base_x + x, layer[s] = base_z + z;
    }}
    const float* corner[4 * batch];
    for (int s = 0; s < taken; ++s) {{
        const unsigned int under = (1u << (layer[s] & 31)) - 1u;
        for (int k = 0; k < 4; ++k) {{
            const unsigned int* word = listed.data + (static_cast<size_t>(column[s] + (k >> 1) * shape_x + (k & 1)) * words + (layer[s] >> 5)) * 2;
            const int slot = static_cast<int>(word[0]) + 1 + COUNT_BITS(word[1] & under);
            // The layers of a column are listed one after the other: the cell above is the next row. Row 0 stands for what the memory did not hold.
            const float* at = reinterpret_cast<const float*>(cells.data) + static_cast<size_t>(slot + 1 < cells.shape[0] ? slot : 0) * hidden;
            corner[4 * s + k] = at;
            for (int line = 0; line < 2 * hidden; line += 16) PREFETCH(at + line);
        }}
    }}
    float logit[batch];
    for (int s = 0; s < taken; ++s) {{
        const float weight[4] = {{(1.0f - fy[s]) * (1.0f - fx[s]), (1.0f - fy[s]) * fx[s], fy[s] * (1.0f - fx[s]), fy[s] * fx[s]}};
        const float* const* from = corner + 4 * s;
        // One loop for each step, and the sum as a tree.
        float part[hidden];
        for (int j = 0; j < hidden; ++j) {{
            float lower = weight[0] * from[0][j], upper = weight[0] * from[0][hidden + j];
            lower = MULTIPLY_ADD(weight[1], from[1][j], lower), upper = MULTIPLY_ADD(weight[1], from[1][hidden + j], upper);
            lower = MULTIPLY_ADD(weight[2], from[2][j], lower), upper = MULTIPLY_ADD(weight[2], from[2][hidden + j], upper);
            lower = MULTIPLY_ADD(weight[3], from[3][j], lower), upper = MULTIPLY_ADD(weight[3], from[3][hidden + j], upper);
            const float between = MULTIPLY_ADD(fz[s], upper - lower, lower);
            part[j] = (between > 0.0f ? between : 0.0f) * output.data[j];
        }}
        {tree}
        logit[s] = part[0] + bias;
    }}
    for (int s = taken; s < batch; ++s) logit[s] = -126.0f;
    wp::vec_t<batch, wp::float32> share;
    for (int s = 0; s < batch; ++s) share[s] = 1.0f / (1.0f + wp::exp(logit[s]));
    return share;
"""


@cache
def _march_kernel(hidden: int, rows: Rows) -> wp.Kernel:
    depth_only, with_returns = rows is Rows.DEPTH, rows is Rows.RETURNS
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)
    batch: Any = wp.types.vector(length=BATCH, dtype=wp.float32)

    @wp.func_native(_CLEAR_SHARES.format(hidden=hidden, batch=BATCH, tree=TREE.format(length=hidden)))
    def clear_shares(first: wp.float64, spacing: float, taken: int, x_start: wp.float64, x_slope: wp.float64, y_start: wp.float64,
                     y_slope: wp.float64, z_start: wp.float64, z_slope: wp.float64, shape_x: int, shape_y: int, shape_z: int, words: int,
                     listed: wp.array2d(dtype=wp.uint32), cells: wp.array(dtype=vector), output: wp.array(dtype=wp.float32), bias: float) -> batch:
        ...

    @wp.kernel(module="unique")
    def march(first: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), mask: MaskGrid, step: wp.float64, limit: int,
              stop: float, threshold: float, size: wp.vec3, shape: wp.vec3i, listed: wp.array2d(dtype=wp.uint32), cells: wp.array(dtype=vector),
              output: wp.array(dtype=wp.float32), bias: float, out: wp.array2d(dtype=wp.float32)):
        i = first + wp.tid()
        origin = wp.vec3d(origins[i])
        direction = wp.vec3d(directions[i])
        depth = float(0.0)
        median = RayMedian()
        best = float(0.0)
        best_distance = wp.float32(wp.nan)
        clear = float(1.0)
        count = int(0)
        going = bool(True)
        least = wp.max(threshold, 0.5)
        if with_returns:
            returns = RayReturns()
        # Feature-grid coordinates along the ray, in cells.
        x_slope = direction[0] / wp.float64(size[0])
        y_slope = direction[1] / wp.float64(size[1])
        z_slope = direction[2] / wp.float64(size[2])
        x_start = (origin[0] - mask.low[0]) / wp.float64(size[0]) - wp.float64(0.5)
        y_start = (origin[1] - mask.low[1]) / wp.float64(size[1]) - wp.float64(0.5)
        z_start = (origin[2] - mask.low[2]) / wp.float64(size[2]) - wp.float64(0.5)
        span = region_entry(origin, direction, mask)
        if span[1] > span[0]:
            course = course_of(origin, direction, mask)
            end = span[1]
            walk = next_run(start_walk(origin, direction, span[0], mask), course, end, mask)
            while walk.distance < end and count < limit and going:
                begin = walk.distance
                walk = past_run(walk, course, end, mask)
                number = samples_in_run(begin, walk.distance, step)
                spacing = (walk.distance - begin) / wp.float64(number)
                k = int(0)
                while k < number and count < limit and going:
                    taken = wp.min(BATCH, wp.min(number - k, limit - count))
                    distances = batch()
                    nearest = begin + (wp.float64(k) + wp.float64(0.5)) * spacing
                    for s in range(BATCH):
                        distances[s] = wp.float32(nearest) + float(s) * wp.float32(spacing)
                    share = clear_shares(nearest, wp.float32(spacing), taken, x_start, x_slope, y_start, y_slope, z_start, z_slope,
                                         shape[0], shape[1], shape[2], listed.shape[1] // 2, listed, cells, output, bias)
                    weights = batch()
                    total = median.total
                    for s in range(BATCH):
                        # w_i = alpha_i T_i = T_i - T_{i+1}; behind the last sample alpha is 0.
                        clear_behind = clear * share[s]
                        weights[s] = clear - clear_behind
                        clear = clear_behind
                        total += weights[s]
                        if not depth_only:
                            depth += weights[s] * distances[s]
                    if not depth_only or median.total < 0.5:
                        for s in range(BATCH):
                            if weights[s] > best:
                                best = weights[s]
                                best_distance = distances[s]
                    if concerns_median(median, total):
                        for s in range(BATCH):
                            if s < taken:
                                median = with_next(median, distances[s], weights[s])
                    else:
                        median.total = total
                        if taken > 1:
                            median = with_last(median, distances[taken - 2], weights[taken - 2])
                        median = with_last(median, distances[taken - 1], weights[taken - 1])
                    if with_returns:
                        for s in range(BATCH):
                            if s < taken:
                                returns = with_sample(returns, distances[s], weights[s])
                    k += taken
                    count += taken
                    going = clear > stop
                    if depth_only:
                        going = going and not is_known(median, least)
                if going:
                    needed = end
                    if depth_only:
                        # What lies further behind the surface changes nothing, so that nothing is looked for there.
                        needed = wp.min(end, wp.float64(needed_to(median, least)))
                    walk = next_run(walk, course, needed, mask)
                    going = walk.distance < needed
        surface = surface_distance(median, best_distance)
        if depth_only:
            out[0, i] = wp.where(median.total >= threshold, surface, wp.float32(wp.nan))
        else:
            out[0, i] = depth
            out[1, i] = median.total
            out[2, i] = surface
            out[3, i] = best_distance
        if with_returns:
            returns = closed(returns)
            out[4, i] = returns.near_m
            out[5, i] = returns.near_weight
            out[6, i] = returns.far_m
            out[7, i] = returns.far_weight

    return march


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return [_march_kernel(config.feature_grid.hidden, rows) for rows in Rows]


def march_rays(cells: FeatureReadout, mask: SkipMask, origins: Any, directions: Any, rays: int, out: Any) -> None:
    """Render rays through the listed cells, as deployed; on a GPU only enqueues.

    Source: CoPilot4D, equation 4 and figure 8. Samples as in `sample_rays` with jitter 0.5; a ray stops behind the
    batch of samples in which its transmittance falls below `rendering.stop_transmittance`.

    Args:
        cells: cells inside the mask and their rim.
        mask: what rays may look at.
        origins, directions: Warp arrays of wp.vec3, metres and unit vectors.
        rays: how many of them to render.
        out: Warp array (1, 4 or 8, rays or more) float32, see `Rows`.
    """
    march = march_packets if cells.device == CPU and fits_packets(mask) else march_singly
    march(cells, mask, origins, directions, rays, out)


def march_singly(cells: FeatureReadout, mask: SkipMask, origins: Any, directions: Any, rays: int, out: Any) -> None:
    """As `march_rays`, every ray by itself: on a GPU, and what packets of rays are compared with."""
    inputs = march_inputs(cells, mask, origins, directions, out)
    launch_rows(_march_kernel(cells.hidden_dim, Rows(out.shape[0])), rays, inputs, cells.device)
