# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Points to the patch map on a CPU in one launch: what `voxelize.py` and `pillar_features.py` do on a GPU.

In: points and the weights of the sparse half of the encoder. Out: the patch map before its layer norm.
Unusual: points are brought to their patch cells first; their order within a cell, its voxels and what becomes of them are found by the core that
works on the cell, eight cells at a time, and never leave it. A norm waits for sums and a root, so one voxel after the other leaves a core idle
most of the time; eight share each row of a matrix. As on a GPU, the sum over points runs in 44.20 fixed point.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.crew import STEPS, Crew
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.pillar_features import PillarWeights, check_range, largest_value
from copilot4d_core.kernels.sort_points import VOXEL_KEY
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, WIDTH, packed

BLOCK = 8
"""Voxels or patch cells that are worked on together; a multiple of what `product` takes at once."""
_PARTS = 4
"""Parts of a scan whose points are brought to their cells side by side; each counts for itself."""
_AHEAD = 12
"""Points between one that is worked on and the one that is fetched."""
_TOGETHER = 64
"""Most points that are worked on between two looks at the voxels that they belong to; their sums stay in 32 bits meanwhile."""
_ONE = float(2**20)
"""What a 1 is in the fixed point of the sums."""

_CELLS = """
    const int stride = points.strides[0] / sizeof(float);
    constexpr int IN_CELL = PATCH * PATCH * LAYERS, WIDTH = COLUMNS / PATCH, CELLS = ROWS / PATCH * WIDTH;
    int *const cell_of = cells.data, *const begin_of = cell_of + CELLS, *const left_of = begin_of + CELLS + 1;
    int *const was_occupied = left_of + CELLS, *const occupied = was_occupied + CELLS, *const left = occupied + 1;
    int *const broken_in = left + 1, *const returns_in = broken_in + PARTS, *const inside_in = returns_in + PARTS;
    // Points of each cell in each part, then where the next of them goes; of the part, how many are infinite or no number, returns, in the region.
    side_by_side(PARTS, [&](int part) {
        int* const points_of = places.data + part * CELLS;
        for (int cell = 0; cell < CELLS; ++cell) points_of[cell] = 0;
        const int end = static_cast<long long>(count) * (part + 1) / PARTS;
        const bool leave_out = nearest_squared >= 0.0f;
        int broken = 0, returns = 0, in_region = 0;
        for (int first = static_cast<long long>(count) * part / PARTS; first < end; first += 64) {
            const int behind = first + 64 < end ? first + 64 : end;
            for (int i = first; i < behind; ++i) {
                const float* const point = points.data + static_cast<size_t>(i) * stride;
                const float x = point[0], y = point[1], z = point[2];
                const bool is_finite = x * 0.0f + y * 0.0f + z * 0.0f == 0.0f;
                bool is_return = is_finite;
                if (leave_out) is_return &= !(x * x + y * y + z * z < nearest_squared) & !((x == 0.0f) & (y == 0.0f) & (z == 0.0f));
                broken += !is_finite;
                returns += is_return;
                const bool inside = is_return && x >= low.c[0] && x < high.c[0] && y >= low.c[1] && y < high.c[1] && z >= low.c[2] && z < high.c[2];
                in_region += inside;
                keys.data[i] = inside ? voxel_key(x, y, z) : -1;
            }
            for (int i = first; i < behind; ++i)
                if (keys.data[i] >= 0) ++points_of[keys.data[i] / IN_CELL];
        }
        broken_in[part] = broken, returns_in[part] = returns, inside_in[part] = in_region;
    });
    // Occupied cells, where the points of each begin, and how many cells they are; cells that were occupied in the scan before, and are not now.
    side_by_side(1, [&](int) {
        int sum = 0, found = 0, gone = 0;
        for (int cell = 0; cell < CELLS; ++cell) {
            begin_of[found] = sum;
            for (int part = 0; part < PARTS; ++part) {
                const int more = places.data[part * CELLS + cell];
                places.data[part * CELLS + cell] = sum;
                sum += more;
            }
            const int is_occupied = sum > begin_of[found];
            cell_of[found] = left_of[gone] = cell;
            gone += was_occupied[cell] & ~is_occupied;
            was_occupied[cell] = is_occupied;
            found += is_occupied;
        }
        begin_of[found] = sum;
        *occupied = found;
        *left = gone;
    });
    side_by_side(PARTS, [&](int part) {
        int* const place = places.data + part * CELLS;
        const int end = static_cast<long long>(count) * (part + 1) / PARTS;
        for (int i = static_cast<long long>(count) * part / PARTS; i < end; ++i) {
            const int key = keys.data[i];
            if (key >= 0) pairs.data[place[key / IN_CELL]++] = static_cast<long long>(key % IN_CELL) << 32 | i;
        }
    });
"""
_VOXELS = """
    typedef float v4 __attribute__((ext_vector_type(4)));
    typedef long long vl __attribute__((ext_vector_type(16)));
    const float *point_in = weights.data, *shift = point_in + 4 * D, *root = shift + D, *point_out = root + 16;
    const float *voxel_bias = point_out + D * D, *voxel_scale = voxel_bias + D, *voxel_shift = voxel_scale + D, *layer_in = voxel_shift + D;
    const float *layer_table = layer_in + D * P, *layer_scale = layer_table + LAYERS * P, *layer_shift = layer_scale + P, *zero = layer_shift + P;
    const v4 origin = {low.c[0], low.c[1], low.c[2], 0.0f}, voxel_size = {size.c[0], size.c[1], size.c[2], 1.0f};
    // What each of up to BLOCK voxels adds to its pillar, (number, P). `start`: of the points of each voxel and of the next. Points of a voxel
    // lie anywhere in the scan: those of the next ones, up to `last`, are fetched ahead.
    const auto voxel_features = [&](const int* order, const int* start, const int* voxel_key, int number, int last, float* hidden) {
        alignas(64) float sum[BLOCK * D], voxel[BLOCK * D], points_in[BLOCK] = {};
        v4 centre[BLOCK];
        vl total[BLOCK * D / 16];
        int layer[BLOCK] = {};
        for (int j = 0; j < BLOCK * D / 16; ++j) total[j] = (vl)(0);
        for (int v = 0; v < number; ++v) {
            const int key = voxel_key[v], slot = key / LAYERS % (PATCH * PATCH), cell = key / (LAYERS * PATCH * PATCH);
            layer[v] = key % LAYERS;
            points_in[v] = static_cast<float>(start[v + 1] - start[v]);
            centre[v] = (v4){static_cast<float>(cell % WIDTH * PATCH + slot % PATCH) + 0.5f,
                             static_cast<float>(cell / WIDTH * PATCH + slot / PATCH) + 0.5f, static_cast<float>(layer[v]) + 0.5f, 0.0f};
        }
        int placed = 0, summed = 0;
        for (int begin = start[0]; begin < start[number]; begin += together) {
            const int end = begin + together < start[number] ? begin + together : start[number];
            alignas(64) float x[TOGETHER] = {}, y[TOGETHER] = {}, z[TOGETHER] = {}, factor[TOGETHER];
            for (int i = begin; i < end; ++i) {
                while (i >= start[placed + 1]) ++placed;
                const float* point = points.data + static_cast<size_t>(order[i]) * stride;
                __builtin_prefetch(points.data + static_cast<size_t>(order[i + AHEAD < last ? i + AHEAD : last]) * stride);
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
    constexpr int MOST = BLOCK * IN_CELL;
    const float *pillar_matrix = zero + (D > P ? D : P), *pillar_bias = pillar_matrix + P * P, *scale = pillar_bias + P, *pillar_shift = scale + P;
    const float *patch_bias = pillar_shift + P, *patch_matrix = patch_bias + C;
    // Cells that neither scan occupies keep what they have.
    side_by_side((*left + BLOCK - 1) / BLOCK, [&](int group) {
        for (int c = group * BLOCK; c < *left && c < (group + 1) * BLOCK; ++c)
            for (int j = 0; j < C; j += 16) store(map.data + static_cast<size_t>(left_of[c]) * C + j, load(patch_bias + j));
    });
    side_by_side((*occupied + BLOCK - 1) / BLOCK, [&](int group) {
    const int first = group * BLOCK, number = *occupied - first < BLOCK ? *occupied - first : BLOCK;
    // Nobody needs the keys of points any more: their memory takes the order of the points.
    int* const order = keys.data;
    // The voxels of these cells, their pillars, and where those of each cell begin.
    int voxel_start[MOST + 1], voxel_key[MOST], pillar_of[BLOCK * SLOTS + 1], slot[BLOCK * SLOTS], cell_start[BLOCK + 1];
    int voxels = 0, pillars = 0;
    for (int c = 0; c < number; ++c) {
        const int cell = cell_of[first + c], begin = begin_of[first + c], end = begin_of[first + c + 1];
        int column = -1;
        cell_start[c] = pillars;
        const auto found = [&](int key, int start) {
            if (key / LAYERS != column) {
                column = key / LAYERS;
                slot[pillars] = column;
                pillar_of[pillars++] = voxels;
            }
            voxel_key[voxels] = cell * IN_CELL + key;
            voxel_start[voxels++] = start;
        };
        // Counted by voxel; a bit for each voxel tells which there are.
        unsigned place[IN_CELL] = {};
        unsigned long long has_points[(IN_CELL + 63) / 64] = {};
        for (int i = begin; i < end; ++i) {
            const unsigned key = static_cast<unsigned>(pairs.data[i] >> 32);
            ++place[key];
            has_points[key / 64] |= 1ull << key % 64;
        }
        unsigned sum = begin;
        for (unsigned word = 0; word < (IN_CELL + 63) / 64; ++word)
            for (unsigned long long bits = has_points[word]; bits; bits &= bits - 1) {
                const unsigned key = word * 64 + __builtin_ctzll(bits), more = place[key];
                found(key, sum);
                place[key] = sum;
                sum += more;
            }
        for (int i = begin; i < end; ++i) order[place[pairs.data[i] >> 32]++] = static_cast<int>(pairs.data[i]);
    }
    cell_start[number] = pillars;
    pillar_of[pillars] = voxels;
    voxel_start[voxels] = begin_of[first + number];
    const int rows = (pillars + TALL - 1) / TALL * TALL;
    alignas(64) float hidden[BLOCK * P], sum[BLOCK * SLOTS * P], value[BLOCK * SLOTS * P];
    for (int j = 0; j < rows * P; j += 16) store(sum + j, (vf)(0.0f));
    for (int voxel = 0, pillar = 0; voxel < voxels; voxel += BLOCK) {
        const int together = voxels - voxel < BLOCK ? voxels - voxel : BLOCK;
        voxel_features(order, voxel_start + voxel, voxel_key + voxel, together, voxel_start[voxels] - 1, hidden);
        for (int v = 0; v < together; ++v) {
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
        while (p >= cell_start[cell + 1]) ++cell;
        const int place = slot[p];
        is_used[place] = true;
        layer_norm(value + p * P, scale, pillar_shift, P, [&](int j, vf v) { store(all + (cell * SLOTS + place) * P + j, v); });
    }
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
                if (one + c < number) store(map.data + static_cast<size_t>(cell_of[first + one + c]) * C + j, patch[c]);
        }
    });
"""
_STEPS = 5


@cache
def _kernel(point_dim: int, pillar_dim: int, patch_dim: int, voxels_YXZ: tuple[int, int, int], patch_voxels: int) -> wp.Kernel:
    rows, columns, layers = voxels_YXZ
    constants = {"D": point_dim, "P": pillar_dim, "C": patch_dim, "ROWS": rows, "COLUMNS": columns, "LAYERS": layers, "PATCH": patch_voxels,
                 "SLOTS": patch_voxels**2, "BLOCK": BLOCK, "PARTS": _PARTS, "TOGETHER": _TOGETHER, "AHEAD": _AHEAD}
    before = VECTORS + STEPS + "".join(f"    constexpr int {name} = {value};\n" for name, value in constants.items())

    @wp.func_native(f"{before}    constexpr float ONE = {_ONE}f;\n{VOXEL_KEY}{_CELLS}{_VOXELS}{_PATCHES}")
    def run(counters: wp.array(dtype=wp.int32), points: wp.array2d(dtype=wp.float32), count: int, nearest_squared: float, low: wp.vec3, high: wp.vec3,
            size: wp.vec3, together: int, keys: wp.array(dtype=wp.int32), places: wp.array(dtype=wp.int32), cells: wp.array(dtype=wp.int32),
            pairs: wp.array(dtype=wp.int64), weights: wp.array(dtype=wp.float32), map: wp.array(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def patch_map(first: int, counters: wp.array(dtype=wp.int32), points: wp.array2d(dtype=wp.float32), count: int, nearest_squared: float,
                  low: wp.vec3, high: wp.vec3, size: wp.vec3, together: int, keys: wp.array(dtype=wp.int32), places: wp.array(dtype=wp.int32),
                  cells: wp.array(dtype=wp.int32), pairs: wp.array(dtype=wp.int64), weights: wp.array(dtype=wp.float32),
                  map: wp.array(dtype=wp.float32)):
        run(counters, points, count, nearest_squared, low, high, size, together, keys, places, cells, pairs, weights, map)

    return patch_map


class Seen(NamedTuple):
    """Points of a scan."""

    broken: int
    """Infinite or no number."""
    returns: int
    """The others, less those that were to be left out."""
    in_region: int
    """Returns in the region."""


def fits(weights: PillarWeights) -> bool:
    """Whether the numbers of channels are multiples of `WIDTH`, which this file's code needs."""
    return not any(dim % WIDTH for dim in (weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]))


class PillarBlocks:
    """The sparse half of the encoder on a CPU; gives what `PillarFeatures` gives, but for rounding."""

    def __init__(self, weights: PillarWeights, grid: Grid, capacity: int) -> None:
        """Pack the weights and allocate.

        Args:
            weights: that `fits` has nothing against.
            capacity: most points of a scan.
        Raises:
            ValueError: see `check_range`.
        """
        check_range(weights)
        dims = point_dim, pillar_dim, _ = weights.point_in.shape[1], weights.layer_in.shape[1], weights.patch_in.shape[2]
        rows, columns, layers = grid.voxels_YXZ
        self.capacity = capacity
        self._kernel, self._crew = _kernel(*dims, (rows, columns, layers), grid.config.grid.patch_voxels), Crew(_STEPS)
        self._edges = [wp.vec3(*map(float, values)) for values in (grid.minimum_m, grid.maximum_m, grid.voxel_size_m)]
        # As many as cannot leave 32 bits, but for the rounding of each.
        self._together = min(_TOGETHER, int((2**31 - _TOGETHER) / (_ONE * max(1.0, largest_value(weights)))))
        parts = [*_point_weights(weights), packed(weights.point_out), weights.voxel_vectors, packed(weights.layer_in), weights.layer_table,
                 weights.layer_vectors, np.zeros(max(point_dim, pillar_dim)), packed(weights.pillar_out), weights.pillar_vectors, weights.patch_bias,
                 weights.patch_in]
        self._weights: Any = wp.array(np.concatenate([np.ravel(part) for part in parts]).astype(np.float32), dtype=wp.float32, device=CPU)
        cells = grid.patches_HW[0] * grid.patches_HW[1]
        lengths = (capacity, wp.int32), (_PARTS * cells, wp.int32), (4 * cells + 3 + 3 * _PARTS, wp.int32), (capacity, wp.int64)
        self._memory: list[Any] = [wp.zeros(length, dtype=dtype, device=CPU) for length, dtype in lengths]
        self._map = np.tile(weights.patch_bias.astype(np.float32), (*grid.patches_HW, 1))
        self._cells: Any = wp.array(self._map.reshape(-1), dtype=wp.float32, device=CPU, copy=False)
        self._shown = self._map.view()
        self._shown.flags.writeable = False  # most of it is that of the scan before

    @property
    def seen(self) -> Seen:
        """Of the last scan."""
        return Seen(*self._memory[2].numpy()[-3 * _PARTS:].reshape(3, _PARTS).sum(axis=1).tolist())

    def __call__(self, points: Any, count: int, min_range_m: float | None = None) -> FloatArray:
        """The patch map, (H, W, C) float32; the next call overwrites it.

        Args:
            points: Warp array (count or more, 3) float32, the three beside each other, metres; points outside the half-open region (and NaN) are
                left out.
            count: points of the scan, at most the capacity.
            min_range_m: points that are nearer, or exactly (0, 0, 0), are left out, too; None: neither.
        Returns:
            The bias where there is no point. The same bits for any order of the points.
        """
        nearest_squared = -1.0 if min_range_m is None else float(np.float32(min_range_m**2))
        self._crew.launch(self._kernel, [points, count, nearest_squared, *self._edges, self._together, *self._memory, self._weights, self._cells])
        return self._shown


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
