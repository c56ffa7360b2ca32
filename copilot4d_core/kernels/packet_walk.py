# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""C++ of the walks of a packet of rays through the skip mask: those of `ray_traversal.py`, where the words are explained, one a lane.

In: the arguments of `ray_packets.py`. Out: `near` and `far`, the distances in metres at which the rays enter and leave the region, the state of
the walks, and `fly` and `look`, which take them further. Constants: those of `packet_lanes.py`, and AHEAD, the columns that `fly` enters at once.
"""

from __future__ import annotations

PACKET_WALK = """
    // A packet at the end of the rays is filled up with the last one, and what becomes of that is not written.
    const int lanes = rays - first < LANES ? rays - first : LANES;
    alignas(64) float read[6][LANES];
    alignas(64) int numbers[LANES];
    for (int l = 0; l < LANES; ++l) {
        const int i = first + (l < lanes ? l : lanes - 1);
        numbers[l] = l;
        for (int k = 0; k < 3; ++k) read[k][l] = origins.data[i].c[k], read[3 + k][l] = directions.data[i].c[k];
    }
    const auto component = [&](int k) -> vd { return __builtin_convertvector(load(read[k]), vd); };
    const vd origin_x = component(0), origin_y = component(1), origin_z = component(2);
    const vd direction_x = component(3), direction_y = component(4), direction_z = component(5);

    // Where the rays enter and leave the region.
    constexpr double LEVEL = 1.0e-9, NEVER = 1.0e30;
    vd near = (vd)(0.0), far = (vd)(NEVER);
    const auto slab = [&](vd origin, vd direction, double low, double high) {
        const vd a = (low - origin) / direction, b = (high - origin) / direction;
        const vl level = absolute(direction) < LEVEL, outside = (origin < low) | (origin >= high);
        near = level ? near : most_of(near, least_of(a, b));
        far = level ? (outside ? (vd)(-1.0) : far) : least_of(far, most_of(a, b));
    };
    slab(origin_x, direction_x, mask.low.c[0], mask.high.c[0]);
    slab(origin_y, direction_y, mask.low.c[1], mask.high.c[1]);
    slab(origin_z, direction_z, mask.low.c[2], mask.high.c[2]);

    // The walks: cell, distances of the faces to the next column along x and along y, and how far each ray is.
    const int columns = mask.shape.c[0], rows = mask.shape.c[1], top = mask.shape.c[2] - 1;
    const auto cell_at = [&](vd position, double low, double size, int cells) -> vi {
        return clamped(to_int(__builtin_elementwise_floor((position - low) / size)), cells - 1);
    };
    vd face_x, face_y, spacing_x, spacing_y, here = near;
    vi step_x, step_y;
    const auto start = [&](vd origin, vd direction, double low, double size, int cells, vd& face, vd& spacing, vi& step) -> vi {
        const vl level = absolute(direction) < LEVEL, forward = direction > 0.0;
        const vi at = cell_at(origin + near * direction, low, size, cells);
        face = level ? (vd)(NEVER) : (low + (to_double(at) + (forward ? (vd)(1.0) : (vd)(0.0))) * size - origin) / direction;
        spacing = level ? (vd)(NEVER) : size / absolute(direction);
        step = narrow(forward) ? (vi)(1) : (vi)(-1);
        return at;
    };
    vi x = start(origin_x, direction_x, mask.low.c[0], mask.cell.c[0], columns, face_x, spacing_x, step_x);
    vi y = start(origin_y, direction_y, mask.low.c[1], mask.cell.c[1], rows, face_y, spacing_y, step_y);
    vi z = cell_at(origin_z + near * direction_z, mask.low.c[2], mask.cell.c[2], top + 1);
    const vd layer_start = (origin_z - mask.low.c[2]) / mask.cell.c[2], layer_slope = direction_z / mask.cell.c[2];
    const vd layer_spacing = absolute(direction_z) < LEVEL ? (vd)(0.0) : mask.cell.c[2] / direction_z;
    const vl up = layer_slope > 0.0;
    const vi rises = narrow(up);
    // Never back, whatever rounding says.
    const auto layer_at = [&](vd at) -> vi {
        const vi layer = clamped(to_int(__builtin_elementwise_floor(at * layer_slope + layer_start)), top);
        return rises ? __builtin_elementwise_max(layer, z) : __builtin_elementwise_min(layer, z);
    };
    // Who is outside is at its end, and keeps a column that is there.
    const auto keep_inside = [&](vi who, vd until) {
        const vi gone = who & ((x < 0) | (x >= columns) | (y < 0) | (y >= rows));
        here = wide(gone) ? until : here;
        x = clamped(x, columns - 1), y = clamped(y, rows - 1);
    };
    // Over everything in a column: the next one. Some are entered before it is known whether the first was flown over, because memory
    // takes longer than steps; who was not over it keeps its place. Returns who flew over all of them.
    const auto fly = [&](vi who, vd until) -> vi {
        vd next_face_x = face_x, next_face_y = face_y, next_here = here;
        vi next_x = x, next_y = y, flown = who;
        for (int ahead = 0; ahead < AHEAD; ++ahead) {
            const vd leave = least_of(least_of(next_face_x, next_face_y), until);
            const vd height = (up ? next_here : leave) * layer_slope + layer_start;
            const vf tallest = floats_at(mask.tops.data, clamped(next_y * columns + next_x, columns * rows - 1));
            flown &= narrow((next_here < until) & (height >= __builtin_convertvector(tallest, vd)));
            const vl along_x = next_face_x <= next_face_y;
            next_face_x = along_x ? next_face_x + spacing_x : next_face_x;
            next_face_y = along_x ? next_face_y : next_face_y + spacing_y;
            next_x = narrow(along_x) ? next_x + step_x : next_x;
            next_y = narrow(along_x) ? next_y : next_y + step_y;
            next_here = leave;
            const vl moved = wide(flown);
            face_x = moved ? next_face_x : face_x;
            face_y = moved ? next_face_y : face_y;
            here = moved ? next_here : here;
            x = flown ? next_x : x;
            y = flown ? next_y : y;
        }
        keep_inside(who, until);
        return flown & narrow(here < until);
    };
    // One column: to its first cell from here on that is occupied (`other` 0), or that is not (all bits), and who found one; the others enter the
    // next column. The layers that a ray crosses in it are bits side by side.
    const auto look = [&](vi who, vd until, unsigned long long other) -> vi {
        const vd leave = least_of(least_of(face_x, face_y), until);
        z = who ? layer_at(here) : z;
        const vi last = layer_at(leave);
        const vu low = __builtin_convertvector(rises ? z : last, vu), high = __builtin_convertvector(rises ? last : z, vu);
        const vu crossed = ((vu)(~0ull) << low) & ~((vu)(~0ull) << high << 1);
        const vu found = (columns_at(mask.bits.data, (y * columns + x) * WORDS) ^ other) & crossed;
        const vi hit = who & narrow((vl)(found != 0));
        // The lowest bit of those that rise, the highest of the others; where none is found nobody asks.
        alignas(64) unsigned long long bits[LANES];
        alignas(64) int layers[LANES];
        *reinterpret_cast<vu*>(bits) = ((vu)up ? found & -found : found) | 1;
        for (int l = 0; l < LANES; ++l) layers[l] = 63 - __builtin_clzll(bits[l]);
        const vi layer = load_int(layers);
        const vd begins = (to_double(rises ? layer : layer + 1) - layer_start) * layer_spacing;
        here = wide(hit & (layer != z)) ? most_of(here, least_of(begins, leave)) : here;
        z = hit ? layer : who ? last : z;
        const vi enters = who & ~hit;
        const vl along_x = wide(enters) & (face_x <= face_y), along_y = wide(enters) & ~along_x;
        face_x = along_x ? face_x + spacing_x : face_x;
        face_y = along_y ? face_y + spacing_y : face_y;
        x = narrow(along_x) ? x + step_x : x;
        y = narrow(along_y) ? y + step_y : y;
        here = wide(enters) ? leave : here;
        keep_inside(enters, until);
        return hit;
    };
"""
