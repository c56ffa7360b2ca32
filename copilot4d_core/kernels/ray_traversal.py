# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Where a ray crosses the cells of the skip mask: the shared geometry of both ray kernels.

The mask is one bit a cell, see `skip_mask.py`. A ray is cut at the region's faces (slab test) and walked column by column; neighbouring
occupied cells form one run, and samples divide a run evenly at no more than one step apart, at least one a run.
Unusual: the layers that a ray crosses inside a column are bits side by side, so that the first occupied or empty one of them is found at once.
Distances are float64: sums of float32 steps put samples so far off that the expected depth of a ray which is divided between a near and a far
surface moved by a millimetre.
"""

# No `from __future__ import annotations`: Warp reads the annotations of native functions as values.
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.kernels.native import NATIVE
from copilot4d_core.kernels.skip_mask import SkipMask

_LEVEL = wp.constant(wp.float64(1.0e-9))
"""Below this a component of a direction counts as 0, and the faces of that axis are never reached."""
_NEVER_M = wp.constant(wp.float64(1.0e30))


@wp.struct
class MaskGrid:
    """The skip mask and its geometry in metres; triples are x, y, z."""

    bits: wp.array3d(dtype=wp.uint32)
    tops: wp.array2d(dtype=wp.float32)
    low: wp.vec3d
    high: wp.vec3d
    cell: wp.vec3d
    shape: wp.vec3i


def mask_grid(mask: SkipMask) -> MaskGrid:
    """The mask with its geometry."""
    grid = mask.grid
    rows, columns, layers = grid.mask_cells_YXZ
    result = MaskGrid()
    result.bits, result.tops = mask.bits, mask.tops
    low_m, high_m = grid.minimum_m.astype(np.float64), grid.maximum_m.astype(np.float64)
    result.low, result.high = wp.vec3d(*low_m), wp.vec3d(*high_m)
    result.cell = wp.vec3d(*((high_m - low_m) / [columns, rows, layers]))
    result.shape = wp.vec3i(columns, rows, layers)
    return result


@wp.struct
class Course:
    """What stays the same along a ray."""

    step_x: int
    step_y: int
    """Which way the columns follow each other: 1 or -1."""
    spacing_x: wp.float64
    spacing_y: wp.float64
    """Metres from face to face."""
    layer_start: wp.float64
    layer_slope: wp.float64
    """Height in layers at the origin, and how many are crossed a metre."""
    layer_spacing: wp.float64
    """Metres from layer to layer; negative downwards."""


@wp.struct
class Walk:
    """Place of a ray in the mask: current cell, and the distances in metres at which it enters the next column along x and along y.

    Unusual: one field per axis, because an index that varies at run time would keep vectors out of registers.
    """

    x: int
    y: int
    z: int
    next_x: wp.float64
    next_y: wp.float64
    distance: wp.float64
    """Where the ray entered the current cell; the end of the walk once it is reached, or the ray has left the region."""


@wp.func
def region_entry(origin: wp.vec3d, direction: wp.vec3d, mask: MaskGrid):
    """Distances at which a ray enters (at least 0) and leaves the region; entry >= exit when it misses."""
    near = wp.float64(0.0)
    far = _NEVER_M
    for axis in range(3):
        if wp.abs(direction[axis]) < _LEVEL:
            if origin[axis] < mask.low[axis] or origin[axis] >= mask.high[axis]:
                far = wp.float64(-1.0)
        else:
            a = (mask.low[axis] - origin[axis]) / direction[axis]
            b = (mask.high[axis] - origin[axis]) / direction[axis]
            near = wp.max(near, wp.min(a, b))
            far = wp.min(far, wp.max(a, b))
    return wp.vec2d(near, far)


@wp.func
def face_distance(cell: int, origin: wp.float64, direction: wp.float64, low: wp.float64, size: wp.float64):
    """Distance to the face through which the ray leaves a cell along one axis."""
    if wp.abs(direction) < _LEVEL:
        return _NEVER_M
    ahead = wp.where(direction > wp.float64(0.0), 1, 0)
    return (low + wp.float64(cell + ahead) * size - origin) / direction


@wp.func
def face_spacing(direction: wp.float64, size: wp.float64):
    """Distance from face to face along one axis."""
    if wp.abs(direction) < _LEVEL:
        return _NEVER_M
    return size / wp.abs(direction)


@wp.func
def cell_at(position: wp.float64, low: wp.float64, size: wp.float64, cells: int):
    """Index of the cell of a position along one axis, clamped into the region."""
    return wp.clamp(int(wp.floor((position - low) / size)), 0, cells - 1)


@wp.func
def course_of(origin: wp.vec3d, direction: wp.vec3d, mask: MaskGrid):
    """What stays the same along a ray."""
    course = Course()
    course.step_x = wp.where(direction[0] > wp.float64(0.0), 1, -1)
    course.step_y = wp.where(direction[1] > wp.float64(0.0), 1, -1)
    course.spacing_x = face_spacing(direction[0], mask.cell[0])
    course.spacing_y = face_spacing(direction[1], mask.cell[1])
    course.layer_start = (origin[2] - mask.low[2]) / mask.cell[2]
    course.layer_slope = direction[2] / mask.cell[2]
    if wp.abs(direction[2]) >= _LEVEL:
        course.layer_spacing = mask.cell[2] / direction[2]
    return course


@wp.func
def start_walk(origin: wp.vec3d, direction: wp.vec3d, near: wp.float64, mask: MaskGrid):
    """Walk that stands in the cell where the ray enters the region."""
    walk = Walk()
    walk.distance = near
    walk.x = cell_at(origin[0] + near * direction[0], mask.low[0], mask.cell[0], mask.shape[0])
    walk.y = cell_at(origin[1] + near * direction[1], mask.low[1], mask.cell[1], mask.shape[1])
    walk.z = cell_at(origin[2] + near * direction[2], mask.low[2], mask.cell[2], mask.shape[2])
    walk.next_x = face_distance(walk.x, origin[0], direction[0], mask.low[0], mask.cell[0])
    walk.next_y = face_distance(walk.y, origin[1], direction[1], mask.low[1], mask.cell[1])
    return walk


_WALK = """
    // In plain C++, so that the state of a walk stays in registers.
    const int columns = mask.shape.c[0], rows = mask.shape.c[1], top = mask.shape.c[2] - 1, words = mask.bits.shape[2];
    const unsigned long long other = occupied ? 0ull : ~0ull;
    const bool up = course.layer_slope > 0.0;
    int x = walk.x, y = walk.y, z = walk.z;
    double next_x = walk.next_x, next_y = walk.next_y, distance = walk.distance;
    const auto leaves_column = [&]() {
        const double face = next_x < next_y ? next_x : next_y;
        return face < end ? face : end;
    };
    const auto height = [&](double at) { return at * course.layer_slope + course.layer_start; };
    // Never back, whatever rounding says.
    const auto layer_at = [&](double at) {
        const double exact = height(at);
        int layer = static_cast<int>(exact);
        layer -= exact < layer;
        layer = layer < 0 ? 0 : layer > top ? top : layer;
        return up ? (layer > z ? layer : z) : (layer < z ? layer : z);
    };
    const auto enter_next_column = [&](double leave) {
        distance = leave;
        if (next_x <= next_y) {
            x += course.step_x;
            next_x += course.spacing_x;
        } else {
            y += course.step_y;
            next_y += course.spacing_y;
        }
        if (static_cast<unsigned int>(x) >= static_cast<unsigned int>(columns) || static_cast<unsigned int>(y) >= static_cast<unsigned int>(rows))
            distance = end;
    };
    while (distance < end) {
        const double leave = leaves_column();
        // Over everything in a column: the next one, before anything is looked at. Most of a ray's way is such.
        if (occupied && height(up ? distance : leave) >= mask.tops.data[y * columns + x]) {
            enter_next_column(leave);
            continue;
        }
        z = layer_at(distance);
        const int last = layer_at(leave);
        const unsigned int* const column = mask.bits.data + (y * columns + x) * words;
        int layer = -1;
        for (int chunk = z >> 6;; chunk += up ? 1 : -1) {
            unsigned long long found = column[2 * chunk];
            if (2 * chunk + 1 < words) found |= static_cast<unsigned long long>(column[2 * chunk + 1]) << 32;
            found ^= other;
            const int low = (up ? z : last) - 64 * chunk, high = (up ? last : z) - 64 * chunk;
            if (low > 0) found &= ~0ull << low;
            if (high < 63) found &= ~(~0ull << high << 1);
            if (found) {
                layer = 64 * chunk + (up ? LOWEST_BIT(found) : HIGHEST_BIT(found));
                break;
            }
            if (chunk == last >> 6) break;
        }
        if (layer >= 0) {
            if (layer != z) {
                const double at = (static_cast<double>(up ? layer : layer + 1) - course.layer_start) * course.layer_spacing;
                distance = at < distance ? distance : at > leave ? leave : at;
                z = layer;
            }
            break;
        }
        z = last;
        enter_next_column(leave);
    }
    wp::vec_t<6, wp::float64> state;
    state[0] = x, state[1] = y, state[2] = z, state[3] = next_x, state[4] = next_y, state[5] = distance;
    return state;
"""
_State: Any = wp.types.vector(length=6, dtype=wp.float64)
"""The fields of `Walk` in their order: native functions return no structs."""


@wp.func_native(NATIVE + _WALK)
def _to_cell(walk: Walk, course: Course, end: wp.float64, mask: MaskGrid, occupied: bool) -> _State:
    """The first cell from here on that is occupied or that is not."""
    ...


@wp.func
def _walked(walk: Walk, course: Course, end: wp.float64, mask: MaskGrid, occupied: bool):
    state = _to_cell(walk, course, end, mask, occupied)
    walk.x = int(state[0])
    walk.y = int(state[1])
    walk.z = int(state[2])
    walk.next_x = state[3]
    walk.next_y = state[4]
    walk.distance = state[5]
    return walk


@wp.func
def next_run(walk: Walk, course: Course, end: wp.float64, mask: MaskGrid):
    """The walk at the first occupied cell from here on, or at its end."""
    return _walked(walk, course, end, mask, True)


@wp.func
def past_run(walk: Walk, course: Course, end: wp.float64, mask: MaskGrid):
    """The walk behind the occupied cells that begin here."""
    return _walked(walk, course, end, mask, False)


@wp.func
def samples_in_run(begin: wp.float64, end: wp.float64, step: wp.float64):
    """How many samples divide a run evenly at no more than one step apart; at least one."""
    return wp.max(1, int(wp.ceil((end - begin) / step)))
