# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The two dense networks on the CPU, each in one launch: the steps of `crew.py`, made of `swin_block.py` and `dense_layers.py`.

In: the patch map, or tokens. Out: tokens, or the decoder's map and the pooled logits of the skip branch.
Unusual: what a window becomes that differs in no cell from that of a scene without any point is always the same. It is remembered once
for each block (`Mode.REMEMBER`), and copied from then on (`Mode.SKIP_BLANK`). How far the points of a scan reach is found on the way.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.grid import BoolArray, FloatArray
from copilot4d_core.kernels.crew import STEPS
from copilot4d_core.kernels.dense_layers import GROUP, merge_code, nearest_code, skip_code, start_code, upsample_code
from copilot4d_core.kernels.launch import CPU
from copilot4d_core.kernels.swin_block import BlockShape, BlockWeights, attention_bias, block_code, forward_weights
from copilot4d_core.kernels.vectors import VECTORS, WIDEST

_ROW_CELLS = 64
"""Cells of one row of a step that does little with each."""


class Mode(IntEnum):
    """What becomes of windows that are those of a scene without any point."""

    SKIP_BLANK = 0
    """They are copied from what was remembered."""
    ALL = 1
    """They are computed, as is what nobody asks for."""
    REMEMBER = 2
    """As `ALL`, and the map after each block is remembered: the input is that of a scene without any point."""


class StageShape(NamedTuple):
    """Swin blocks one after the other, every other one with its windows moved."""

    block: BlockShape
    depth: int
    rows: int
    columns: int
    """Of its map."""

    @property
    def shift(self) -> int:
        """Of every other block's windows, in cells; 0 where one window is the whole map."""
        return self.block.window // 2 if min(self.rows, self.columns) > self.block.window else 0

    @property
    def cells(self) -> int:
        return self.rows * self.columns


def stage_weights(stage: StageShape, blocks: Sequence[BlockWeights]) -> FloatArray:
    """The weights of a stage in the order in which its code reads them; flat."""
    shape = stage.block
    return np.concatenate([np.concatenate([forward_weights(weights, shape), attention_bias(
        weights.relative_bias, shape.window, bool(number % 2 and stage.shift)).ravel()]) for number, weights in enumerate(blocks)])


_STAGE = """
    constexpr int BLOCK_SIZE = 9 * C + M + 4 * C * C + 2 * C * M, KIND = HEADS * T * T;
    const float* weights = stage_weights;
    for (int number = 0; number < DEPTH; ++number) {
        const int shift = number % 2 * SHIFT;
        float* const blank = blanks + static_cast<size_t>(number) * rows * columns * C;
        unsigned char* const reaches = number % 2 ? second : first;
        side_by_side(rows * columns / T, [&](int window) {
            int place[T];
            cells_of(window, shift, place);
            bool is_reached = mode != SKIP_BLANK;
            for (int t = 0; t < T; ++t) is_reached |= from[place[t]];
            for (int t = 0; t < T; ++t) reaches[place[t]] = is_reached;
            if (is_reached)
                block(window, shift, map, weights, weights + BLOCK_SIZE, [&](int cell) {
                    return number + 1 < DEPTH || mode != SKIP_BLANK || is_needed(cell);
                });
            else
                for (int t = 0; t < T; ++t)
                    for (int j = 0; j < C; j += 16) store(map + place[t] * C + j, load(blank + place[t] * C + j));
            if (mode == REMEMBER)
                for (int t = 0; t < T; ++t)
                    for (int j = 0; j < C; j += 16) store(blank + place[t] * C + j, load(map + place[t] * C + j));
        });
        from = reaches;
        weights += BLOCK_SIZE + (shift ? 4 : 1) * KIND;
    }
    return from;
"""
_ENCODER = """
    constexpr int PATCHES = ROWS * COLUMNS, TOKENS = PATCHES / 4, ACROSS_TOKENS = COLUMNS / 2;
    const float* at = weights.data;
    const auto next = [&](int count) { const float* here = at; at += count; return here; };
    const float *blank_patch = next(NARROW), *positions = next(PATCHES * NARROW), *start_weights = next(2 * NARROW);
    const float* narrow_weights = next(NARROW_SIZE);
    const float *merge_weights = next(8 * NARROW + WIDE + 4 * NARROW * WIDE), *wide_weights = next(WIDE_SIZE), *nearest_weights = at;
    float *map = maps.data, *token_map = map + PATCHES * NARROW, *blanks = token_map + TOKENS * WIDE;
    float* token_blanks = blanks + NARROW_DEPTH * PATCHES * NARROW;
    unsigned char *occupied = flags.data, *patch_first = occupied + PATCHES, *patch_second = patch_first + PATCHES;
    unsigned char *held = patch_second + PATCHES, *reached = held + TOKENS, *token_first = reached + TOKENS, *token_second = token_first + TOKENS;
    side_by_side(PATCHES / ROW_CELLS, [&](int row) {
        for (int i = row * ROW_CELLS; i < (row + 1) * ROW_CELLS; ++i)
            occupied[i] = start(patches.data + i * NARROW, blank_patch, positions + i * NARROW, start_weights, map + i * NARROW);
    });
    const auto of_token = [&](const unsigned char* is, int token) {
        const unsigned char* const corner = is + token / ACROSS_TOKENS * 2 * COLUMNS + token % ACROSS_TOKENS * 2;
        return corner[0] | corner[1] | corner[COLUMNS] | corner[COLUMNS + 1];
    };
    const unsigned char* const patch_reached = narrow(map, narrow_weights, blanks, occupied, patch_first, patch_second, [](int) { return true; });
    // A cell that holds a point, or is beside one that does, across corners too.
    side_by_side(TOKENS / GROUP, [&](int group) {
        merge(group, ACROSS_TOKENS, map, merge_weights, token_map);
        for (int token = group * GROUP; token < (group + 1) * GROUP; ++token) {
            const int y = token / ACROSS_TOKENS, x = token % ACROSS_TOKENS;
            reached[token] = of_token(patch_reached, token);
            held[token] = 0;
            for (int v = y ? y - 1 : 0; v <= y + 1 && v < ROWS / 2; ++v)
                for (int u = x ? x - 1 : 0; u <= x + 1 && u < ACROSS_TOKENS; ++u) held[token] |= of_token(occupied, v * ACROSS_TOKENS + u);
            tokens.data[token] = 0;
        }
    });
    wide(token_map, wide_weights, token_blanks, reached, token_first, token_second, [&](int cell) { return !BLANK_TOKEN || held[cell]; });
    // Blank cells have a token of their own, which is 0; the others are compared with the codes.
    int *const listed = cells.data, *const count = listed + TOKENS;
    side_by_side(1, [&](int) {
        *count = 0;
        for (int token = 0; token < TOKENS; ++token)
            if (!BLANK_TOKEN || held[token]) listed[(*count)++] = token;
    });
    side_by_side((*count + GROUP - 1) / GROUP, [&](int group) { nearest(group, *count, listed, token_map, nearest_weights, tokens.data); });
"""
ENCODER_STEPS = 4
"""Beside one for each block."""
_DECODER = """
    constexpr int PATCHES = ROWS * COLUMNS, TOKENS = PATCHES / 4, ACROSS_TOKENS = COLUMNS / 2;
    constexpr int POOLED = PATCHES / (POOL * POOL), POOLED_GROUP = GROUP / (POOL * POOL), SKIP_ROWS = (POOLED + POOLED_GROUP - 1) / POOLED_GROUP;
    const float* at = weights.data;
    const auto next = [&](int count) { const float* here = at; at += count; return here; };
    const float *table = next(CODES * WIDE), *wide_weights = next(WIDE_SIZE);
    const float* upsample_weights = next(6 * WIDE + 4 * WIDE * WIDE + NARROW + WIDE * NARROW);
    const float *narrow_weights = next(NARROW_SIZE), *norm_weights = next(2 * NARROW), *skip_weights = at;
    float *map = maps.data, *token_map = map + PATCHES * NARROW, *token_blanks = token_map + TOKENS * WIDE;
    float* blanks = token_blanks + WIDE_DEPTH * TOKENS * WIDE;
    unsigned char *occupied = flags.data + TOKENS, *token_first = occupied + TOKENS, *token_second = token_first + TOKENS;
    unsigned char *reached = token_second + TOKENS, *patch_first = reached + PATCHES, *patch_second = patch_first + PATCHES;
    side_by_side(TOKENS / GROUP, [&](int group) {
        for (int cell = group * GROUP; cell < (group + 1) * GROUP; ++cell) {
            occupied[cell] = tokens.data[cell] != 0;
            for (int j = 0; j < WIDE; j += 16) store(token_map + cell * WIDE + j, load(table + tokens.data[cell] * WIDE + j));
        }
    });
    const auto everywhere = [](int) { return true; };
    const unsigned char* const token_reached = wide(token_map, wide_weights, token_blanks, occupied, token_first, token_second, everywhere);
    side_by_side(TOKENS / GROUP, [&](int group) {
        upsample(group, ACROSS_TOKENS, token_map, upsample_weights, map);
        for (int token = group * GROUP; token < (group + 1) * GROUP; ++token) {
            unsigned char* const corner = reached + token / ACROSS_TOKENS * 2 * COLUMNS + token % ACROSS_TOKENS * 2;
            corner[0] = corner[1] = corner[COLUMNS] = corner[COLUMNS + 1] = token_reached[token];
        }
    });
    narrow(map, narrow_weights, blanks, reached, patch_first, patch_second, everywhere);
    side_by_side(SKIP_ROWS + PATCHES / ROW_CELLS, [&](int row) {
        if (row < SKIP_ROWS) { skip(row, COLUMNS / POOL, POOLED, map, skip_weights, logits.data); return; }
        const int first = (row - SKIP_ROWS) * ROW_CELLS;
        for (int i = first; i < first + ROW_CELLS; ++i)
            layer_norm(map + i * NARROW, norm_weights, norm_weights + NARROW, NARROW, [&](int j, vf v) { store(normed.data + i * NARROW + j, v); });
    });
"""
DECODER_STEPS = 3
"""Beside one for each block."""


def _constants(**numbers: int) -> str:
    return "".join(f"    constexpr int {name} = {int(number)};\n" for name, number in numbers.items())


def _stage_code(name: str, stage: StageShape) -> str:
    arguments = ("float* map, const float* stage_weights, float* blanks, const unsigned char* from, unsigned char* first, unsigned char* second, "
                 "auto&& is_needed")
    numbers = _constants(rows=stage.rows, columns=stage.columns, DEPTH=stage.depth, SHIFT=stage.shift)
    return f"const auto {name} = [&]({arguments}) -> const unsigned char* {{\n{numbers}{block_code(stage.block)}{_STAGE}}};\n"


def _weights_size(stage: StageShape) -> int:
    shape = stage.block
    C, M = shape.dim, shape.hidden
    kinds = sum(4 if number % 2 and stage.shift else 1 for number in range(stage.depth))
    return stage.depth * (9 * C + M + 4 * C * C + 2 * C * M) + kinds * shape.heads * shape.window**4


def _network_code(narrow: StageShape, wide: StageShape, layers: str, body: str, **numbers: int) -> str:
    constants = _constants(
        SKIP_BLANK=Mode.SKIP_BLANK, REMEMBER=Mode.REMEMBER, GROUP=GROUP, ROW_CELLS=_ROW_CELLS, ROWS=narrow.rows, COLUMNS=narrow.columns,
        NARROW=narrow.block.dim, WIDE=wide.block.dim, NARROW_DEPTH=narrow.depth, WIDE_DEPTH=wide.depth, NARROW_SIZE=_weights_size(narrow),
        WIDE_SIZE=_weights_size(wide), **numbers)
    return VECTORS + STEPS + constants + layers + _stage_code("narrow", narrow) + _stage_code("wide", wide) + body


@cache
def encoder_kernel(narrow: StageShape, wide: StageShape, codes: int, blank_token: bool) -> wp.Kernel:
    """Patch map to tokens: norm and positions, the stage of the patches, merging, the stage of the tokens, nearest code.

    Args:
        narrow: stage of the patches.
        wide: stage of the tokens.
        codes: how many.
        blank_token: cells without a point in themselves or beside them become token 0.
    """
    layers = start_code(narrow.block.dim) + merge_code(narrow.block.dim, wide.block.dim) + nearest_code(wide.block.dim, codes)

    @wp.func_native(_network_code(narrow, wide, layers, _ENCODER, BLANK_TOKEN=blank_token))
    def run(counters: wp.array(dtype=wp.int32), mode: int, patches: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
            maps: wp.array(dtype=wp.float32), flags: wp.array(dtype=wp.uint8), cells: wp.array(dtype=wp.int32), tokens: wp.array(dtype=wp.int32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def encoder(first: int, counters: wp.array(dtype=wp.int32), mode: int, patches: wp.array2d(dtype=wp.float32), weights: wp.array(dtype=wp.float32),
                maps: wp.array(dtype=wp.float32), flags: wp.array(dtype=wp.uint8), cells: wp.array(dtype=wp.int32), tokens: wp.array(dtype=wp.int32)):
        run(counters, mode, patches, weights, maps, flags, cells, tokens)

    return encoder


@cache
def decoder_kernel(narrow: StageShape, wide: StageShape, codes: int, pool: int, places: int, layers: int) -> wp.Kernel:
    """Tokens to the map after the feature grid's norm, and to the pooled skip logits.

    Args:
        narrow: stage of the patches.
        wide: stage of the tokens.
        codes: how many.
        pool: patches along each side of a pooled cell, 1 or 2.
        places: logits of a patch and layer.
        layers: of the skip mask.
    """
    pieces = upsample_code(narrow.block.dim, wide.block.dim) + skip_code(narrow.block.dim, pool, places, layers)

    @wp.func_native(_network_code(narrow, wide, pieces, _DECODER, CODES=codes, POOL=pool))
    def run(counters: wp.array(dtype=wp.int32), mode: int, tokens: wp.array(dtype=wp.int32), weights: wp.array(dtype=wp.float32),
            maps: wp.array(dtype=wp.float32), flags: wp.array(dtype=wp.uint8), normed: wp.array2d(dtype=wp.float32),
            logits: wp.array3d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def decoder(first: int, counters: wp.array(dtype=wp.int32), mode: int, tokens: wp.array(dtype=wp.int32), weights: wp.array(dtype=wp.float32),
                maps: wp.array(dtype=wp.float32), flags: wp.array(dtype=wp.uint8), normed: wp.array2d(dtype=wp.float32),
                logits: wp.array3d(dtype=wp.float32)):
        run(counters, mode, tokens, weights, maps, flags, normed, logits)

    return decoder


class NetworkMemory:
    """Maps, remembered blank maps and flags of a network."""

    def __init__(self, narrow: StageShape, wide: StageShape, last: StageShape) -> None:
        """Allocate.

        Args:
            last: which of the two stages comes last.
        """
        self._patches, self._tokens, self._wide = narrow.cells * narrow.block.dim, wide.cells, wide.block.dim
        tokens = wide.cells * wide.block.dim
        self.maps: Any = wp.zeros(self._patches * (1 + narrow.depth) + tokens * (1 + wide.depth), dtype=wp.float32, device=CPU)
        """The maps of both stages, then those of a scene without any point, after each block in the order of the blocks."""
        self.flags: Any = wp.zeros(3 * narrow.cells + 4 * wide.cells, dtype=wp.uint8, device=CPU)
        """Numbers of cells that are 1 where something is told of them."""
        self._last = last

    def token_map(self) -> FloatArray:
        """The map of the tokens' stage, (tokens, C) float32."""
        return np.asarray(self.maps.numpy()[self._patches:][: self._tokens * self._wide].reshape(-1, self._wide))

    def reached(self) -> BoolArray:
        """Cells that may differ, after the last block, from those of a scene without any point; flat."""
        end = len(self.flags) - (self._last.depth % 2) * self._last.cells
        return np.asarray(self.flags.numpy()[end - self._last.cells:end], dtype=bool)
