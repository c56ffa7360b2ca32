"""The whole of rendering in one pass per ray (inference): skip, look up, occupancy, equation 4, early stop.

In: the feature-grid cells inside the skip mask, and rays. Out: expected, median and strongest depth, and opacity.
Unusual: a sample interpolates the hidden layer of the occupancy MLP, not the features; see `feature_readout.py`.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.launch import launch_rows
from copilot4d_core.kernels.ray_traversal import MaskGrid, face_spacings, mask_grid, next_run, past_run, region_entry, samples_in_run, start_walk
from copilot4d_core.kernels.skip_mask import SkipMask
from copilot4d_core.kernels.volume_rendering import softplus

WEIGHTED, OPACITY, MEDIAN, STRONGEST = range(4)
"""Rows of the result. WEIGHTED: sum w_i h_i in metres, D of equation 4. OPACITY: sum w_i. MEDIAN: first distance in metres at
which the summed weight reaches one half, NaN when it never does. STRONGEST: distance in metres of the largest weight, NaN
without a sample. A ray that crosses no occupied cell has 0, 0, NaN, NaN."""


@cache
def _march_kernel(hidden: int) -> wp.Kernel:
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)

    @wp.func
    def cell_coordinate(origin: float, direction: float, distance: float, low: float, size: float, cells: int):
        # float64: 80 m over cells of a few centimetres leaves float32 an error that moves far surfaces by a millimetre.
        position = wp.float64(origin) + wp.float64(distance) * wp.float64(direction)
        return wp.clamp((position - wp.float64(low)) / wp.float64(size) - wp.float64(0.5), wp.float64(0.0), wp.float64(cells - 1))

    @wp.func
    def occupancy_logit(origin: wp.vec3, direction: wp.vec3, distance: float, low: wp.vec3, size: wp.vec3, shape: wp.vec3i,
                        slots: wp.array3d(dtype=wp.int32), cells: wp.array(dtype=vector), output: vector, bias: float):
        ux = cell_coordinate(origin[0], direction[0], distance, low[0], size[0], shape[0])
        uy = cell_coordinate(origin[1], direction[1], distance, low[1], size[1], shape[1])
        uz = cell_coordinate(origin[2], direction[2], distance, low[2], size[2], shape[2])
        x = wp.min(int(ux), shape[0] - 2)
        y = wp.min(int(uy), shape[1] - 2)
        z = wp.min(int(uz), shape[2] - 2)
        fx = float(ux - wp.float64(x))
        fy = float(uy - wp.float64(y))
        fz = float(uz - wp.float64(z))
        # Layers of a column are listed one after the other, so the cell above is the next row.
        s00 = slots[y, x, z]
        s01 = slots[y, x + 1, z]
        s10 = slots[y + 1, x, z]
        s11 = slots[y + 1, x + 1, z]
        lower = (1.0 - fy) * ((1.0 - fx) * cells[s00] + fx * cells[s01]) + fy * ((1.0 - fx) * cells[s10] + fx * cells[s11])
        upper = (1.0 - fy) * ((1.0 - fx) * cells[s00 + 1] + fx * cells[s01 + 1]) + fy * (
            (1.0 - fx) * cells[s10 + 1] + fx * cells[s11 + 1])
        value = (1.0 - fz) * lower + fz * upper
        return wp.dot(wp.max(value, vector()), output) + bias

    @wp.kernel(module="unique")
    def march(first: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3), mask: MaskGrid, step: float, limit: int,
              log_stop: float, size: wp.vec3, shape: wp.vec3i, slots: wp.array3d(dtype=wp.int32), cells: wp.array(dtype=vector),
              output: vector, bias: float, out: wp.array2d(dtype=wp.float32)):
        i = first + wp.tid()
        origin = origins[i]
        direction = directions[i]
        depth = float(0.0)
        total = float(0.0)
        half = wp.float32(wp.nan)
        best = float(0.0)
        best_distance = wp.float32(wp.nan)
        log_clear = float(0.0)
        clear = float(1.0)
        count = int(0)
        span = region_entry(origin, direction, mask.low, mask.high)
        if span[1] > span[0]:
            spacings = face_spacings(direction, mask)
            walk = next_run(start_walk(origin, direction, span[0], span[1], mask), direction, spacings, mask)
            while walk.distance < walk.end and count < limit and log_clear > log_stop:
                begin = walk.distance
                walk = past_run(walk, direction, spacings, mask)
                number = samples_in_run(begin, walk.distance, step)
                spacing = (walk.distance - begin) / float(number)
                for k in range(number):
                    if count < limit and log_clear > log_stop:
                        distance = begin + (float(k) + 0.5) * spacing
                        logit = occupancy_logit(origin, direction, distance, mask.low, size, shape, slots, cells, output, bias)
                        # w_i = alpha_i T_i = T_i - T_{i+1}, which saves a second logarithm and exponential.
                        log_clear = log_clear - softplus(logit)
                        clear_behind = wp.exp(log_clear)
                        weight = clear - clear_behind
                        clear = clear_behind
                        depth += weight * distance
                        if total < 0.5 and total + weight >= 0.5:
                            half = distance
                        total += weight
                        if weight > best:
                            best = weight
                            best_distance = distance
                        count += 1
                walk = next_run(walk, direction, spacings, mask)
        out[0, i] = depth
        out[1, i] = total
        out[2, i] = half
        out[3, i] = best_distance

    return march


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return [_march_kernel(config.feature_grid.hidden)]


def march_rays(cells: FeatureReadout, mask: SkipMask, origins: Any, directions: Any, rays: int, out: Any) -> None:
    """Render rays through the listed cells, as deployed; on a GPU only enqueues.

    Source: CoPilot4D, equation 4 and figure 8. Samples as in `sample_rays` with jitter 0.5; a ray stops once its
    transmittance is below `rendering.stop_transmittance`.

    Args:
        cells: cells inside the mask and their rim.
        mask: what rays may look at.
        origins, directions: Warp arrays of wp.vec3, metres and unit vectors.
        rays: how many of them to render.
        out: Warp array (4, rays or more) float32; see `WEIGHTED` and its neighbours.
    """
    grid, device = cells.grid, cells.device
    rows, columns, layers = grid.feature_cells_YXZ
    settings = grid.config.rendering
    launch_rows(_march_kernel(cells.hidden_dim), rays, [
        origins, directions, mask_grid(mask.occupied, grid), settings.step_m, settings.max_samples, float(np.log(settings.stop_transmittance)),
        wp.vec3(*map(float, grid.feature_cell_size_m)), wp.vec3i(columns, rows, layers), cells.slots, cells.hidden, cells.output,
        cells.output_bias, out], device)
