# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Occupied cells to the patch map on a CPU, eight voxels and then eight patch cells at a time: what `pillar_features.py` does on a GPU.

In: points, `VoxelBuffers` and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Unusual: a norm waits for sums and a root, so one voxel after the other leaves a core idle most of the time; eight share each row of a matrix.
The mean over the channels of a point's first layer is taken out of the weights beforehand. As there, the sum over points runs in 44.20 fixed point.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import CPU, CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.pillar_features import PillarFeatures, PillarWeights, check_range
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, WIDTH, packed
from copilot4d_core.kernels.voxelize import PATCHES, POINTS, VOXELS, VoxelBuffers

BLOCK = 8
"""Voxels or patch cells that one row of a launch works on together; a multiple of what `product` takes at once."""
_AHEAD = 12
"""Points between one that is worked on and the one that is fetched."""
_LEAST_BLOCKS = 16
"""Rows that are worth a thread of their own."""

_VOXELS = """
    typedef float v4 __attribute__((ext_vector_type(4)));
    typedef long long vl __attribute__((ext_vector_type(16)));
    const float *point_in = weights.data, *point_bias = point_in + 3 * D, *scale = point_bias + D, *shift = scale + D, *point_out = shift + D;
    const float *voxel_bias = point_out + D * D, *voxel_scale = voxel_bias + D, *voxel_shift = voxel_scale + D, *layer_in = voxel_shift + D;
    const float *layer_table = layer_in + D * P, *layer_scale = layer_table + LAYERS * P, *layer_shift = layer_scale + P, *zero = layer_shift + P;
    const int first = block * BLOCK, number = counts.data[VOXELS] - first < BLOCK ? counts.data[VOXELS] - first : BLOCK;
    if (number <= 0) return;
    // Points of a voxel lie anywhere in the scan: those of the next ones are fetched ahead.
    const int last = counts.data[POINTS] - 1;
    const v4 origin = {low.c[0], low.c[1], low.c[2], 0.0f}, voxel_size = {size.c[0], size.c[1], size.c[2], 1.0f};
    float sum[BLOCK * D], voxel[BLOCK * D], hidden[BLOCK * P], points_in[BLOCK];
    int layer[BLOCK];
    for (int v = 0; v < BLOCK; ++v) {
        vl total[D / 16];
        for (int n = 0; n < D / 16; ++n) total[n] = (vl)(0);
        const int begin = v < number ? voxel_start.data[first + v] : 0, end = v < number ? voxel_start.data[first + v + 1] : 0;
        const int key = v < number ? keys.data[begin] : 0, slot = key / LAYERS % (PATCH * PATCH), cell = key / (LAYERS * PATCH * PATCH);
        layer[v] = key % LAYERS;
        points_in[v] = static_cast<float>(end - begin);
        const v4 centre = {static_cast<float>(cell % width * PATCH + slot % PATCH) + 0.5f,
                           static_cast<float>(cell / width * PATCH + slot / PATCH) + 0.5f, static_cast<float>(layer[v]) + 0.5f, 0.0f};
        for (int i = begin; i < end; ++i) {
            const float* point = points.data + 3 * static_cast<size_t>(order.data[i]);
            __builtin_prefetch(points.data + 3 * static_cast<size_t>(order.data[i + AHEAD < last ? i + AHEAD : last]));
            const v4 place = {point[0], point[1], point[2], 0.0f};
            const v4 offset = ((place - origin) / voxel_size - centre) * 2.0f;
            vf value[D / 16], squares = (vf)(0.0f);
            for (int n = 0; n < D / 16; ++n) {
                value[n] = fma((vf)(offset.x), load(point_in + 16 * n), load(point_bias + 16 * n));
                value[n] = fma((vf)(offset.z), load(point_in + 2 * D + 16 * n), fma((vf)(offset.y), load(point_in + D + 16 * n), value[n]));
                squares = fma(value[n], value[n], squares);
            }
            const float factor = 1.0f / __builtin_sqrtf(sum_of(squares) / D + 1e-5f);
            for (int n = 0; n < D / 16; ++n) {
                const vf normed = fma(value[n] * factor, load(scale + 16 * n), load(shift + 16 * n));
                const vf positive = __builtin_elementwise_max(normed, (vf)(0.0f)) * 1048576.0f;
                total[n] += __builtin_convertvector(__builtin_convertvector(__builtin_elementwise_roundeven(positive), vi), vl);
            }
        }
        for (int n = 0; n < D / 16; ++n) store(sum + v * D + 16 * n, __builtin_convertvector(total[n], vf) / 1048576.0f);
    }
    product(sum, D, BLOCK, D, point_out, zero, D, [&](int v, int j, vf value) {
        store(voxel + v * D + j, fma((vf)(points_in[v]), load(voxel_bias + j), value));
    });
    for (int v = 0; v < BLOCK; ++v)
        layer_norm(voxel + v * D, voxel_scale, voxel_shift, D, [&](int j, vf value) { store(sum + v * D + j, value); });
    product(sum, D, BLOCK, D, layer_in, zero, P, [&](int v, int j, vf value) {
        store(hidden + v * P + j, value + load(layer_table + layer[v] * P + j));
    });
    for (int v = 0; v < BLOCK; ++v) {
        layer_norm(hidden + v * P, layer_scale, layer_shift, P, [&](int j, vf value) {
            store(out.data + static_cast<size_t>(first + v) * P + j, __builtin_elementwise_max(value, (vf)(0.0f)));
        });
    }
"""
_PATCHES = """
    const float *pillar_matrix = weights.data, *pillar_bias = pillar_matrix + P * P, *scale = pillar_bias + P, *shift = scale + P, *zero = shift + P;
    const float *patch_bias = zero + P, *patch_matrix = patch_bias + C;
    const int first = block * BLOCK, number = counts.data[PATCHES] - first < BLOCK ? counts.data[PATCHES] - first : BLOCK;
    if (number <= 0) return;
    // A row a patch cell, the channels of its pillars in the order of their slots; 0 where there is none.
    float all[BLOCK * SLOTS * P] = {}, sum[BLOCK * P], value[BLOCK * P], voxels_in[BLOCK];
    bool is_used[SLOTS] = {};
    int to[BLOCK], cell = 0;
    const int last = patch_start.data[first + number];
    for (int pillar = patch_start.data[first]; pillar < last; pillar += BLOCK) {
        for (int p = 0; p < BLOCK; ++p) {
            const bool is_one = pillar + p < last;
            const int begin = is_one ? pillar_start.data[pillar + p] : 0, end = is_one ? pillar_start.data[pillar + p + 1] : 0;
            voxels_in[p] = static_cast<float>(end - begin);
            for (int j = 0; j < P; j += 16) {
                vf total = (vf)(0.0f);
                for (int v = begin; v < end; ++v) total += load(hidden.data + static_cast<size_t>(v) * P + j);
                store(sum + p * P + j, total);
            }
            if (!is_one) continue;
            while (pillar + p >= patch_start.data[first + cell + 1]) ++cell;
            const int place = slot.data[pillar + p];
            is_used[place] = true;
            to[p] = (cell * SLOTS + place) * P;
        }
        product(sum, P, BLOCK, P, pillar_matrix, zero, P, [&](int p, int j, vf v) {
            store(value + p * P + j, fma((vf)(voxels_in[p]), load(pillar_bias + j), v));
        });
        for (int p = 0; p < BLOCK && pillar + p < last; ++p)
            layer_norm(value + p * P, scale, shift, P, [&](int j, vf v) { store(all + to[p] + j, v); });
    }
    for (int j = 0; j < C; j += 16) {
        vf patch[BLOCK];
        for (int c = 0; c < BLOCK; ++c) patch[c] = load(patch_bias + j);
        for (int place = 0; place < SLOTS; ++place) {
            if (!is_used[place]) continue;
            for (int k = place * P; k < place * P + P; ++k) {
                const vf factor = load(patch_matrix + k * C + j);
                for (int c = 0; c < BLOCK; ++c) patch[c] = fma((vf)(all[c * SLOTS * P + k]), factor, patch[c]);
            }
        }
        for (int c = 0; c < number; ++c)
            store(reinterpret_cast<float*>(out.data) + static_cast<size_t>(index.data[first + c]) * C + j, patch[c]);
    }
"""


@cache
def _kernels(point_dim: int, pillar_dim: int, patch_dim: int, layers: int, patch_voxels: int) -> tuple[wp.Kernel, wp.Kernel]:
    patch: Any = wp.types.vector(length=patch_dim, dtype=wp.float32)
    constants = {"D": point_dim, "P": pillar_dim, "C": patch_dim, "LAYERS": layers, "PATCH": patch_voxels, "SLOTS": patch_voxels**2,
                 "BLOCK": BLOCK, "AHEAD": _AHEAD, "POINTS": POINTS, "VOXELS": VOXELS, "PATCHES": PATCHES}
    before = VECTORS + "".join(f"    constexpr int {name} = {value};\n" for name, value in constants.items())

    @wp.func_native(before + _VOXELS)
    def voxels(block: int, points: wp.array2d(dtype=wp.float32), order: wp.array(dtype=wp.int32), keys: wp.array(dtype=wp.int32),
               voxel_start: wp.array(dtype=wp.int32), low: wp.vec3, size: wp.vec3, width: int, weights: wp.array(dtype=wp.float32),
               counts: wp.array(dtype=wp.int32), out: wp.array2d(dtype=wp.float32)):
        ...

    @wp.func_native(before + _PATCHES)
    def patches(block: int, hidden: wp.array2d(dtype=wp.float32), pillar_start: wp.array(dtype=wp.int32), slot: wp.array(dtype=wp.int32),
                patch_start: wp.array(dtype=wp.int32), index: wp.array(dtype=wp.int32), weights: wp.array(dtype=wp.float32),
                counts: wp.array(dtype=wp.int32), out: wp.array(dtype=patch)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def voxel_block(first: int, points: wp.array2d(dtype=wp.float32), order: wp.array(dtype=wp.int32), keys: wp.array(dtype=wp.int32),
                    voxel_start: wp.array(dtype=wp.int32), low: wp.vec3, size: wp.vec3, width: int, weights: wp.array(dtype=wp.float32),
                    counts: wp.array(dtype=wp.int32), out: wp.array2d(dtype=wp.float32)):
        voxels(first + wp.tid(), points, order, keys, voxel_start, low, size, width, weights, counts, out)

    @wp.kernel(module="unique", **WIDEST)
    def patch_block(first: int, hidden: wp.array2d(dtype=wp.float32), pillar_start: wp.array(dtype=wp.int32), slot: wp.array(dtype=wp.int32),
                    patch_start: wp.array(dtype=wp.int32), index: wp.array(dtype=wp.int32), weights: wp.array(dtype=wp.float32),
                    counts: wp.array(dtype=wp.int32), out: wp.array(dtype=patch)):
        patches(first + wp.tid(), hidden, pillar_start, slot, patch_start, index, weights, counts, out)

    return voxel_block, patch_block


class PillarBlocks:
    """The sparse half of the encoder on a CPU; gives what `PillarFeatures` gives, but for rounding."""

    def __init__(self, weights: PillarWeights, grid: Grid, capacity: int, memory: Memory = CPU_MEMORY) -> None:
        """See `PillarFeatures`; the numbers of channels must be multiples of 16."""
        check_range(weights)
        dims = point_dim, pillar_dim, patch_dim = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
        self.patch_type = wp.types.vector(length=patch_dim, dtype=wp.float32)
        self._kernels = _kernels(*dims, len(weights.layer_table), grid.config.grid.patch_voxels)
        self._low, self._size = (wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.voxel_size_m))
        self._width = grid.patches_HW[1]
        point_in = np.vstack([weights.point_in, weights.point_vectors[:1]]).astype(np.float64)
        parts = [[point_in - point_in.mean(axis=1, keepdims=True), weights.point_vectors[1:], packed(weights.point_out), weights.voxel_vectors,
                  packed(weights.layer_in), weights.layer_table, weights.layer_vectors, np.zeros(max(point_dim, pillar_dim))],
                 [packed(weights.pillar_out), weights.pillar_vectors, np.zeros(pillar_dim), weights.patch_bias, weights.patch_in]]
        self._weights = [memory.place(np.concatenate([np.ravel(part) for part in one]).astype(np.float32), wp.float32) for one in parts]
        self._hidden = memory.array((max(capacity, 1) + BLOCK, pillar_dim), wp.float32)
        self._bias = weights.patch_bias.astype(np.float32)

    def __call__(self, points: Any, voxels: VoxelBuffers, count: int, out: Any) -> None:
        """Fill the patch map; see `PillarFeatures`."""
        out.numpy()[:] = self._bias
        if not count:
            return
        voxel_block, patch_block = self._kernels
        of_voxels, of_patches = self._weights
        launch_rows(voxel_block, _blocks(voxels.rows(VOXELS, count)), [
            points, voxels.order, voxels.keys, voxels.voxel_start, self._low, self._size, self._width, of_voxels, voxels.counts, self._hidden],
            least=_LEAST_BLOCKS)
        launch_rows(patch_block, _blocks(voxels.rows(PATCHES, count)), [
            self._hidden, voxels.pillar_start, voxels.pillar_slot, voxels.patch_start, voxels.patch_index, of_patches, voxels.counts, out],
            least=_LEAST_BLOCKS)


def _blocks(rows: int) -> int:
    return -(-rows // BLOCK)


def sparse_encoder(weights: PillarWeights, grid: Grid, capacity: int, memory: Memory = CPU_MEMORY) -> PillarFeatures | PillarBlocks:
    """What fits the device and the numbers of channels.

    Raises:
        ValueError: see `PillarFeatures`.
    """
    dims = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
    fits = memory.device == CPU and not any(dim % WIDTH for dim in dims)
    return (PillarBlocks if fits else PillarFeatures)(weights, grid, capacity, memory)
