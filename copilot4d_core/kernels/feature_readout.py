# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
"""The part of the neural feature grid that rays may look at, and nothing else (inference).

In: the decoder's map and the skip mask. Out: the hidden layer of the occupancy MLP at every feature-grid cell inside the
mask and its rim (trilinear interpolation reaches one cell further).
Unusual: the first layer of the occupancy MLP is linear and trilinear weights sum to 1, so it is folded into the read-out
and applied to cells instead of samples: one small matrix product per cell, and half the work per sample.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.launch import CPU, CPU_MEMORY, Memory, launch_rows
from copilot4d_core.kernels.native import NATIVE
from copilot4d_core.kernels.skip_mask import SkipMask, words_of
from copilot4d_core.kernels.vectors import WIDEST


class ReadoutWeights(NamedTuple):
    """Read-out of the feature grid with the first layer of the occupancy MLP folded in; float32."""

    matrix_RCH: FloatArray
    """(rows, channels of the map, hidden); row = (sub_row * per_patch + sub_column) * layers + layer."""
    bias_RH: FloatArray
    """(rows, hidden)."""
    output_H: FloatArray
    """(hidden,) second layer of the MLP."""
    output_bias: float


_CHUNK_PATCHES = 64
"""Neighbouring patches that one CPU thread reads out together: their rows of the matrix stay in the core's fastest memory meanwhile."""
_LANES = 32
"""Sums that are kept in registers at once, at most."""
_ROW = NATIVE + """
    const int hidden = {hidden}, lanes = {lanes};
#if defined(__AVX512F__)
    struct Group {{ enum {{ COUNT = 4 }}; }};  // what a core's registers hold
#else
    struct Group {{ enum {{ COUNT = 1 }}; }};
#endif
    struct One {{ enum {{ COUNT = 1 }}; }};
    const float* weights = reinterpret_cast<const float*>(matrix.data) + static_cast<size_t>(row) * channels * hidden;
    const float* start = reinterpret_cast<const float*>(bias.data) + static_cast<size_t>(row) * hidden;
    const float* from[Group::COUNT];
    float* to[Group::COUNT];
    // Cells side by side: each weight is loaded once for all of them.
    const auto products = [&](auto group, const float* const* from, float* const* to) {{
        const int cells = decltype(group)::COUNT;
        for (int first = 0; first < hidden; first += lanes) {{
            // Two sums a number: one would wait for its own last addition.
            float even[cells][lanes], odd[cells][lanes];
            for (int i = 0; i < cells; ++i)
                for (int k = 0; k < lanes; ++k) {{ even[i][k] = start[first + k]; odd[i][k] = 0.0f; }}
            int channel = 0;
            for (; channel + 1 < channels; channel += 2) {{
                const float* w = weights + static_cast<size_t>(channel) * hidden + first;
                for (int i = 0; i < cells; ++i) {{
                    for (int k = 0; k < lanes; ++k) even[i][k] = MULTIPLY_ADD(from[i][channel], w[k], even[i][k]);
                    for (int k = 0; k < lanes; ++k) odd[i][k] = MULTIPLY_ADD(from[i][channel + 1], w[hidden + k], odd[i][k]);
                }}
            }}
            if (channel < channels) {{
                const float* w = weights + static_cast<size_t>(channel) * hidden + first;
                for (int i = 0; i < cells; ++i)
                    for (int k = 0; k < lanes; ++k) even[i][k] = MULTIPLY_ADD(from[i][channel], w[k], even[i][k]);
            }}
            for (int i = 0; i < cells; ++i)
                for (int k = 0; k < lanes; ++k) to[i][first + k] = even[i][k] + odd[i][k];
        }}
    }};
    int waiting = 0;
    for (int p = 0; p < chunk; ++p) {{
        const unsigned int* const column = listed.data + static_cast<size_t>(first_column + p * per_patch) * listed.shape[1] + 2 * word;
        if (!(column[1] >> bit & 1u)) continue;
        const int slot = static_cast<int>(column[0]) + 1 + COUNT_BITS(column[1] & ((1u << bit) - 1u));
        // Beyond the memory nothing is written; the host sees `total` and goes again with more of it.
        if (slot > capacity) continue;
        from[waiting] = feature.data + static_cast<size_t>(first_patch + p) * channels;
        to[waiting] = reinterpret_cast<float*>(out.data) + static_cast<size_t>(slot) * hidden;
        if (++waiting == Group::COUNT) {{
            products(Group(), from, to);
            waiting = 0;
        }}
    }}
    for (int i = 0; i < waiting; ++i) products(One(), from + i, to + i);
"""


@wp.func_native(NATIVE + "return COUNT_BITS(word);")
def count_bits(word: wp.uint32) -> int:
    """How many bits are set."""
    ...


@wp.func_native(NATIVE + """
    const int y = column / columns, x = column % columns, rows = listed.shape[0] / columns, words = mask.shape[2], across = mask.shape[1];
    const unsigned int* low = mask.data + static_cast<size_t>((y > 0 ? y - 1 : 0) / per_mask_y) * across * words;
    const unsigned int* high = mask.data + static_cast<size_t>((y + 1 < rows ? y + 1 : rows - 1) / per_mask_y) * across * words;
    const int left = (x > 0 ? x - 1 : 0) / per_mask_x * words, right = (x + 1 < columns ? x + 1 : columns - 1) / per_mask_x * words;
    unsigned int* to = listed.data + static_cast<size_t>(column) * 2 * words;
    int count = 0;
    unsigned int below = 0u, here = low[left] | low[right] | high[left] | high[right];
    for (int word = 0; word < words; ++word) {
        const int next = word + 1;
        const unsigned int above = next < words ? low[left + next] | low[right + next] | high[left + next] | high[right + next] : 0u;
        // The cells beside an occupied one are listed, too.
        unsigned int near = here | here << 1 | here >> 1 | below >> 31 | above << 31;
        if (next == words) near &= last_word;
        to[2 * word + 1] = near;
        count += COUNT_BITS(near);
        below = here;
        here = above;
    }
    counts.data[column] = count;
""")
def _mark_column(column: int, mask: wp.array3d(dtype=wp.uint32), columns: int, per_mask_y: int, per_mask_x: int, last_word: wp.uint32,
                 listed: wp.array2d(dtype=wp.uint32), counts: wp.array(dtype=wp.int32)):
    """Which cells of one column are listed, and how many."""
    ...


@wp.kernel
def _mark_kernel(first: int, mask: wp.array3d(dtype=wp.uint32), columns: int, per_mask_y: int, per_mask_x: int, last_word: wp.uint32,
                 listed: wp.array2d(dtype=wp.uint32), counts: wp.array(dtype=wp.int32)):
    _mark_column(first + wp.tid(), mask, columns, per_mask_y, per_mask_x, last_word, listed, counts)


@cache
def _readout_kernel(hidden: int) -> wp.Kernel:
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)

    lanes = max(number for number in range(1, _LANES + 1) if hidden % number == 0)

    @wp.func_native(_ROW.format(hidden=hidden, lanes=lanes))
    def read_out_row(row: int, word: int, bit: int, first_column: int, per_patch: int, first_patch: int, chunk: int, channels: int, capacity: int,
                     listed: wp.array2d(dtype=wp.uint32), feature: wp.array2d(dtype=wp.float32), matrix: wp.array2d(dtype=vector),
                     bias: wp.array(dtype=vector), out: wp.array(dtype=vector)):
        """The cells of one layer, at one place inside their patches, as far as they are listed."""
        ...

    @wp.kernel(module="unique", **WIDEST)
    def readout(first: int, patch_columns: int, per_patch: int, chunk: int, layers: int, feature: wp.array2d(dtype=wp.float32),
                matrix: wp.array2d(dtype=vector), bias: wp.array(dtype=vector), counts: wp.array(dtype=wp.int32),
                ends: wp.array(dtype=wp.int32), listed: wp.array2d(dtype=wp.uint32), capacity: int, out: wp.array(dtype=vector)):
        # A row of this launch is one place inside its patch, for a chunk of patches side by side.
        i = first + wp.tid()
        chunks = patch_columns // chunk
        begin = (i % chunks) * chunk
        sub_column = (i // chunks) % per_patch
        y = i // (chunks * per_patch)
        sub_row = y % per_patch
        start = y * patch_columns * per_patch + sub_column
        for word in range(listed.shape[1] // 2):
            any_listed = wp.uint32(0)
            for p in range(begin, begin + chunk):
                column = start + p * per_patch
                before = ends[column] - counts[column]
                for lower in range(word):
                    before += count_bits(listed[column, 2 * lower + 1])
                listed[column, 2 * word] = wp.uint32(before)
                any_listed = any_listed | listed[column, 2 * word + 1]
            for bit in range(wp.min(32, layers - 32 * word)):
                if (any_listed >> wp.uint32(bit)) & wp.uint32(1) != wp.uint32(0):
                    row = (sub_row * per_patch + sub_column) * layers + 32 * word + bit
                    read_out_row(row, word, bit, start + begin * per_patch, per_patch, (y // per_patch) * patch_columns + begin, chunk,
                                 feature.shape[1], capacity, listed, feature, matrix, bias, out)

    return readout


def kernels(config: Config) -> list[wp.Kernel]:
    """The kernels of this file for these settings."""
    return [_mark_kernel, _readout_kernel(config.feature_grid.hidden)]


class FeatureReadout:
    """The listed cells of the feature grid on one device, refilled for every scan.

    Source: CoPilot4D, figure 6 (LN, Linear, reshape to the feature grid), computed lazily.
    """

    def __init__(self, weights: ReadoutWeights, grid: Grid, capacity: int = 1, memory: Memory = CPU_MEMORY) -> None:
        """Put the weights on the device and allocate.

        Args:
            capacity: cells to have memory for at first. Where the host may read between kernels more is taken when it is
                needed; otherwise the caller compares `total` with `capacity` afterwards, and calls `grow` and this again.
        """
        self.grid, self.device, self._memory = grid, memory.device, memory
        rows, columns, layers = grid.feature_cells_YXZ
        self.hidden_dim = weights.matrix_RCH.shape[2]
        self.vector: Any = wp.types.vector(length=self.hidden_dim, dtype=wp.float32)
        self._matrix, self._bias = memory.place(weights.matrix_RCH, self.vector, 2), memory.place(weights.bias_RH, self.vector)
        self.output, self.output_bias = memory.place(weights.output_H, wp.float32), weights.output_bias
        self.listed = memory.array((rows * columns, 2 * words_of(layers)), wp.uint32)
        """A row a column of cells, two words for every 32 of its layers: how many cells are listed before them, and a bit for each of them."""
        self.counts, self.ends = (memory.array(rows * columns, wp.int32) for _ in range(2))
        """Listed cells of each column, and their running sum; the last sum is `total`."""
        self.hidden: Any = None
        """(capacity + 2,) first layer of the occupancy MLP at each listed cell, before its ReLU; row 0 is no cell, nor is the last."""
        self.grow(capacity)

    def grow(self, cells: int) -> None:
        """Have memory for at least this many cells."""
        if self.hidden is None or cells > self.capacity:
            if self.hidden is not None:
                self._memory.free(self.hidden)
            self.hidden = self._memory.array(cells + 2, self.vector)
            self.hidden.zero_()

    @property
    def capacity(self) -> int:
        """Cells that there is memory for."""
        return len(self.hidden) - 2

    def __call__(self, features: Any, mask: SkipMask) -> None:
        """Fill the cells; on a GPU only enqueues.

        Args:
            features: Warp array (patches, channels) float32, the decoder's map after the layer norm, row-major.
            mask: what rays may look at.
        Deterministic: cells are listed column by column, layers ascending.
        """
        rows, columns, layers = self.grid.feature_cells_YXZ
        mask_rows, mask_columns, _ = self.grid.mask_cells_YXZ
        last_word = wp.uint32(2**(layers - 32 * (words_of(layers) - 1)) - 1)
        launch_rows(_mark_kernel, rows * columns, [
            mask.bits, columns, rows // mask_rows, columns // mask_columns, last_word, self.listed, self.counts], self.device,
            parts_per_core=1)
        wp.utils.array_scan(self.counts, self.ends)
        if self._memory.may_read:
            self.grow(self.total())
        per_patch = self.grid.config.grid.feature_cells_per_patch
        patch_columns = columns // per_patch
        chunk = math.gcd(patch_columns, _CHUNK_PATCHES) if self.device == CPU else 1
        launch_rows(_readout_kernel(self.hidden_dim), rows * columns // chunk, [
            patch_columns, per_patch, chunk, layers, features, self._matrix, self._bias, self.counts, self.ends, self.listed, self.capacity,
            self.hidden], self.device, max(1, 256 // chunk))

    def total(self) -> int:
        """Cells that the last call listed; waits for the device."""
        return int(self.ends[-1:].numpy()[0])
