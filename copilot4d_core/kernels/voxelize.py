"""Points to occupied voxels: sort by voxel, then mark where voxels, pillars and patch cells begin.

In: (N, 3) points in metres. Out: `Voxels`, index lists of the occupied cells only (an empty voxel contributes
nothing to any later stage). The sort key counts patch cells first, then pillars inside a patch cell, then layers,
so one sort makes points of a voxel, voxels of a pillar and pillars of a patch cell neighbours in memory, and every
later sum runs over a contiguous range without atomics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray, Grid, IntArray
from copilot4d_core.kernels.launch import CPU, launch_rows

_OUTSIDE = 2**31 - 1


class Voxels(NamedTuple):
    """Occupied cells of one scan. N points inside the region, V voxels, P pillars, C patch cells; all int32 but offsets."""

    offset_N3: FloatArray
    """Point minus voxel centre, in half voxels (-1..1); points sorted by voxel."""
    voxel_start_V1: IntArray
    """(V + 1): first point of each voxel."""
    voxel_layer_V: IntArray
    """Layer (z index) of each voxel."""
    pillar_start_P1: IntArray
    """(P + 1): first voxel of each pillar."""
    pillar_slot_P: IntArray
    """Position of the pillar inside its patch cell, row-major."""
    patch_start_C1: IntArray
    """(C + 1): first pillar of each occupied patch cell."""
    patch_index_C: IntArray
    """Row-major index of each occupied patch cell in the patch map."""


@wp.kernel
def _key_kernel(first: int, points: wp.array2d(dtype=wp.float32), low: wp.vec3, high: wp.vec3, size: wp.vec3,
                voxels: wp.vec3i, patch: int, keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    x = points[i, 0]
    y = points[i, 1]
    z = points[i, 2]
    order[i] = i
    inside = x >= low[0] and x < high[0] and y >= low[1] and y < high[1] and z >= low[2] and z < high[2]
    if not inside:
        keys[i] = wp.int32(2147483647)
        return
    column = wp.min(int(wp.floor((x - low[0]) / size[0])), voxels[0] - 1)
    row = wp.min(int(wp.floor((y - low[1]) / size[1])), voxels[1] - 1)
    layer = wp.min(int(wp.floor((z - low[2]) / size[2])), voxels[2] - 1)
    cell = (row // patch) * (voxels[0] // patch) + column // patch
    slot = (row % patch) * patch + column % patch
    keys[i] = (cell * patch * patch + slot) * voxels[2] + layer


@wp.kernel
def _offset_kernel(first: int, points: wp.array2d(dtype=wp.float32), low: wp.vec3, size: wp.vec3, voxels: wp.vec3i, patch: int,
                   keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32), offset: wp.array2d(dtype=wp.float32)):
    i = first + wp.tid()
    source = order[i]
    key = keys[i]
    layer = key % voxels[2]
    pillar = key // voxels[2]
    slot = pillar % (patch * patch)
    cell = pillar // (patch * patch)
    width = voxels[0] // patch
    row = (cell // width) * patch + slot // patch
    column = (cell % width) * patch + slot % patch
    offset[i, 0] = ((points[source, 0] - low[0]) / size[0] - (float(column) + 0.5)) * 2.0
    offset[i, 1] = ((points[source, 1] - low[1]) / size[1] - (float(row) + 0.5)) * 2.0
    offset[i, 2] = ((points[source, 2] - low[2]) / size[2] - (float(layer) + 0.5)) * 2.0


def _starts(keys: IntArray) -> IntArray:
    """First index of each run of equal keys, and the length of the list."""
    changes = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate(([0], changes, [len(keys)])).astype(np.int32) if len(keys) else np.zeros(1, dtype=np.int32)


def voxelize(points_m: FloatArray, grid: Grid, device: str = CPU) -> Voxels:
    """Sort the points inside the region by voxel and list the occupied voxels, pillars and patch cells.

    Source: CoPilot4D, figure 6 (voxel size and grid); no cap on points or voxels.

    Args:
        points_m: (N, 3) float32, metres, C-contiguous; points outside the half-open region (and NaN) are left out.
        grid: shapes and cell sizes.
    Returns:
        Index lists of the occupied cells; all empty (starts hold one 0) when no point lies inside.
    Deterministic: the lists do not depend on the order of the points, except the order inside one voxel.
    """
    count = len(points_m)
    rows, columns, layers = grid.voxels_YXZ
    patch = grid.config.grid.patch_voxels
    low, high, size = (wp.vec3(*map(float, v)) for v in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m))
    shape = wp.vec3i(columns, rows, layers)
    points: Any = wp.array(np.ascontiguousarray(points_m[:, :3], dtype=np.float32), dtype=wp.float32, ndim=2, device=device, copy=False)
    keys = wp.empty(2 * max(count, 1), dtype=wp.int32, device=device)
    order = wp.empty_like(keys)
    launch_rows(_key_kernel, count, [points, low, high, size, shape, patch, keys, order], device)
    if count:
        wp.utils.radix_sort_pairs(keys, order, count)
    sorted_keys = keys.numpy()[:count]
    inside = int(np.searchsorted(sorted_keys, _OUTSIDE))
    offset = wp.empty((inside, 3), dtype=wp.float32, device=device)
    launch_rows(_offset_kernel, inside, [points, low, size, shape, patch, keys, order, offset], device)
    voxel_start = _starts(sorted_keys[:inside])
    voxel_key = sorted_keys[voxel_start[:-1]]
    pillar_start = _starts(voxel_key // layers)
    pillar_key = voxel_key[pillar_start[:-1]] // layers
    patch_start = _starts(pillar_key // (patch * patch))
    return Voxels(
        offset_N3=offset.numpy(),
        voxel_start_V1=voxel_start,
        voxel_layer_V=voxel_key % layers,
        pillar_start_P1=pillar_start,
        pillar_slot_P=pillar_key % (patch * patch),
        patch_start_C1=patch_start,
        patch_index_C=pillar_key[patch_start[:-1]] // (patch * patch),
    )
