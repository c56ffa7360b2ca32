# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The march of `ray_march.py` with sixteen rays side by side, one to a lane of the processor's vectors: for the CPU alone.

In and out: as `ray_march.py`, which says what is computed; a test holds both to the same numbers.
Unusual: rays that lie beside each other in a scan or an image cross nearly the same columns and cells, so that their walks, their places and
their weights are computed as vectors, and what neighbours share is asked for once. A ray alone leaves most of a CPU's width idle: half the speed.
On a GPU each thread is such a lane already.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels made inside a function as values.
from functools import cache
from typing import Any

import warp as wp

from copilot4d_core.kernels.crew import STEPS, Crew
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.native import NATIVE
from copilot4d_core.kernels.packet_lanes import LANES, PACKET_TYPES
from copilot4d_core.kernels.packet_walk import PACKET_WALK
from copilot4d_core.kernels.ray_median import BESIDE, SURFACE_M
from copilot4d_core.kernels.ray_returns import LEAST_WEIGHT, LIT_WEIGHT, SEPARATION_M
from copilot4d_core.kernels.ray_traversal import MaskGrid, mask_grid
from copilot4d_core.kernels.skip_mask import SkipMask, words_of
from copilot4d_core.kernels.vectors import WIDEST

SLOTS = 4
"""Samples of one run that a ray of a packet gets before any is looked at: more are found in vain behind surfaces, fewer keep lanes waiting."""
MOST_LAYERS = 64
"""Layers of the skip mask that one column may have here: the bits of a vector's widest integers."""

_SAMPLES = """
        // Up to SLOTS samples of every ray: of the run that it is in, or of the next one.
        vi filled = (vi)(0), finished = (vi)(0);
        const vd until = least_of(needed, far);
        for (;;) {
            for (int s = 0; s < SLOTS; ++s) {
                const vi takes = active & (filled == s) & (k < number) & (count < limit);
                at_m[s] = wide(takes) ? begin + (to_double(k) + 0.5) * spacing : at_m[s];
                filled -= takes, k -= takes, count -= takes;
            }
            const vi asks = active & (filled == 0) & (count < limit) & ~finished;
            if (!any(asks)) break;
            vi found = (vi)(0);
            for (vi seeks = asks & narrow(here < until); any(seeks);) {
                for (vi flies = seeks; any(flies);) flies = fly(flies, until);
                seeks &= narrow(here < until);
                const vi hit = look(seeks, until, 0ull);
                found |= hit;
                seeks &= ~hit & narrow(here < until);
            }
            finished |= asks & ~found;
            begin = wide(found) ? here : begin;
            for (vi ends = found; any(ends);) {
                const vi hit = look(ends, far, ~0ull);
                ends &= ~hit & narrow(here < far);
            }
            const vd length = here - begin;
            const vi divided = __builtin_elementwise_max(to_int(__builtin_elementwise_ceil(length / step)), (vi)(1));
            number = found ? divided : number;
            spacing = wide(found) ? length / to_double(divided) : spacing;
            k = found ? (vi)(0) : k;
        }
        const int most = __builtin_reduce_max(filled);
"""
_PLACES = """
        // Where the samples lie between eight cells, and which rows of the table those are. Neighbours often share them: the first one asks.
        for (int s = 0; s < most; ++s) {
            const vi there = filled > s;
            const auto place = [&](vd origin, vd slope, int last, vf& part) -> vi {
                const vd at = least_of(most_of(origin + at_m[s] * slope, (vd)(0.0)), (vd)(static_cast<double>(last)));
                const vi cell = __builtin_elementwise_min(to_int(at), (vi)(last - 1));
                part = __builtin_convertvector(at - to_double(cell), vf);
                return cell;
            };
            vf part_x, part_y, part_z;
            const vi cell_x = place(x_start, x_slope, shape.c[0] - 1, part_x), cell_y = place(y_start, y_slope, shape.c[1] - 1, part_y),
                     cell_z = place(z_start, z_slope, shape.c[2] - 1, part_z);
            store(shares[s][0], (1.0f - part_y) * (1.0f - part_x)), store(shares[s][1], (1.0f - part_y) * part_x);
            store(shares[s][2], part_y * (1.0f - part_x)), store(shares[s][3], part_y * part_x), store(shares[s][4], part_z);
            const vi column = cell_y * across + cell_x, cell = there ? column * shape.c[2] + cell_z : (vi)(-1);
            alignas(64) int word[LANES], layer[LANES];
            store_int(word, column * listed_words + (cell_z >> 5) * 2), store_int(layer, cell_z & 31);
            const vi before = __builtin_shufflevector(cell, cell, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14);
            held[s] = bits_of(there);
            fresh[s] = held[s] & (bits_of(cell != before) | 1u);
            for (unsigned int left = fresh[s]; left; left &= left - 1) {
                const int l = LOWEST_BIT(left);
                const unsigned int under = (1u << layer[l]) - 1u;
                for (int corner = 0; corner < 4; ++corner) {
                    const unsigned int* const at = listed.data + word[l] + ((corner >> 1) * across + (corner & 1)) * listed_words;
                    // The layers of a column are listed one after the other: the cell above is the next row. Row 0 stands for what the memory
                    // did not hold.
                    const int slot = static_cast<int>(at[0]) + 1 + COUNT_BITS(at[1] & under);
                    rows_of[s][corner][l] = slot + 1 < cells.shape[0] ? slot : 0;
                    const float* const row = table + static_cast<size_t>(rows_of[s][corner][l]) * HIDDEN;
                    for (int line = 0; line < 2 * HIDDEN; line += 16) PREFETCH(row + line);
                }
            }
        }
"""
_LOGITS = """
            // The hidden layer between the eight cells, its ReLU and the second layer: a vector a sample, and then all sums at once.
            for (unsigned int left = held[s]; left; left &= left - 1) {
                const int l = LOWEST_BIT(left), asked = 31 - __builtin_clz(fresh[s] & ((2u << l) - 1u));
                const float *const row0 = table + static_cast<size_t>(rows_of[s][0][asked]) * HIDDEN,
                            *const row1 = table + static_cast<size_t>(rows_of[s][1][asked]) * HIDDEN,
                            *const row2 = table + static_cast<size_t>(rows_of[s][2][asked]) * HIDDEN,
                            *const row3 = table + static_cast<size_t>(rows_of[s][3][asked]) * HIDDEN;
                const float share0 = shares[s][0][l], share1 = shares[s][1][l], share2 = shares[s][2][l], share3 = shares[s][3][l];
                alignas(64) float part[PADDED];
                for (int j = HIDDEN; j < PADDED; ++j) part[j] = 0.0f;
                for (int j = 0; j < HIDDEN; ++j) {
                    float lower = share0 * row0[j], upper = share0 * row0[HIDDEN + j];
                    lower = MULTIPLY_ADD(share1, row1[j], lower), upper = MULTIPLY_ADD(share1, row1[HIDDEN + j], upper);
                    lower = MULTIPLY_ADD(share2, row2[j], lower), upper = MULTIPLY_ADD(share2, row2[HIDDEN + j], upper);
                    lower = MULTIPLY_ADD(share3, row3[j], lower), upper = MULTIPLY_ADD(share3, row3[HIDDEN + j], upper);
                    const float between = MULTIPLY_ADD(shares[s][4][l], upper - lower, lower);
                    part[j] = (between > 0.0f ? between : 0.0f) * output.data[j];
                }
                for (int half = PADDED / 2; half >= LANES; half /= 2)
                    for (int j = 0; j < half; ++j) part[j] += part[j + half];
                store(parts[l], load(part));
            }
            // Sixteen sums of sixteen numbers in four steps: each adds the halves of two vectors and puts them side by side.
            vf eights[8], fours[4], twos[2];
            for (int i = 0; i < 8; ++i) {
                const int l = i / 2 + i % 2 * 8;
                const vf a = load(parts[l]), b = load(parts[l + 4]);
                eights[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
                          + __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
            }
            for (int i = 0; i < 4; ++i) {
                const vf a = eights[2 * i], b = eights[2 * i + 1];
                fours[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
                         + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
            }
            for (int i = 0; i < 2; ++i) {
                const vf a = fours[2 * i], b = fours[2 * i + 1];
                twos[i] = __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
                        + __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
            }
            const vf sums = __builtin_shufflevector(twos[0], twos[1], 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
                          + __builtin_shufflevector(twos[0], twos[1], 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
"""
_WEIGHTS = """
            const vi there = filled > s;
            const vf distance = __builtin_convertvector(at_m[s], vf);
            // e^logit is 2^(n + r) with |r| <= 1/2: the power series of 2^r to its seventh term errs by less than float32 can tell.
            const vf scaled = (sums + bias) * 1.44269504f;
            const vf bounded = __builtin_elementwise_min(__builtin_elementwise_max(scaled, (vf)(-126.0f)), (vf)(126.0f));
            const vi n = __builtin_convertvector(bounded + (bounded < 0.0f ? (vf)(-0.5f) : (vf)(0.5f)), vi);
            const vf r = (bounded - __builtin_convertvector(n, vf)) * 0.693147181f;
            vf series = (vf)(1.0f / 5040.0f);
            series = series * r + 1.0f / 720.0f;
            series = series * r + 1.0f / 120.0f;
            series = series * r + 1.0f / 24.0f;
            series = series * r + 1.0f / 6.0f;
            series = series * r + 0.5f;
            series = series * r + 1.0f;
            series = series * r + 1.0f;
            const vi bits = (n + 127) << 23;
            vf power;
            __builtin_memcpy(&power, &bits, sizeof(power));
            const vf behind = there ? clear / (1.0f + series * power) : clear, weight = clear - behind;
            clear = behind;
            const vi strongest = weight > best;
            best = strongest ? weight : best;
            best_m = strongest ? distance : best_m;
            if (ROWS > 1) depth += weight * distance;
            // The median: `ray_median.py`.
            const vi reaches = there & (total < 0.5f) & (total + weight >= 0.5f), follows = there & ~reaches & (wanted > 0);
            half_m = reaches ? distance : half_m;
            surface = reaches ? weight : surface;
            const auto beside = [&](vi who, vf at, vf of) {
                const vf from_half = at - half_m;
                const vi near_it = who & (__builtin_elementwise_abs(from_half) <= SURFACE);
                surface = near_it ? surface + of : surface;
                offset = near_it ? offset + of * from_half : offset;
            };
            beside(reaches, last_m, last_weight);
            beside(reaches, earlier_m, earlier_weight);
            beside(follows, distance, weight);
            wanted = reaches ? (vi)(BESIDE) : follows ? wanted - 1 : wanted;
            earlier_m = there ? last_m : earlier_m, earlier_weight = there ? last_weight : earlier_weight;
            last_m = there ? distance : last_m, last_weight = there ? weight : last_weight;
            total += weight;
            if (ROWS == 8) add_to_returns(there & (weight >= LIT), distance, weight);
"""
_RETURNS = """
    // Two returns: `ray_returns.py`.
    vf near_m = (vf)(0.0f), near_weight = (vf)(0.0f), far_m = (vf)(0.0f), far_weight = (vf)(0.0f);
    vf moment = (vf)(0.0f), echo = (vf)(0.0f), echo_m = (vf)(0.0f);
    const auto close_return = [&](vi who) {
        const vi counts = who & (echo >= LEAST);
        const vf at = moment / echo;
        const vi first_one = counts & (near_weight == 0.0f), second = counts & ~first_one & (far_weight == 0.0f);
        const vi third = counts & ~first_one & ~second;
        const vi for_near = third & (near_weight < far_weight) & (near_weight < echo), for_far = third & ~for_near & (far_weight < echo);
        near_m = first_one ? at : for_near ? far_m : near_m;
        near_weight = first_one ? echo : for_near ? far_weight : near_weight;
        const vi moves = second | for_near | for_far;
        far_m = moves ? at : far_m;
        far_weight = moves ? echo : far_weight;
        moment = who ? (vf)(0.0f) : moment;
        echo = who ? (vf)(0.0f) : echo;
    };
    const auto add_to_returns = [&](vi lit, vf distance, vf weight) {
        close_return(lit & (echo > 0.0f) & (distance - echo_m > SEPARATION));
        moment = lit ? moment + weight * distance : moment;
        echo = lit ? echo + weight : echo;
        echo_m = lit ? distance : echo_m;
    };
"""
_MARCH = """
    // Feature-grid coordinates along the rays, in cells.
    const double size_x = size.c[0], size_y = size.c[1], size_z = size.c[2];
    const vd x_slope = direction_x / size_x, y_slope = direction_y / size_y, z_slope = direction_z / size_z;
    const vd x_start = (origin_x - mask.low.c[0]) / size_x - 0.5, y_start = (origin_y - mask.low.c[1]) / size_y - 0.5,
             z_start = (origin_z - mask.low.c[2]) / size_z - 0.5;
    const int across = shape.c[0], listed_words = listed.shape[1];
    const float* const table = reinterpret_cast<const float*>(cells.data);

    const float enough = threshold > 0.5f ? threshold : 0.5f, nothing = __builtin_nanf("");
    vf clear = (vf)(1.0f), total = (vf)(0.0f), depth = (vf)(0.0f), best = (vf)(0.0f), best_m = (vf)(nothing);
    vf half_m = (vf)(0.0f), surface = (vf)(0.0f), offset = (vf)(0.0f);
    vf last_m = (vf)(0.0f), last_weight = (vf)(0.0f), earlier_m = (vf)(0.0f), earlier_weight = (vf)(0.0f);
    vi wanted = (vi)(0);

    vd at_m[SLOTS] = {}, begin = (vd)(0.0), spacing = (vd)(0.0), needed = (vd)(NEVER);
    vi k = (vi)(0), number = (vi)(0), count = (vi)(0);
    alignas(64) int rows_of[SLOTS][4][LANES];
    alignas(64) float shares[SLOTS][5][LANES], parts[LANES][LANES] = {};
    unsigned int held[SLOTS], fresh[SLOTS];
    vi active = narrow(far > near) & (load_int(numbers) < lanes);
    while (any(active)) {
""" + _SAMPLES + _PLACES + """
        for (int s = 0; s < most; ++s) {
""" + _LOGITS + _WEIGHTS + """
        }
        active &= (filled > 0) & (clear > stop);
        if (ROWS == 1) {
            // What lies further behind the surface changes nothing, so that nothing is looked for there.
            const vi reached = total >= enough;
            active &= ~(reached & (wanted == 0));
            needed = __builtin_convertvector(reached ? half_m + (SURFACE + 0.001f) : (vf)(1.0e30f), vd);
        }
    }
    const vf median = surface > 0.0f ? half_m + offset / surface : best_m;
    alignas(64) float result[ROWS][LANES];
    if (ROWS == 1) {
        store(result[0], total >= threshold ? median : (vf)(nothing));
    } else {
        store(result[0], depth), store(result[1 % ROWS], total), store(result[2 % ROWS], median), store(result[3 % ROWS], best_m);
    }
    if (ROWS == 8) {
        close_return((vi)(-1));
        store(result[4 % ROWS], near_m), store(result[5 % ROWS], near_weight), store(result[6 % ROWS], far_m), store(result[7 % ROWS], far_weight);
    }
    for (int row = 0; row < ROWS; ++row)
        for (int l = 0; l < lanes; ++l) out.data[static_cast<size_t>(row) * out.shape[1] + first + l] = result[row][l];
"""


_ALL = """
    constexpr int PACKETS = 8, RAYS = PACKETS * LANES;  // of a row: neighbours share what is in the caches
    side_by_side((rays + RAYS - 1) / RAYS, [&](int row) {
        for (int packet = row * RAYS; packet < rays && packet < (row + 1) * RAYS; packet += LANES) march_one(packet);
    });
"""


@cache
def _packet_kernel(hidden: int, rows: int, words: int) -> wp.Kernel:
    vector: Any = wp.types.vector(length=hidden, dtype=wp.float32)
    constants = f"""
    constexpr int LANES = {LANES}, SLOTS = {SLOTS}, HIDDEN = {hidden}, PADDED = {max(LANES, 1 << (hidden - 1).bit_length())}, ROWS = {rows};
    constexpr int WORDS = {words}, BESIDE = {BESIDE};
    constexpr float SURFACE = {SURFACE_M}f, LIT = {LIT_WEIGHT}f, SEPARATION = {SEPARATION_M}f, LEAST = {LEAST_WEIGHT}f;
#if defined(__AVX512F__)
    constexpr int AHEAD = 6;
#else
    constexpr int AHEAD = 2;
#endif
"""

    march_one = f"const auto march_one = [&](int first) {{{PACKET_TYPES}{PACKET_WALK}{_RETURNS}{_MARCH}}};"

    @wp.func_native(f"{NATIVE}{STEPS}{constants}{march_one}{_ALL}")
    def march_all(counters: wp.array(dtype=wp.int32), rays: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3),
                  mask: MaskGrid, step: wp.float64, limit: int, stop: float, threshold: float, size: wp.vec3, shape: wp.vec3i,
                  listed: wp.array2d(dtype=wp.uint32), cells: wp.array(dtype=vector), output: wp.array(dtype=wp.float32), bias: float,
                  out: wp.array2d(dtype=wp.float32)):
        ...

    @wp.kernel(module="unique", **WIDEST)
    def march(first: int, counters: wp.array(dtype=wp.int32), rays: int, origins: wp.array(dtype=wp.vec3), directions: wp.array(dtype=wp.vec3),
              mask: MaskGrid, step: wp.float64, limit: int, stop: float, threshold: float, size: wp.vec3, shape: wp.vec3i,
              listed: wp.array2d(dtype=wp.uint32), cells: wp.array(dtype=vector), output: wp.array(dtype=wp.float32), bias: float,
              out: wp.array2d(dtype=wp.float32)):
        march_all(counters, rays, origins, directions, mask, step, limit, stop, threshold, size, shape, listed, cells, output, bias, out)

    return march


def fits_packets(mask: SkipMask) -> bool:
    """Whether the columns of a skip mask are low enough for this file."""
    return mask.grid.mask_cells_YXZ[2] <= MOST_LAYERS


def march_inputs(cells: FeatureReadout, mask: SkipMask, origins: Any, directions: Any, out: Any) -> list[Any]:
    """What the kernels of both marches take, see `ray_march.march_rays`."""
    grid = cells.grid
    rows, columns, layers = grid.feature_cells_YXZ
    settings = grid.config.rendering
    return [origins, directions, mask_grid(mask), settings.step_m, settings.max_samples, settings.stop_transmittance, settings.opacity_threshold,
            wp.vec3(*map(float, grid.feature_cell_size_m)), wp.vec3i(columns, rows, layers), cells.listed, cells.hidden, cells.output,
            cells.output_bias, out]


def march_packets(cells: FeatureReadout, mask: SkipMask, origins: Any, directions: Any, rays: int, out: Any) -> None:
    """As `ray_march.march_rays`, for arrays on the CPU and a mask that `fits_packets`."""
    kernel = _packet_kernel(cells.hidden_dim, out.shape[0], words_of(cells.grid.mask_cells_YXZ[2]))
    Crew(1).launch(kernel, [rays, *march_inputs(cells, mask, origins, directions, out)])
