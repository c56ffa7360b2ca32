# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""C++ that a packet of rays begins with: vectors with a lane a ray, what holds for which of them, and reads from sixteen places.

Unusual: a snippet is the body of a function, so that what it calls are lambdas, which are inlined. It needs LANES (16) and WORDS (of 32 bits in a
column of the skip mask, 1 or 2) as constants.
"""

from __future__ import annotations

LANES = 16
"""Rays of a packet."""
PACKET_TYPES = """
    typedef float vf __attribute__((ext_vector_type(LANES)));
    typedef int vi __attribute__((ext_vector_type(LANES)));
    typedef double vd __attribute__((ext_vector_type(LANES)));
    typedef unsigned long long vu __attribute__((ext_vector_type(LANES)));
    typedef bool vb __attribute__((ext_vector_type(LANES)));
    typedef decltype(vd() < vd()) vl;
    // What holds for a lane is -1 there and 0 elsewhere: `vi` beside 32 bits, `vl` beside 64.
    const auto wide = [](vi holds) -> vl { return __builtin_convertvector(holds, vl); };
    const auto narrow = [](vl holds) -> vi { return __builtin_convertvector(holds, vi); };
    const auto to_int = [](vd v) -> vi { return __builtin_convertvector(v, vi); };
    const auto to_double = [](vi v) -> vd { return __builtin_convertvector(v, vd); };
    const auto load = [](const void* from) -> vf { return *static_cast<const vf*>(from); };
    const auto load_int = [](const int* from) -> vi { return *reinterpret_cast<const vi*>(from); };
    const auto store = [](float* to, vf v) { *reinterpret_cast<vf*>(to) = v; };
    const auto store_int = [](int* to, vi v) { *reinterpret_cast<vi*>(to) = v; };
    const auto least_of = [](vd a, vd b) -> vd { return a < b ? a : b; };
    const auto most_of = [](vd a, vd b) -> vd { return a > b ? a : b; };
    const auto absolute = [](vd v) -> vd { return __builtin_elementwise_abs(v); };
    const auto clamped = [](vi v, int last) -> vi { return __builtin_elementwise_min(__builtin_elementwise_max(v, (vi)(0)), (vi)(last)); };
    const auto bits_of = [](vi holds) -> unsigned int {
        const vb held = __builtin_convertvector(holds, vb);
        unsigned short bits;
        __builtin_memcpy(&bits, &held, sizeof(bits));
        return bits;
    };
    const auto any = [&](vi holds) -> bool { return bits_of(holds) != 0; };
    // Left to itself the compiler finds no gather instruction in these two.
    const auto floats_at = [](const float* from, vi at) -> vf {
        vf value;
#if defined(__AVX512F__)
        typedef float floats __attribute__((vector_size(64)));
        typedef int ints __attribute__((vector_size(64)));
        ints index;
        __builtin_memcpy(&index, &at, sizeof(index));
        const floats got = __builtin_ia32_gathersiv16sf((floats){}, from, index, (unsigned short)0xffff, 4);
        __builtin_memcpy(&value, &got, sizeof(value));
#else
        alignas(64) int index[LANES];
        alignas(64) float got[LANES];
        *reinterpret_cast<vi*>(index) = at;
        for (int l = 0; l < LANES; ++l) got[l] = from[index[l]];
        value = *reinterpret_cast<vf*>(got);
#endif
        return value;
    };
    const auto columns_at = [](const unsigned int* from, vi at) -> vu {
#if defined(__AVX512F__)
        if (WORDS == 2) {
            typedef long long longs __attribute__((vector_size(64)));
            typedef int ints __attribute__((vector_size(32)));
            ints index[2];
            longs got[2];
            __builtin_memcpy(index, &at, sizeof(index));
            for (int half = 0; half < 2; ++half) got[half] = __builtin_ia32_gathersiv8di((longs){}, from, index[half], (unsigned char)0xff, 4);
            vu value;
            __builtin_memcpy(&value, got, sizeof(value));
            return value;
        }
#endif
        alignas(64) int index[LANES];
        alignas(64) unsigned long long got[LANES] = {};
        *reinterpret_cast<vi*>(index) = at;
        for (int l = 0; l < LANES; ++l) __builtin_memcpy(&got[l], from + index[l], 4 * WORDS);
        return *reinterpret_cast<vu*>(got);
    };
"""
