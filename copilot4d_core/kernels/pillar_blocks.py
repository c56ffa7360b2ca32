# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Occupied cells to the patch map on a CPU, eight patch cells at a time and their voxels by eights: what `pillar_features.py` does on a GPU.

In: points, `VoxelBuffers` and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Unusual: a norm waits for sums and a root, so one voxel after the other leaves a core idle most of the time; eight share each row of a matrix.
As there, the sum over points runs in 44.20 fixed point.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import CPU, CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.pillar_features import PillarFeatures, PillarWeights, check_range, largest_value
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, WIDTH, packed
from copilot4d_core.kernels.voxelize import PATCHES, POINTS, VoxelBuffers

BLOCK = 8
"""Voxels or patch cells that one row of a launch works on together; a multiple of what `product` takes at once."""
_AHEAD = 12
"""Points between one that is worked on and the one that is fetched."""
_LEAST_BLOCKS = 16
"""Rows that are worth a thread of their own."""
_TOGETHER = 64
"""Most points that are worked on between two looks at the voxels that they belong to; their sums stay in 32 bits meanwhile."""
_ONE = float(2**20)
"""What a 1 is in the fixed point of the sums."""

_VOXELS = """
    typedef float v4 __attribute__((ext_vector_type(4)));
    typedef long long vl __attribute__((ext_vector_type(16)));
    const float *point_in = weights.data, *shift = point_in + 4 * D, *root = shift + D, *point_out = root + 16;
    const float *voxel_bias = point_out + D * D, *voxel_scale = voxel_bias + D, *voxel_shift = voxel_scale + D, *layer_in = voxel_shift + D;
    const float *layer_table = layer_in + D * P, *layer_scale = layer_table + LAYERS * P, *layer_shift = layer_scale + P, *zero = layer_shift + P;
    const v4 origin = {low.c[0], low.c[1], low.c[2], 0.0f}, voxel_size = {size.c[0], size.c[1], size.c[2], 1.0f};
    // Points of a voxel lie anywhere in the scan: those of the next ones are fetched ahead.
    const int last = counts.data[POINTS] - 1;
    // What each of up to BLOCK voxels adds to its pillar, (number, P).
    const auto voxel_features = [&](int first, int number, float* hidden) {
        const int* const start = voxel_start.data + first;
        alignas(64) float sum[BLOCK * D], voxel[BLOCK * D], points_in[BLOCK] = {};
        v4 centre[BLOCK];
        vl total[BLOCK * D / 16];
        int layer[BLOCK] = {};
        for (int j = 0; j < BLOCK * D / 16; ++j) total[j] = (vl)(0);
        for (int v = 0; v < number; ++v) {
            const int key = keys.data[start[v]], slot = key / LAYERS % (PATCH * PATCH), cell = key / (LAYERS * PATCH * PATCH);
            layer[v] = key % LAYERS;
            points_in[v] = static_cast<float>(start[v + 1] - start[v]);
            centre[v] = (v4){static_cast<float>(cell % width * PATCH + slot % PATCH) + 0.5f,
                             static_cast<float>(cell / width * PATCH + slot / PATCH) + 0.5f, static_cast<float>(layer[v]) + 0.5f, 0.0f};
        }
        int placed = 0, summed = 0;
        for (int begin = start[0]; begin < start[number]; begin += together) {
            const int end = begin + together < start[number] ? begin + together : start[number];
            alignas(64) float x[TOGETHER] = {}, y[TOGETHER] = {}, z[TOGETHER] = {}, factor[TOGETHER];
            for (int i = begin; i < end; ++i) {
                while (i >= start[placed + 1]) ++placed;
                const float* point = points.data + 3 * static_cast<size_t>(order.data[i]);
                __builtin_prefetch(points.data + 3 * static_cast<size_t>(order.data[i + AHEAD < last ? i + AHEAD : last]));
                const v4 offset = (((v4){point[0], point[1], point[2], 0.0f} - origin) / voxel_size - centre[placed]) * 2.0f;
                x[i - begin] = offset.x, y[i - begin] = offset.y, z[i - begin] = offset.z;
            }
            // The variance over the channels of a point, for 16 points at a time: a sum of squares of `root`, see `_point_weights`.
            for (int i = 0; i < end - begin; i += 16) {
                const vf at_x = load(x + i), at_y = load(y + i), at_z = load(z + i);
                const vf a = fma(at_x, (vf)(root[0]), fma(at_y, (vf)(root[1]), fma(at_z, (vf)(root[2]), (vf)(root[3]))));
                const vf b = fma(at_y, (vf)(root[4]), fma(at_z, (vf)(root[5]), (vf)(root[6]))), c = fma(at_z, (vf)(root[7]), (vf)(root[8]));
                store(factor + i, 1.0f / __builtin_elementwise_sqrt(fma(a, a, fma(b, b, fma(c, c, (vf)(root[9] * root[9] + 1e-5f))))));
            }
            for (int i = begin; i < end;) {
                while (i >= start[summed + 1]) ++summed;
                const int behind = end < start[summed + 1] ? end : start[summed + 1];
                vi part[D / 16];
                for (int n = 0; n < D / 16; ++n) part[n] = (vi)(0);
                for (; i < behind; ++i) {
                    const int at = i - begin;
                    for (int n = 0; n < D / 16; ++n) {
                        const vf by_z = fma((vf)(z[at]), load(point_in + 2 * D + 16 * n), load(point_in + 3 * D + 16 * n));
                        const vf value = fma((vf)(x[at]), load(point_in + 16 * n), fma((vf)(y[at]), load(point_in + D + 16 * n), by_z));
                        const vf positive = __builtin_elementwise_max(fma(value, (vf)(factor[at]), load(shift + 16 * n)), (vf)(0.0f));
                        part[n] += __builtin_convertvector(__builtin_elementwise_roundeven(positive), vi);
                    }
                }
                for (int n = 0; n < D / 16; ++n) total[summed * (D / 16) + n] += __builtin_convertvector(part[n], vl);
            }
        }
        for (int j = 0; j < BLOCK * D / 16; ++j) store(sum + 16 * j, __builtin_convertvector(total[j], vf) / ONE);
        product(sum, D, BLOCK, D, point_out, zero, D, [&](int v, int j, vf value) {
            store(voxel + v * D + j, fma((vf)(points_in[v]), load(voxel_bias + j), value));
        });
        for (int v = 0; v < BLOCK; ++v)
            layer_norm(voxel + v * D, voxel_scale, voxel_shift, D, [&](int j, vf value) { store(sum + v * D + j, value); });
        product(sum, D, BLOCK, D, layer_in, zero, P, [&](int v, int j, vf value) {
            store(hidden + v * P + j, value + load(layer_table + layer[v] * P + j));
        });
        for (int v = 0; v < number; ++v)
            layer_norm(hidden + v * P, layer_scale, layer_shift, P, [&](int j, vf value) {
                store(hidden + v * P + j, __builtin_elementwise_max(value, (vf)(0.0f)));
            });
    };
"""
_PATCHES = """
    const float *pillar_matrix = zero + (D > P ? D : P), *pillar_bias = pillar_matrix + P * P, *scale = pillar_bias + P, *pillar_shift = scale + P;
    const float *patch_bias = pillar_shift + P, *patch_matrix = patch_bias + C;
    const int first = block * BLOCK, number = counts.data[PATCHES] - first < BLOCK ? counts.data[PATCHES] - first : BLOCK;
    if (number <= 0) return;
    const int* const cell_start = patch_start.data + first;
    const int* const pillar_of = pillar_start.data + cell_start[0];
    const int pillars = cell_start[number] - cell_start[0], rows = (pillars + TALL - 1) / TALL * TALL;
    alignas(64) float hidden[BLOCK * P], sum[BLOCK * SLOTS * P], value[BLOCK * SLOTS * P];
    for (int j = 0; j < rows * P; j += 16) store(sum + j, (vf)(0.0f));
    for (int voxel = pillar_of[0], pillar = 0; voxel < pillar_of[pillars]; voxel += BLOCK) {
        const int voxels = pillar_of[pillars] - voxel < BLOCK ? pillar_of[pillars] - voxel : BLOCK;
        voxel_features(voxel, voxels, hidden);
        for (int v = 0; v < voxels; ++v) {
            while (voxel + v >= pillar_of[pillar + 1]) ++pillar;
            for (int j = 0; j < P; j += 16) store(sum + pillar * P + j, load(sum + pillar * P + j) + load(hidden + v * P + j));
        }
    }
    product(sum, P, rows, P, pillar_matrix, zero, P, [&](int p, int j, vf v) {
        const float voxels_in = p < pillars ? static_cast<float>(pillar_of[p + 1] - pillar_of[p]) : 0.0f;
        store(value + p * P + j, fma((vf)(voxels_in), load(pillar_bias + j), v));
    });
    // A row a patch cell, the channels of its pillars in the order of their slots; 0 where there is none.
    alignas(64) float all[BLOCK * SLOTS * P] = {};
    bool is_used[SLOTS] = {};
    for (int p = 0, cell = 0; p < pillars; ++p) {
        while (cell_start[0] + p >= cell_start[cell + 1]) ++cell;
        const int place = slot.data[cell_start[0] + p];
        is_used[place] = true;
        layer_norm(value + p * P, scale, pillar_shift, P, [&](int j, vf v) { store(all + (cell * SLOTS + place) * P + j, v); });
    }
    // The cells before each of these hold nothing, nor do those behind the last of all.
    float* const map = reinterpret_cast<float*>(out.data);
    const auto clear = [&](int cell, int end) {
        for (; cell < end; ++cell)
            for (int j = 0; j < C; j += 16) store(map + static_cast<size_t>(cell) * C + j, load(patch_bias + j));
    };
    for (int c = first; c < first + number; ++c) clear(c ? index.data[c - 1] + 1 : 0, index.data[c]);
    if (first + number == counts.data[PATCHES]) clear(index.data[first + number - 1] + 1, out.shape[0]);
    for (int j = 0; j < C; j += 16)
        for (int one = 0; one < BLOCK; one += TALL) {
            vf patch[TALL];
#pragma unroll
            for (int c = 0; c < TALL; ++c) patch[c] = load(patch_bias + j);
            for (int place = 0; place < SLOTS; ++place) {
                if (!is_used[place]) continue;
                const float* const row = all + (one * SLOTS + place) * P;
                for (int k = 0; k < P; ++k) {
                    const vf factor = load(patch_matrix + (place * P + k) * C + j);
#pragma unroll
                    for (int c = 0; c < TALL; ++c) patch[c] = fma((vf)(row[c * SLOTS * P + k]), factor, patch[c]);
                }
            }
#pragma unroll
            for (int c = 0; c < TALL; ++c)
                if (one + c < number) store(map + static_cast<size_t>(index.data[first + one + c]) * C + j, patch[c]);
        }
"""


@cache
def _kernel(point_dim: int, pillar_dim: int, patch_dim: int, layers: int, patch_voxels: int) -> wp.Kernel:
    patch: Any = wp.types.vector(length=patch_dim, dtype=wp.float32)
    constants = {"D": point_dim, "P": pillar_dim, "C": patch_dim, "LAYERS": layers, "PATCH": patch_voxels, "SLOTS": patch_voxels**2,
                 "BLOCK": BLOCK, "TOGETHER": _TOGETHER, "AHEAD": _AHEAD, "POINTS": POINTS, "PATCHES": PATCHES}
    before = VECTORS + "".join(f"    constexpr int {name} = {value};\n" for name, value in constants.items())

    @wp.func_native(f"{before}    constexpr float ONE = {_ONE}f;\n{_VOXELS}{_PATCHES}")
    def run(block: int, points: wp.array2d(dtype=wp.float32), order: wp.array(dtype=wp.int32), keys: wp.array(dtype=wp.int32),
            voxel_start: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32), slot: wp.array(dtype=wp.int32),
            patch_start: wp.array(dtype=wp.int32), index: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32), low: wp.vec3, size: wp.vec3,
            width: int, together: int, weights: wp.array(dtype=wp.float32), out: wp.array(dtype=patch)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def patch_block(first: int, points: wp.array2d(dtype=wp.float32), order: wp.array(dtype=wp.int32), keys: wp.array(dtype=wp.int32),
                    voxel_start: wp.array(dtype=wp.int32), pillar_start: wp.array(dtype=wp.int32), slot: wp.array(dtype=wp.int32),
                    patch_start: wp.array(dtype=wp.int32), index: wp.array(dtype=wp.int32), counts: wp.array(dtype=wp.int32), low: wp.vec3,
                    size: wp.vec3, width: int, together: int, weights: wp.array(dtype=wp.float32),
                    out: wp.array(dtype=patch)):
        run(first + wp.tid(), points, order, keys, voxel_start, pillar_start, slot, patch_start, index, counts, low, size, width, together, weights,
            out)

    return patch_block


class PillarBlocks:
    """The sparse half of the encoder on a CPU; gives what `PillarFeatures` gives, but for rounding."""

    def __init__(self, weights: PillarWeights, grid: Grid, memory: Memory = CPU_MEMORY) -> None:
        """See `PillarFeatures`; the numbers of channels must be multiples of 16."""
        check_range(weights)
        dims = point_dim, pillar_dim, patch_dim = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
        self.patch_type = wp.types.vector(length=patch_dim, dtype=wp.float32)
        self._kernel = _kernel(*dims, len(weights.layer_table), grid.config.grid.patch_voxels)
        self._low, self._size = (wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.voxel_size_m))
        self._width = grid.patches_HW[1]
        # As many as cannot leave 32 bits, but for the rounding of each.
        self._together = min(_TOGETHER, int((2**31 - _TOGETHER) / (_ONE * max(1.0, largest_value(weights)))))
        parts = [*_point_weights(weights), packed(weights.point_out), weights.voxel_vectors, packed(weights.layer_in), weights.layer_table,
                 weights.layer_vectors, np.zeros(max(point_dim, pillar_dim)), packed(weights.pillar_out), weights.pillar_vectors, weights.patch_bias,
                 weights.patch_in]
        self._weights = memory.place(np.concatenate([np.ravel(part) for part in parts]).astype(np.float32), wp.float32)
        self._bias = weights.patch_bias.astype(np.float32)

    def __call__(self, points: Any, voxels: VoxelBuffers, count: int, out: Any) -> None:
        """Fill the patch map; see `PillarFeatures`."""
        if not count or not (patches := voxels.rows(PATCHES, count)):
            out.numpy()[:] = self._bias
            return
        launch_rows(self._kernel, -(-patches // BLOCK), [
            points, voxels.order, voxels.keys, voxels.voxel_start, voxels.pillar_start, voxels.pillar_slot, voxels.patch_start, voxels.patch_index,
            voxels.counts, self._low, self._size, self._width, self._together, self._weights, out], least=_LEAST_BLOCKS)


def _point_weights(weights: PillarWeights) -> tuple[Any, Any, Any]:
    """First layer and norm of a point, in units of the fixed point: matrix and bias (4, D), shift (D,), root (16).

    The mean over the channels is taken out of the layer, and the norm's scale is put into it. A point's variance is the mean of the squares of D
    linear functions of x, y, z and 1; a triangular matrix R of 4 x 4 with the same squares' sum needs four functions (QR of the layer).
    """
    layer = np.vstack([weights.point_in, weights.point_vectors[:1]]).astype(np.float64)
    layer -= layer.mean(axis=1, keepdims=True)
    triangle = np.linalg.qr(layer.T / np.sqrt(layer.shape[1]), mode="r")
    root = np.zeros(16)
    root[:10] = triangle[np.triu_indices(4)]
    scale, shift = weights.point_vectors[1:].astype(np.float64)
    return layer * scale * _ONE, shift * _ONE, root


def sparse_encoder(weights: PillarWeights, grid: Grid, capacity: int, memory: Memory = CPU_MEMORY) -> PillarFeatures | PillarBlocks:
    """What fits the device and the numbers of channels.

    Raises:
        ValueError: see `PillarFeatures`.
    """
    dims = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
    fits = memory.device == CPU and not any(dim % WIDTH for dim in dims)
    return PillarBlocks(weights, grid, memory) if fits else PillarFeatures(weights, grid, capacity, memory)
