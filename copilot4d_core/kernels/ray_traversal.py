# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Where a ray crosses the cells of the skip mask: the shared geometry of both ray kernels.

The mask is one bit a cell, see `skip_mask.py`. A ray is cut at the region's faces (slab test) and walked cell by cell; neighbouring
occupied cells form one run, and samples divide a run evenly at no more than one step apart, at least one a run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.grid import Grid


@wp.struct
class MaskGrid:
    """The skip mask and its geometry in metres; triples are x, y, z."""

    bits: wp.array3d(dtype=wp.uint32)
    low: wp.vec3
    high: wp.vec3
    cell: wp.vec3
    shape: wp.vec3i


def mask_grid(bits: Any, grid: Grid) -> MaskGrid:
    """The bits of a `SkipMask` with their geometry."""
    rows, columns, layers = grid.mask_cells_YXZ
    result = MaskGrid()
    result.bits = bits
    result.low = wp.vec3(*map(float, grid.minimum_m))
    result.high = wp.vec3(*map(float, grid.maximum_m))
    result.cell = wp.vec3(*(float(v) for v in (grid.maximum_m - grid.minimum_m) / np.array([columns, rows, layers], dtype=np.float32)))
    result.shape = wp.vec3i(columns, rows, layers)
    return result


@wp.struct
class Walk:
    """Position of a ray in the mask: current cell, and the distances where it crosses the next face of each axis.

    Unusual: one field per axis, because an index that varies at run time would keep vectors out of registers.
    """

    x: int
    y: int
    z: int
    next_x: float
    next_y: float
    next_z: float
    distance: float
    """Where the ray entered the current cell."""
    end: float
    """Where it leaves the region."""


@wp.func
def region_entry(origin: wp.vec3, direction: wp.vec3, low: wp.vec3, high: wp.vec3):
    """Distances at which a ray enters (at least 0) and leaves the box; entry >= exit when it misses."""
    near = float(0.0)
    far = float(1.0e30)
    for axis in range(3):
        if wp.abs(direction[axis]) < 1.0e-9:
            if origin[axis] < low[axis] or origin[axis] >= high[axis]:
                far = -1.0
        else:
            a = (low[axis] - origin[axis]) / direction[axis]
            b = (high[axis] - origin[axis]) / direction[axis]
            near = wp.max(near, wp.min(a, b))
            far = wp.min(far, wp.max(a, b))
    return wp.vec2(near, far)


@wp.func
def face_distance(cell: int, origin: float, direction: float, low: float, size: float):
    """Distance to the face through which the ray leaves a cell along one axis."""
    if wp.abs(direction) < 1.0e-9:
        return float(1.0e30)
    ahead = wp.where(direction > 0.0, 1, 0)
    return (low + float(cell + ahead) * size - origin) / direction


@wp.func
def face_spacing(direction: float, size: float):
    """Distance from face to face along one axis."""
    if wp.abs(direction) < 1.0e-9:
        return float(1.0e30)
    return size / wp.abs(direction)


@wp.func
def cell_at(position: float, low: float, size: float, cells: int):
    """Index of the cell of a position along one axis, clamped into the region."""
    return wp.clamp(int(wp.floor((position - low) / size)), 0, cells - 1)


@wp.func
def start_walk(origin: wp.vec3, direction: wp.vec3, near: float, far: float, mask: MaskGrid):
    """Walk that stands in the cell where the ray enters the region."""
    walk = Walk()
    walk.distance = near
    walk.end = far
    walk.x = cell_at(origin[0] + near * direction[0], mask.low[0], mask.cell[0], mask.shape[0])
    walk.y = cell_at(origin[1] + near * direction[1], mask.low[1], mask.cell[1], mask.shape[1])
    walk.z = cell_at(origin[2] + near * direction[2], mask.low[2], mask.cell[2], mask.shape[2])
    walk.next_x = face_distance(walk.x, origin[0], direction[0], mask.low[0], mask.cell[0])
    walk.next_y = face_distance(walk.y, origin[1], direction[1], mask.low[1], mask.cell[1])
    walk.next_z = face_distance(walk.z, origin[2], direction[2], mask.low[2], mask.cell[2])
    return walk


@wp.func
def is_occupied(walk: Walk, mask: MaskGrid):
    """Whether the cell of the walk is rendered."""
    return (mask.bits[walk.y, walk.x, walk.z >> 5] >> wp.uint32(walk.z & 31)) & wp.uint32(1) != wp.uint32(0)


@wp.func
def advance(walk: Walk, direction: wp.vec3, spacing: wp.vec3, mask: MaskGrid):
    """The walk in the next cell; at its end once the ray has left the region."""
    if walk.next_x <= walk.next_y and walk.next_x <= walk.next_z:
        walk.distance = wp.min(walk.next_x, walk.end)
        walk.next_x = walk.next_x + spacing[0]
        walk.x = walk.x + wp.where(direction[0] > 0.0, 1, -1)
        if walk.x < 0 or walk.x >= mask.shape[0]:
            walk.end = walk.distance
    elif walk.next_y <= walk.next_z:
        walk.distance = wp.min(walk.next_y, walk.end)
        walk.next_y = walk.next_y + spacing[1]
        walk.y = walk.y + wp.where(direction[1] > 0.0, 1, -1)
        if walk.y < 0 or walk.y >= mask.shape[1]:
            walk.end = walk.distance
    else:
        walk.distance = wp.min(walk.next_z, walk.end)
        walk.next_z = walk.next_z + spacing[2]
        walk.z = walk.z + wp.where(direction[2] > 0.0, 1, -1)
        if walk.z < 0 or walk.z >= mask.shape[2]:
            walk.end = walk.distance
    return walk


@wp.func
def face_spacings(direction: wp.vec3, mask: MaskGrid):
    """Distances from face to face along x, y and z."""
    return wp.vec3(face_spacing(direction[0], mask.cell[0]), face_spacing(direction[1], mask.cell[1]), face_spacing(direction[2], mask.cell[2]))


@wp.func
def next_run(walk: Walk, direction: wp.vec3, spacing: wp.vec3, mask: MaskGrid):
    """The walk at the first occupied cell from here on, or at its end."""
    while walk.distance < walk.end:
        if is_occupied(walk, mask):
            break
        walk = advance(walk, direction, spacing, mask)
    return walk


@wp.func
def past_run(walk: Walk, direction: wp.vec3, spacing: wp.vec3, mask: MaskGrid):
    """The walk behind the occupied cells that begin here."""
    while walk.distance < walk.end:
        if not is_occupied(walk, mask):
            break
        walk = advance(walk, direction, spacing, mask)
    return walk


@wp.func
def samples_in_run(begin: float, end: float, step: float):
    """How many samples divide a run evenly at no more than one step apart; at least one."""
    return wp.max(1, int(wp.ceil((end - begin) / step)))
