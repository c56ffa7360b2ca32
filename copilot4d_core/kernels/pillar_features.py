"""Occupied voxels to the patch map in three passes (inference): points, pillars, patch cells.

In: `Voxels` and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Nothing but the launches happens on the host: on a GPU a scan is one sequence of kernels without a wait.
Unusual: the sum over the points of a voxel runs in 44.20 fixed point, because integers add up to the same number in any
order: shuffling the points of a scan changes no bit of the result. Linear layers behind a sum are applied to the sum.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any, NamedTuple

import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.launch import CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.voxelize import PATCHES, PILLARS, VOXELS, VoxelBuffers

_FIXED_POINT = 1048576.0
_EPS = 1e-5


class PillarWeights(NamedTuple):
    """Weights of VoxelPointNet, BEVPillarPooling and the patch embedding; all float32, matrices as (in, out)."""

    point_in: FloatArray
    """(3, D), and its bias (D), norm scale (D), norm shift (D)."""
    point_vectors: FloatArray
    """(3, D): bias, norm scale, norm shift of the first layer."""
    point_out: FloatArray
    """(D, D)."""
    voxel_vectors: FloatArray
    """(3, D): bias of the second layer, scale and shift of the voxel's norm."""
    layer_in: FloatArray
    """(D, P): voxel part of the pillar MLP's first layer."""
    layer_table: FloatArray
    """(Z, P): its bias plus its embedding part, one row a layer."""
    layer_vectors: FloatArray
    """(2, P): norm scale and shift."""
    pillar_out: FloatArray
    """(P, P)."""
    pillar_vectors: FloatArray
    """(3, P): bias, scale and shift of the pillar's norm."""
    patch_in: FloatArray
    """(slots, P, C)."""
    patch_bias: FloatArray
    """(C,)."""


@cache
def _kernels(point_dim: int, pillar_dim: int, patch_dim: int) -> tuple[wp.Kernel, wp.Kernel, wp.Kernel, wp.Kernel]:
    point: Any = wp.types.vector(length=point_dim, dtype=wp.float32)
    fixed: Any = wp.types.vector(length=point_dim, dtype=wp.int64)
    pillar: Any = wp.types.vector(length=pillar_dim, dtype=wp.float32)
    patch: Any = wp.types.vector(length=patch_dim, dtype=wp.float32)

    @wp.func
    def norm_point(value: point, scale: point, shift: point):
        mean = wp.dot(value, point(1.0)) / float(wp.static(point_dim))
        centred = value - point(mean)
        variance = wp.dot(centred, centred) / float(wp.static(point_dim))
        return wp.cw_mul(centred / wp.sqrt(variance + wp.static(_EPS)), scale) + shift

    @wp.func
    def norm_pillar(value: pillar, scale: pillar, shift: pillar):
        mean = wp.dot(value, pillar(1.0)) / float(wp.static(pillar_dim))
        centred = value - pillar(mean)
        variance = wp.dot(centred, centred) / float(wp.static(pillar_dim))
        return wp.cw_mul(centred / wp.sqrt(variance + wp.static(_EPS)), scale) + shift

    @wp.kernel(module="unique")
    def voxel_kernel(first: int, offset: wp.array2d(dtype=wp.float32), start: wp.array(dtype=wp.int32), layer: wp.array(dtype=wp.int32),
                     point_in: wp.array(dtype=point), point_vectors: wp.array(dtype=point), point_out: wp.array(dtype=point),
                     voxel_vectors: wp.array(dtype=point), layer_in: wp.array(dtype=pillar), layer_table: wp.array(dtype=pillar),
                     layer_vectors: wp.array(dtype=pillar), counts: wp.array(dtype=wp.int32), out: wp.array(dtype=pillar)):
        v = first + wp.tid()
        if v >= counts[wp.static(VOXELS)]:
            return
        total = fixed()
        for i in range(start[v], start[v + 1]):
            value = point_vectors[0] + offset[i, 0] * point_in[0] + offset[i, 1] * point_in[1] + offset[i, 2] * point_in[2]
            value = wp.max(norm_point(value, point_vectors[1], point_vectors[2]), point())
            for c in range(wp.static(point_dim)):
                total[c] = total[c] + wp.int64(wp.rint(value[c] * wp.static(_FIXED_POINT)))
        count = float(start[v + 1] - start[v])
        voxel = count * voxel_vectors[0]
        for c in range(wp.static(point_dim)):
            voxel = voxel + (wp.float32(total[c]) / wp.static(_FIXED_POINT)) * point_out[c]
        voxel = norm_point(voxel, voxel_vectors[1], voxel_vectors[2])
        hidden = layer_table[layer[v]]
        for c in range(wp.static(point_dim)):
            hidden = hidden + voxel[c] * layer_in[c]
        out[v] = wp.max(norm_pillar(hidden, layer_vectors[0], layer_vectors[1]), pillar())

    @wp.kernel(module="unique")
    def pillar_kernel(first: int, hidden: wp.array(dtype=pillar), start: wp.array(dtype=wp.int32), pillar_out: wp.array(dtype=pillar),
                      pillar_vectors: wp.array(dtype=pillar), counts: wp.array(dtype=wp.int32), out: wp.array(dtype=pillar)):
        p = first + wp.tid()
        if p >= counts[wp.static(PILLARS)]:
            return
        total = pillar()
        for v in range(start[p], start[p + 1]):
            total = total + hidden[v]
        value = float(start[p + 1] - start[p]) * pillar_vectors[0]
        for c in range(wp.static(pillar_dim)):
            value = value + total[c] * pillar_out[c]
        out[p] = norm_pillar(value, pillar_vectors[1], pillar_vectors[2])

    @wp.kernel(module="unique")
    def patch_kernel(first: int, pillars: wp.array(dtype=pillar), slot: wp.array(dtype=wp.int32), start: wp.array(dtype=wp.int32),
                     index: wp.array(dtype=wp.int32), patch_in: wp.array2d(dtype=patch), counts: wp.array(dtype=wp.int32),
                     out: wp.array(dtype=patch)):
        c = first + wp.tid()
        if c >= counts[wp.static(PATCHES)]:
            return
        total = out[index[c]]
        for p in range(start[c], start[c + 1]):
            value = pillars[p]
            for k in range(wp.static(pillar_dim)):
                total = total + value[k] * patch_in[slot[p], k]
        out[index[c]] = total

    @wp.kernel(module="unique")
    def blank_kernel(first: int, bias: wp.array(dtype=patch), out: wp.array(dtype=patch)):
        out[first + wp.tid()] = bias[0]

    return voxel_kernel, pillar_kernel, patch_kernel, blank_kernel


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return list(_kernels(config.voxel_encoder.dim, config.bev_pooling.dim, config.swin.dims[0]))


class PillarFeatures:
    """The sparse half of the encoder on one device: occupied cells to the patch map before its layer norm.

    Source: CoPilot4D, figure 6: PointNet with sum, pillar pooling with z embedding, 4 x 4 patchify and Linear.
    """

    def __init__(self, weights: PillarWeights, num_patches: int, capacity: int, memory: Memory = CPU_MEMORY) -> None:
        """Put the weights on the device.

        Args:
            num_patches: cells of the patch map.
            capacity: most points of a scan.
        """
        self.dims = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
        self.num_patches, self.device = num_patches, memory.device
        point, pillar, self.patch_type = (wp.types.vector(length=dim, dtype=wp.float32) for dim in self.dims)
        place = memory.place
        self._voxel_weights = [
            place(weights.point_in, point), place(weights.point_vectors, point), place(weights.point_out, point), place(weights.voxel_vectors, point),
            place(weights.layer_in, pillar), place(weights.layer_table, pillar), place(weights.layer_vectors, pillar)]
        self._pillar_weights = [place(weights.pillar_out, pillar), place(weights.pillar_vectors, pillar)]
        self._patch_in, self._patch_bias = place(weights.patch_in, self.patch_type, 2), place(weights.patch_bias[None], self.patch_type)
        self._hidden, self._pillars = (memory.array(max(capacity, 1), pillar) for _ in range(2))

    def __call__(self, voxels: VoxelBuffers, count: int, out: Any) -> None:
        """Fill the patch map; on a GPU only enqueues.

        Args:
            voxels: filled by `voxelize_into`.
            count: points of the scan; 0 leaves every cell blank.
            out: Warp array (num_patches,) of vectors; a blank cell gets the bias. The same bits for any order of the points.
        """
        voxel_kernel, pillar_kernel, patch_kernel, blank_kernel = _kernels(*self.dims)
        launch_rows(blank_kernel, self.num_patches, [self._patch_bias, out], self.device)
        if not count:
            return
        launch_rows(voxel_kernel, voxels.rows(VOXELS, count), [
            voxels.offset, voxels.voxel_start, voxels.voxel_layer, *self._voxel_weights, voxels.counts, self._hidden], self.device)
        launch_rows(pillar_kernel, voxels.rows(PILLARS, count), [
            self._hidden, voxels.pillar_start, *self._pillar_weights, voxels.counts, self._pillars], self.device)
        launch_rows(patch_kernel, voxels.rows(PATCHES, count), [
            self._pillars, voxels.pillar_slot, voxels.patch_start, voxels.patch_index, self._patch_in, voxels.counts, out], self.device)
