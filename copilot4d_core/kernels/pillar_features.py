"""Occupied voxels to the patch map in three passes (inference): points, pillars, patch cells.

In: `Voxels` and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Unusual: the sum over the points of a voxel runs in 44.20 fixed point, because integers add up to the same number in any
order: shuffling the points of a scan changes no bit of the result. Linear layers behind a sum are applied to the sum.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.launch import CPU, launch_rows
from copilot4d_core.kernels.voxelize import Voxels

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
def _kernels(point_dim: int, pillar_dim: int, patch_dim: int) -> tuple[wp.Kernel, wp.Kernel, wp.Kernel]:
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
                     layer_vectors: wp.array(dtype=pillar), out: wp.array(dtype=pillar)):
        v = first + wp.tid()
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
                      pillar_vectors: wp.array(dtype=pillar), out: wp.array(dtype=pillar)):
        p = first + wp.tid()
        total = pillar()
        for v in range(start[p], start[p + 1]):
            total = total + hidden[v]
        value = float(start[p + 1] - start[p]) * pillar_vectors[0]
        for c in range(wp.static(pillar_dim)):
            value = value + total[c] * pillar_out[c]
        out[p] = norm_pillar(value, pillar_vectors[1], pillar_vectors[2])

    @wp.kernel(module="unique")
    def patch_kernel(first: int, pillars: wp.array(dtype=pillar), slot: wp.array(dtype=wp.int32), start: wp.array(dtype=wp.int32),
                     index: wp.array(dtype=wp.int32), patch_in: wp.array2d(dtype=patch), out: wp.array(dtype=patch)):
        c = first + wp.tid()
        total = out[index[c]]
        for p in range(start[c], start[c + 1]):
            value = pillars[p]
            for k in range(wp.static(pillar_dim)):
                total = total + value[k] * patch_in[slot[p], k]
        out[index[c]] = total

    return voxel_kernel, pillar_kernel, patch_kernel


def pillar_features(voxels: Voxels, weights: PillarWeights, num_patches: int, device: str = CPU) -> FloatArray:
    """Patch map of a scan before its layer norm, as the dense encoder takes it.

    Source: CoPilot4D, figure 6: PointNet with sum, pillar pooling with z embedding, 4 x 4 patchify and Linear.

    Args:
        voxels: occupied voxels of the scan.
        weights: of the sparse half of the encoder.
        num_patches: cells of the patch map.
    Returns:
        (num_patches, C) float32; a blank cell holds the bias. The same bits for any order of the points.
    """
    dims = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
    point, pillar, patch = (wp.types.vector(length=dim, dtype=wp.float32) for dim in dims)
    voxel_kernel, pillar_kernel, patch_kernel = _kernels(*dims)

    def rows(array: FloatArray, dtype: Any, ndim: int = 1) -> Any:
        return wp.array(np.ascontiguousarray(array, dtype=np.float32), dtype=dtype, ndim=ndim, device=device, copy=False)

    def index(array: Any) -> Any:
        return wp.array(np.ascontiguousarray(array, dtype=np.int32), dtype=wp.int32, device=device, copy=False)

    num_voxels, num_pillars = len(voxels.voxel_layer_V), len(voxels.pillar_slot_P)
    hidden, pillars = wp.empty(max(num_voxels, 1), dtype=pillar, device=device), wp.empty(max(num_pillars, 1), dtype=pillar, device=device)
    out = np.ascontiguousarray(np.broadcast_to(weights.patch_bias, (num_patches, dims[2])), dtype=np.float32)
    offset: Any = wp.array(voxels.offset_N3, dtype=wp.float32, ndim=2, device=device, copy=False)
    launch_rows(voxel_kernel, num_voxels, [
        offset, index(voxels.voxel_start_V1), index(voxels.voxel_layer_V), rows(weights.point_in, point), rows(weights.point_vectors, point),
        rows(weights.point_out, point), rows(weights.voxel_vectors, point), rows(weights.layer_in, pillar), rows(weights.layer_table, pillar),
        rows(weights.layer_vectors, pillar), hidden], device)
    launch_rows(pillar_kernel, num_pillars, [hidden, index(voxels.pillar_start_P1), rows(weights.pillar_out, pillar),
                                             rows(weights.pillar_vectors, pillar), pillars], device)
    launch_rows(patch_kernel, len(voxels.patch_index_C), [
        pillars, index(voxels.pillar_slot_P), index(voxels.patch_start_C1), index(voxels.patch_index_C),
        rows(weights.patch_in, patch, 2), rows(out, patch)], device)
    return out
