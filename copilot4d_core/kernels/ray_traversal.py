"""Where a ray crosses the cells of the skip mask: the shared geometry of both ray kernels.

The mask is uint8 (Y, X, Z). A ray is cut at the region's faces (slab test) and walked cell by cell; neighbouring
occupied cells form one run, and samples divide a run evenly at no more than one step apart, at least one a run.
"""

from __future__ import annotations

import warp as wp


@wp.struct
class MaskGrid:
    """The skip mask and its geometry in metres; triples are x, y, z."""

    occupied: wp.array3d(dtype=wp.uint8)
    low: wp.vec3
    high: wp.vec3
    cell: wp.vec3
    shape: wp.vec3i


@wp.struct
class Walk:
    """Position of a ray in the mask: current cell, where the ray leaves it, and where it leaves the region."""

    cell: wp.vec3i
    next: wp.vec3
    step: wp.vec3i
    delta: wp.vec3
    distance: float
    end: float


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
def start_walk(origin: wp.vec3, direction: wp.vec3, near: float, far: float, mask: MaskGrid):
    """Walk that stands in the cell where the ray enters the region."""
    walk = Walk()
    walk.distance = near
    walk.end = far
    for axis in range(3):
        position = (origin[axis] + near * direction[axis] - mask.low[axis]) / mask.cell[axis]
        cell = wp.clamp(int(wp.floor(position)), 0, mask.shape[axis] - 1)
        walk.cell[axis] = cell
        walk.step[axis] = 1
        walk.delta[axis] = 1.0e30
        walk.next[axis] = 1.0e30
        if direction[axis] > 1.0e-9:
            walk.delta[axis] = mask.cell[axis] / direction[axis]
            walk.next[axis] = (mask.low[axis] + float(cell + 1) * mask.cell[axis] - origin[axis]) / direction[axis]
        elif direction[axis] < -1.0e-9:
            walk.step[axis] = -1
            walk.delta[axis] = -mask.cell[axis] / direction[axis]
            walk.next[axis] = (mask.low[axis] + float(cell) * mask.cell[axis] - origin[axis]) / direction[axis]
    return walk


@wp.func
def is_occupied(walk: Walk, mask: MaskGrid):
    """Whether the cell of the walk is rendered."""
    return mask.occupied[walk.cell[1], walk.cell[0], walk.cell[2]] != wp.uint8(0)


@wp.func
def advance(walk: Walk, mask: MaskGrid):
    """The walk in the next cell; at its end once the ray has left the region."""
    axis = int(0)
    if walk.next[1] < walk.next[axis]:
        axis = 1
    if walk.next[2] < walk.next[axis]:
        axis = 2
    walk.distance = wp.min(walk.next[axis], walk.end)
    walk.cell[axis] = walk.cell[axis] + walk.step[axis]
    walk.next[axis] = walk.next[axis] + walk.delta[axis]
    if walk.cell[axis] < 0 or walk.cell[axis] >= mask.shape[axis]:
        walk.end = walk.distance
    return walk


@wp.func
def next_run(walk: Walk, mask: MaskGrid):
    """The walk at the first occupied cell from here on, or at its end."""
    while walk.distance < walk.end:
        if is_occupied(walk, mask):
            break
        walk = advance(walk, mask)
    return walk


@wp.func
def past_run(walk: Walk, mask: MaskGrid):
    """The walk behind the occupied cells that begin here."""
    while walk.distance < walk.end:
        if not is_occupied(walk, mask):
            break
        walk = advance(walk, mask)
    return walk


@wp.func
def samples_in_run(begin: float, end: float, step: float):
    """How many samples divide a run evenly at no more than one step apart; at least one."""
    return wp.max(1, int(wp.ceil((end - begin) / step)))
