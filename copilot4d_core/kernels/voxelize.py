# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points to occupied voxels: sort by voxel, then mark where voxels, pillars and patch cells begin. On a CPU see `sort_points.py`.

In: (N, 3) points in metres. Out: index lists of the occupied cells only (an empty voxel contributes nothing to any
later stage). The sort key counts patch cells first, then pillars inside a patch cell, then layers, so one sort makes
points of a voxel, voxels of a pillar and pillars of a patch cell neighbours in memory, and every later sum runs over a
contiguous range without atomics.
Unusual: the lists and their lengths stay on the device, because a GPU that hands a length to the host waits for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray, Grid, IntArray
from copilot4d_core.kernels.launch import CPU, CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.sort_points import sort_points

_OUTSIDE = wp.int32(2**31 - 1)
"""Sort key of a point outside the region: the last."""
POINTS, VOXELS, PILLARS, PATCHES = range(4)
"""Places in `VoxelBuffers.counts`."""


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
        keys[i] = wp.static(_OUTSIDE)
        return
    column = wp.min(int(wp.floor((x - low[0]) / size[0])), voxels[0] - 1)
    row = wp.min(int(wp.floor((y - low[1]) / size[1])), voxels[1] - 1)
    layer = wp.min(int(wp.floor((z - low[2]) / size[2])), voxels[2] - 1)
    cell = (row // patch) * (voxels[0] // patch) + column // patch
    slot = (row % patch) * patch + column % patch
    keys[i] = (cell * patch * patch + slot) * voxels[2] + layer


@wp.kernel
def _offset_kernel(first: int, points: wp.array2d(dtype=wp.float32), low: wp.vec3, size: wp.vec3, voxels: wp.vec3i, patch: int,
                   keys: wp.array(dtype=wp.int32), order: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32),
                   offset: wp.array2d(dtype=wp.float32)):
    i = first + wp.tid()
    if i >= counts[wp.static(POINTS)]:
        return
    key = keys[i]
    source = order[i]
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


@wp.kernel
def _begin_kernel(first: int, keys: wp.array(dtype=wp.int32), layers: int, slots: int, count: int, begins: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    key = keys[i]
    before = int(-1)
    if i > 0:
        before = keys[i - 1]
    voxel = int(0)
    pillar = int(0)
    patch = int(0)
    # Most points share the voxel of the one before; divisions are left to the others.
    if key != before and key != wp.static(_OUTSIDE):
        voxel = 1
        if before < 0 or key // layers != before // layers:
            pillar = 1
            if before < 0 or key // (layers * slots) != before // (layers * slots):
                patch = 1
    begins[i] = voxel
    begins[count + i] = pillar
    begins[2 * count + i] = patch


@wp.kernel
def _list_kernel(first: int, keys: wp.array(dtype=wp.int32), layers: int, slots: int, count: int, begins: wp.array(dtype=wp.int32),
                 ranks: wp.array(dtype=wp.int32), voxel_start: wp.array(dtype=wp.int32), voxel_layer: wp.array(dtype=wp.int32),
                 pillar_start: wp.array(dtype=wp.int32), pillar_slot: wp.array(dtype=wp.int32), patch_start: wp.array(dtype=wp.int32),
                 patch_index: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    key = keys[i]
    is_inside = key != wp.static(_OUTSIDE)
    # One running sum went through all three lists, so each begins where the one before ended.
    voxel = ranks[i] - 1
    pillar = ranks[count + i] - ranks[count - 1] - 1
    patch = ranks[2 * count + i] - ranks[2 * count - 1] - 1
    if begins[i] == 1:
        voxel_start[voxel] = i
        voxel_layer[voxel] = key % layers
        if begins[count + i] == 1:
            pillar_start[pillar] = voxel
            pillar_slot[pillar] = (key // layers) % slots
            if begins[2 * count + i] == 1:
                patch_start[patch] = pillar
                patch_index[patch] = key // (layers * slots)
    is_last = is_inside
    if i + 1 < count:
        is_last = is_inside and keys[i + 1] == wp.static(_OUTSIDE)
    if is_last or (i == 0 and not is_inside):
        inside = wp.where(is_inside, i + 1, 0)
        voxel_start[voxel + 1] = inside
        pillar_start[pillar + 1] = voxel + 1
        patch_start[patch + 1] = pillar + 1
        counts[0] = inside
        counts[1] = voxel + 1
        counts[2] = pillar + 1
        counts[3] = patch + 1


class VoxelBuffers:
    """Memory for the occupied cells of one scan on a device; the lists of `Voxels`, and `counts`, their lengths."""

    def __init__(self, capacity: int, memory: Memory = CPU_MEMORY) -> None:
        """Allocate.

        Args:
            capacity: most points of a scan, at least 1.
        """
        self.capacity, self.memory = capacity, memory

        def integers(length: int) -> Any:
            return memory.array(length, wp.int32)

        self.keys = integers(2 * capacity)
        if memory.may_read:
            self.order, self.pairs = integers(capacity), memory.array(2 * capacity, wp.int64)
        else:
            self.order = integers(2 * capacity)
            self.begins, self.ranks = integers(3 * capacity), integers(3 * capacity)
        self.offset = memory.array((capacity, 3), wp.float32)
        self.voxel_start, self.voxel_layer = integers(capacity + 1), integers(capacity)
        self.pillar_start, self.pillar_slot = integers(capacity + 1), integers(capacity)
        self.patch_start, self.patch_index = integers(capacity + 1), integers(capacity)
        self.counts = integers(4)
        self.lists = [self.voxel_start, self.voxel_layer, self.pillar_start, self.pillar_slot, self.patch_start, self.patch_index, self.counts]

    def rows(self, which: int, count: int) -> int:
        """How many rows a kernel over a list is launched with.

        Where the host may not read the list's length, every row that there may be is launched.
        """
        return int(self.counts.numpy()[which]) if self.memory.may_read else count


def voxelize_into(buffers: VoxelBuffers, points: Any, count: int, grid: Grid) -> None:
    """Fill the lists of the occupied cells, not the offsets; on a GPU only enqueues.

    Source: CoPilot4D, figure 6 (voxel size and grid); no cap on points or voxels.

    Args:
        points: Warp array (capacity or count, 3) float32, metres; points outside the half-open region (and NaN) are left out.
        count: how many of them belong to the scan, 1 to the buffers' capacity.
        grid: shapes and cell sizes.
    Deterministic: the lists do not depend on the order of the points, except the order inside one voxel.
    """
    if buffers.memory.may_read:
        sort_points(points, count, grid, buffers.capacity, buffers.pairs, buffers.keys, buffers.order, buffers.lists)
        return
    rows, columns, layers = grid.voxels_YXZ
    patch, device = grid.config.grid.patch_voxels, buffers.memory.device
    low, high, size = (wp.vec3(*map(float, v)) for v in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m))
    keys, slots = buffers.keys, patch * patch
    launch_rows(_key_kernel, count, [points, low, high, size, wp.vec3i(columns, rows, layers), patch, keys, buffers.order], device, parts_per_core=1)
    wp.utils.radix_sort_pairs(keys, buffers.order, count)
    launch_rows(_begin_kernel, count, [keys, layers, slots, count, buffers.begins], device, parts_per_core=1)
    wp.utils.array_scan(buffers.begins[:3 * count], buffers.ranks[:3 * count])
    launch_rows(_list_kernel, count, [keys, layers, slots, count, buffers.begins, buffers.ranks, *buffers.lists], device, parts_per_core=1)


def offsets_into(buffers: VoxelBuffers, points: Any, count: int, grid: Grid) -> None:
    """Fill the offsets of the points from the centres of their voxels; on a GPU only enqueues.

    Args: those of `voxelize_into`, which was called before.
    """
    rows, columns, layers = grid.voxels_YXZ
    low, size = (wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.voxel_size_m))
    launch_rows(_offset_kernel, count, [
        points, low, size, wp.vec3i(columns, rows, layers), grid.config.grid.patch_voxels, buffers.keys, buffers.order, buffers.counts,
        buffers.offset,
    ], buffers.memory.device, parts_per_core=1)


def voxelize(points_m: FloatArray, grid: Grid) -> Voxels:
    """The occupied voxels, pillars and patch cells of a scan, on the CPU.

    Args:
        points_m: (N, 3 or more) float32, metres; points outside the half-open region (and NaN) are left out.
        grid: shapes and cell sizes.
    Returns:
        Index lists of the occupied cells; all empty (starts hold one 0) when no point lies inside.
    """
    count = len(points_m)
    buffers = VoxelBuffers(max(count, 1))
    if count:
        points: Any = wp.array(np.ascontiguousarray(points_m[:, :3], dtype=np.float32), dtype=wp.float32, ndim=2, device=CPU, copy=False)
        voxelize_into(buffers, points, count, grid)
        offsets_into(buffers, points, count, grid)
    else:
        for array in (buffers.counts, buffers.voxel_start, buffers.pillar_start, buffers.patch_start):
            array.zero_()
    inside, voxels, pillars, patches = (int(length) for length in buffers.counts.numpy())
    return Voxels(
        offset_N3=buffers.offset.numpy()[:inside],
        voxel_start_V1=buffers.voxel_start.numpy()[:voxels + 1],
        voxel_layer_V=buffers.voxel_layer.numpy()[:voxels],
        pillar_start_P1=buffers.pillar_start.numpy()[:pillars + 1],
        pillar_slot_P=buffers.pillar_slot.numpy()[:pillars],
        patch_start_C1=buffers.patch_start.numpy()[:patches + 1],
        patch_index_C=buffers.patch_index.numpy()[:patches],
    )


def kernels() -> list[wp.Kernel]:
    """The kernels of this file."""
    return [_key_kernel, _offset_kernel, _begin_kernel, _list_kernel]
