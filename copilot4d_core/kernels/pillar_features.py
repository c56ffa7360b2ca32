# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Occupied voxels to the patch map in three passes (inference): points, pillars, patch cells. On a CPU see `pillar_blocks.py`.

In: `Voxels` and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Nothing but the launches happens on the host: on a GPU a scan is one sequence of kernels without a wait.
Unusual: the sum over the points of a voxel runs in 44.20 fixed point, because integers add up to the same number in any
order: shuffling the points of a scan changes no bit of the result. Linear layers behind a sum are applied to the sum.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.launch import CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.native import NATIVE, TREE
from copilot4d_core.kernels.voxelize import PATCHES, PILLARS, VOXELS, VoxelBuffers, offsets_into

_EPS = 1e-5
_LARGEST = 2047.0
"""What the first layer of a point may reach: 32 bits hold no more in fixed point."""
_TOTAL = """
    float part[{length}];
    for (int k = 0; k < {length}; ++k) part[k] = value.c[k];
    {tree}
    return part[0];
"""
_POINT_SUM = """
    const float* matrix = reinterpret_cast<const float*>(point_in.data);
    const float* bias = reinterpret_cast<const float*>(point_vectors.data);
    wp::vec_t<DIM, float> sum;
    long long total[DIM];
    for (int k = 0; k < DIM; ++k) total[k] = 0;
    for (int i = begin; i < end; ++i) {
        const float x = offset.data[3 * i], y = offset.data[3 * i + 1], z = offset.data[3 * i + 2];
        float value[DIM], mean = 0.0f, variance = 0.0f;
        for (int k = 0; k < DIM; ++k) {
            value[k] = MULTIPLY_ADD(z, matrix[2 * DIM + k], MULTIPLY_ADD(y, matrix[DIM + k], MULTIPLY_ADD(x, matrix[k], bias[k])));
            mean += value[k];
        }
        mean /= DIM;
        for (int k = 0; k < DIM; ++k) {
            value[k] -= mean;
            variance = MULTIPLY_ADD(value[k], value[k], variance);
        }
        const float factor = 1.0f / ROOT(variance / DIM + 1e-5f);
        for (int k = 0; k < DIM; ++k) {
            const float normed = MULTIPLY_ADD(value[k] * factor, bias[DIM + k], bias[2 * DIM + k]);
            total[k] += static_cast<int>(ROUND((normed > 0.0f ? normed : 0.0f) * 1048576.0f));
        }
    }
    for (int k = 0; k < DIM; ++k) sum.c[k] = static_cast<float>(total[k]) / 1048576.0f;
    return sum;
"""


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
    pillar: Any = wp.types.vector(length=pillar_dim, dtype=wp.float32)
    patch: Any = wp.types.vector(length=patch_dim, dtype=wp.float32)

    @wp.func_native(_TOTAL.format(length=point_dim, tree=TREE.format(length=point_dim)))
    def point_total(value: point) -> float:
        ...

    @wp.func_native(_TOTAL.format(length=pillar_dim, tree=TREE.format(length=pillar_dim)))
    def pillar_total(value: pillar) -> float:
        ...

    @wp.func
    def norm_point(value: point, scale: point, shift: point):
        centred = value - point(point_total(value) / float(wp.static(point_dim)))
        variance = point_total(wp.cw_mul(centred, centred)) / float(wp.static(point_dim))
        return wp.cw_mul(centred / wp.sqrt(variance + wp.static(_EPS)), scale) + shift

    @wp.func
    def norm_pillar(value: pillar, scale: pillar, shift: pillar):
        centred = value - pillar(pillar_total(value) / float(wp.static(pillar_dim)))
        variance = pillar_total(wp.cw_mul(centred, centred)) / float(wp.static(pillar_dim))
        return wp.cw_mul(centred / wp.sqrt(variance + wp.static(_EPS)), scale) + shift

    @wp.func_native(f"{NATIVE}const int DIM = {point_dim};{_POINT_SUM}")
    def point_sum(begin: int, end: int, offset: wp.array2d(dtype=wp.float32), point_in: wp.array(dtype=point),
                  point_vectors: wp.array(dtype=point)) -> point:
        ...

    @wp.kernel(module="unique")
    def voxel_kernel(first: int, offset: wp.array2d(dtype=wp.float32), start: wp.array(dtype=wp.int32), layer: wp.array(dtype=wp.int32),
                     point_in: wp.array(dtype=point), point_vectors: wp.array(dtype=point), point_out: wp.array(dtype=point),
                     voxel_vectors: wp.array(dtype=point), layer_in: wp.array(dtype=pillar), layer_table: wp.array(dtype=pillar),
                     layer_vectors: wp.array(dtype=pillar), counts: wp.array(dtype=wp.int32), out: wp.array(dtype=pillar)):
        v = first + wp.tid()
        if v >= counts[wp.static(VOXELS)]:
            return
        total = point_sum(start[v], start[v + 1], offset, point_in, point_vectors)
        voxel = float(start[v + 1] - start[v]) * voxel_vectors[0]
        for c in range(wp.static(point_dim)):
            voxel = voxel + total[c] * point_out[c]
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


def largest_value(weights: PillarWeights) -> float:
    """What no value of a point's first layer exceeds."""
    _, scale, shift = weights.point_vectors
    return float((np.abs(scale) * np.sqrt(len(scale)) + np.abs(shift)).max())  # a value after a norm is at most the root of their number


def check_range(weights: PillarWeights) -> None:
    """Refuse weights that the fixed point of the sums cannot hold.

    Raises:
        ValueError: a first layer whose values may be too large.
    """
    if (largest := largest_value(weights)) > _LARGEST:
        raise ValueError(f"voxel encoder: expected a norm whose values stay below {_LARGEST:.0f}, these weights may reach {largest:.0f}; "
                         "train it again")


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return list(_kernels(config.voxel_encoder.dim, config.bev_pooling.dim, config.swin.dims[0]))


class PillarFeatures:
    """The sparse half of the encoder on one device: occupied cells to the patch map before its layer norm.

    Source: CoPilot4D, figure 6: PointNet with sum, pillar pooling with z embedding, 4 x 4 patchify and Linear.
    """

    def __init__(self, weights: PillarWeights, grid: Grid, capacity: int, memory: Memory = CPU_MEMORY) -> None:
        """Put the weights on the device.

        Args:
            grid: that of the voxels.
            capacity: most points of a scan.
        Raises:
            ValueError: a first layer whose values may be too large for the fixed point of the sums.
        """
        check_range(weights)
        self.dims = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
        self._grid, self._device, self._patches = grid, memory.device, grid.patches_HW[0] * grid.patches_HW[1]
        point, pillar, self.patch_type = (wp.types.vector(length=dim, dtype=wp.float32) for dim in self.dims)
        place = memory.place
        self._voxel_weights = [
            place(weights.point_in, point), place(weights.point_vectors, point), place(weights.point_out, point), place(weights.voxel_vectors, point),
            place(weights.layer_in, pillar), place(weights.layer_table, pillar), place(weights.layer_vectors, pillar)]
        self._pillar_weights = [place(weights.pillar_out, pillar), place(weights.pillar_vectors, pillar)]
        self._patch_in, self._patch_bias = place(weights.patch_in, self.patch_type, 2), place(weights.patch_bias[None], self.patch_type)
        self._hidden, self._pillars = (memory.array(max(capacity, 1), pillar) for _ in range(2))

    def __call__(self, points: Any, voxels: VoxelBuffers, count: int, out: Any) -> None:
        """Fill the patch map; on a GPU only enqueues.

        Args:
            points: Warp array (N, 3) float32, metres.
            voxels: filled by `voxelize_into` with these points.
            count: points of the scan; 0 leaves every cell blank.
            out: Warp array (num_patches,) of vectors; a blank cell gets the bias. The same bits for any order of the points.
        """
        voxel_kernel, pillar_kernel, patch_kernel, blank_kernel = _kernels(*self.dims)
        launch_rows(blank_kernel, self._patches, [self._patch_bias, out], self._device, parts_per_core=1)
        if not count:
            return
        offsets_into(voxels, points, count, self._grid)
        launch_rows(voxel_kernel, voxels.rows(VOXELS, count), [
            voxels.offset, voxels.voxel_start, voxels.voxel_layer, *self._voxel_weights, voxels.counts, self._hidden], self._device)
        launch_rows(pillar_kernel, voxels.rows(PILLARS, count), [
            self._hidden, voxels.pillar_start, *self._pillar_weights, voxels.counts, self._pillars], self._device)
        launch_rows(patch_kernel, voxels.rows(PATCHES, count), [
            self._pillars, voxels.pillar_slot, voxels.patch_start, voxels.patch_index, self._patch_in, voxels.counts, out], self._device)
