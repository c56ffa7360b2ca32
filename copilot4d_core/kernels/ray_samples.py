# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sample distances along rays inside the skip mask (training).

Source: CoPilot4D, figure 8: points are sampled only within the non-empty regions. Spacing and limit are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, FloatArray, Grid, IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.ray_traversal import MaskGrid, course_of, mask_grid, next_run, past_run, region_entry, samples_in_run, start_walk
from copilot4d_core.kernels.skip_mask import SkipMask


class RaySamples(NamedTuple):
    """Samples of R rays, S = the largest count of any ray (at least 1)."""

    distance_RS: FloatArray
    """Metres from the origin, ascending; 0 beyond the ray's count."""
    count_R: IntArray
    """Samples of each ray; 0 for a ray that crosses no occupied cell."""


@wp.kernel
def _sample_kernel(first: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), mask: MaskGrid, step: wp.float64,
                   jitter: wp.array(dtype=wp.float32), distance: wp.array2d(dtype=wp.float32), counts: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    limit = distance.shape[1]
    count = int(0)
    origin, direction = wp.vec3d(origins[i]), wp.vec3d(directions[i])
    span = region_entry(origin, direction, mask)
    if span[1] > span[0]:
        end = span[1]
        course = course_of(origin, direction, mask)
        walk = next_run(start_walk(origin, direction, span[0], mask), course, end, mask)
        while walk.distance < end and count < limit:
            begin = walk.distance
            walk = past_run(walk, course, end, mask)
            number = samples_in_run(begin, walk.distance, step)
            spacing = (walk.distance - begin) / wp.float64(number)
            taken = wp.min(number, limit - count)
            for k in range(taken):
                distance[i, count + k] = wp.float32(begin + wp.float64(float(k) + jitter[i]) * spacing)
            count += taken
            walk = next_run(walk, course, end, mask)
    counts[i] = count


def _mask_grid(mask_YXZ: BoolArray, grid: Grid) -> MaskGrid:
    mask = SkipMask(grid)
    mask.fill(mask_YXZ)
    return mask_grid(mask)


def sample_rays(origins_R3: FloatArray, directions_R3: FloatArray, mask_YXZ: BoolArray, grid: Grid, jitter_R: FloatArray) -> RaySamples:
    """Distances at which each ray is sampled: evenly inside each run of occupied mask cells, at most a step apart.

    Args:
        origins_R3: (R, 3) float32, metres.
        directions_R3: (R, 3) float32, unit length.
        mask_YXZ: (Y, X, Z) bool, pooled skip mask.
        grid: shapes, cell sizes, step and limit (`rendering.step_m`, `rendering.max_samples`).
        jitter_R: (R,) float32 in 0..1, place inside each interval; 0.5 at inference.
    Returns:
        Distances and counts; a ray beyond `max_samples` keeps its first ones.
    """
    rays = len(origins_R3)
    rendering = grid.config.rendering
    distance = np.zeros((rays, rendering.max_samples), dtype=np.float32)
    counts = np.zeros(rays, dtype=np.int32)
    launch_rows(_sample_kernel, rays, [
        wp.array(np.ascontiguousarray(origins_R3, dtype=np.float32), dtype=wp.vec3, device=CPU, copy=False),
        wp.array(np.ascontiguousarray(directions_R3, dtype=np.float32), dtype=wp.vec3, device=CPU, copy=False),
        _mask_grid(mask_YXZ, grid), rendering.step_m,
        wp.array(np.ascontiguousarray(jitter_R, dtype=np.float32), dtype=wp.float32, device=CPU, copy=False),
        wp.array(distance, dtype=wp.float32, ndim=2, device=CPU, copy=False), wp.array(counts, dtype=wp.int32, device=CPU, copy=False)])
    longest = max(1, int(counts.max(initial=0)))
    return RaySamples(distance[:, :longest], counts)
