# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the C++ snippets of kernels begin with, where Warp's own operators are too slow: one source for CPU and CUDA.

Unusual: Warp compiles vector expressions operator by operator, without fused multiply-adds and with sums in a chain; a snippet says how to add.
"""

NATIVE = """
#if defined(__CUDA_ARCH__)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#define COUNT_BITS(word) __popc(word)
#define LOWEST_BIT(word) (__ffsll(word) - 1)
#define HIGHEST_BIT(word) (63 - __clzll(word))
#define ROUND(x) rintf(x)
#define FLOOR(x) floorf(x)
#define ROOT(x) sqrtf(x)
#define PREFETCH(at)
#else
#define COUNT_BITS(word) __builtin_popcount(word)
#define LOWEST_BIT(word) __builtin_ctzll(word)
#define HIGHEST_BIT(word) (63 - __builtin_clzll(word))
#define ROUND(x) __builtin_rintf(x)
#define FLOOR(x) __builtin_floorf(x)
#define ROOT(x) __builtin_sqrtf(x)
#define PREFETCH(at) __builtin_prefetch(at)
#endif
#if defined(__CUDA_ARCH__)
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif
"""
"""To be put before the code of a snippet."""
TREE = """
    for (int left = {length}; left > 1; left = (left + 1) / 2)
        for (int k = 0; k < left / 2; ++k) part[k] += part[k + (left + 1) / 2];
"""
"""The sum of `part`, which has this length, in part[0]: not one addition waits for more than a few others."""
