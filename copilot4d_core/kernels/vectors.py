# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""C++ that the kernels of the dense networks begin with: vectors of 16 floats, layer norm, GELU, and a matrix product in registers.

Unusual: for the CPU alone (on a GPU TensorRT runs these networks). The compiler maps a vector to what the processor has: one AVX-512,
two AVX or four NEON registers. A snippet is the body of a function, so that what it calls are lambdas, which are inlined.
"""

from __future__ import annotations

import inspect
import platform
from typing import Any

import numpy as np
import numpy.typing as npt
import warp as wp

import copilot4d_core.kernels.launch  # noqa: F401 - starts Warp
from copilot4d_core.grid import FloatArray

WIDTH = 16
"""Floats of a vector; every number of channels must be a multiple of it."""

VECTORS = """
    typedef float vf __attribute__((ext_vector_type(16), aligned(4)));
    typedef float vh __attribute__((ext_vector_type(8)));
    typedef float vq __attribute__((ext_vector_type(4)));
    typedef int vi __attribute__((ext_vector_type(16)));
    // Rows, and vectors of columns, whose sums a matrix product keeps in registers: 24 of 32, each number that is read serving three or eight.
#if defined(__AVX512F__)
    constexpr int TALL = 8, ACROSS = 3;
#else
    constexpr int TALL = 4, ACROSS = 1;
#endif
    struct Wide { enum { count = ACROSS }; };
    struct Narrow { enum { count = 1 }; };
    const auto load = [](const float* from) -> vf { return *reinterpret_cast<const vf*>(from); };
    const auto store = [](float* to, vf value) { *reinterpret_cast<vf*>(to) = value; };
    const auto fma = [](vf a, vf b, vf c) -> vf { return __builtin_elementwise_fma(a, b, c); };
    const auto sum_of = [](vf v) -> float {
        const vh half = v.lo + v.hi;
        const vq quarter = half.lo + half.hi;
        return (quarter.x + quarter.z) + (quarter.y + quarter.w);
    };
    const auto largest_of = [](vf v) -> float {
        const vh half = __builtin_elementwise_max(v.lo, v.hi);
        const vq quarter = __builtin_elementwise_max(half.lo, half.hi);
        const float even = quarter.x > quarter.z ? quarter.x : quarter.z, odd = quarter.y > quarter.w ? quarter.y : quarter.w;
        return even > odd ? even : odd;
    };
    // e^x = 2^n e^r with |r| <= ln(2) / 2, for x up to 88; the polynomial errs by at most 1.1e-7 of e^r (fitted, largest error least).
    // Below -60 it stays e^-60: nothing beside 1, and what it is multiplied with is far from denormal numbers, which cost a hundred times as much.
    const auto exponential = [&](vf x) -> vf {
        const vf bounded = __builtin_elementwise_max(x, (vf)(-60.0f));
        // At 1.5 * 2^23 a float32 has no fraction: the sum is rounded to n, and its lowest bits are n and the exponent's bias of 127.
        const vf rounded = fma(bounded, (vf)(1.44269504f), (vf)(12583039.0f));
        const vf n = rounded - 12583039.0f;
        const vf r = fma(n, (vf)(-1.42860677e-6f), fma(n, (vf)(-0.693145752f), bounded));
        vf series = (vf)(0.00831249416f);
        series = fma(series, r, (vf)(0.0418901137f));
        series = fma(series, r, (vf)(0.166671147f));
        series = fma(series, r, (vf)(0.499992318f));
        series = fma(series, r, (vf)(1.0f));
        series = fma(series, r, (vf)(1.0f));
        vi bits;
        __builtin_memcpy(&bits, &rounded, sizeof(bits));
        bits <<= 23;
        vf power;
        __builtin_memcpy(&power, &bits, sizeof(power));
        return series * power;
    };
    // x Phi(x), where Phi(x) - 1/2 is x times a quotient of polynomials in x^2 up to 5.4, and stays what it is there; the fit errs by at
    // most 5e-8 of the result (largest error least), float32 by its own rounding beside that.
    const auto gelu = [&](vf x) -> vf {
        const vf y = __builtin_elementwise_min(__builtin_elementwise_max(x, (vf)(-5.4f)), (vf)(5.4f)), t = y * y;
        vf above = (vf)(1.1399738e-10f), below = (vf)(6.70163958e-05f);
        above = fma(above, t, (vf)(-2.27943297e-08f));
        above = fma(above, t, (vf)(3.42890544e-06f));
        above = fma(above, t, (vf)(0.00018302363f));
        above = fma(above, t, (vf)(0.00458381298f));
        above = fma(above, t, (vf)(0.037028337f));
        above = fma(above, t, (vf)(0.398942005f));
        below = fma(below, t, (vf)(0.00189981059f));
        below = fma(below, t, (vf)(0.0297431954f));
        below = fma(below, t, (vf)(0.259478917f));
        below = fma(below, t, (vf)(1.0f));
        return x * fma(y, above / below, (vf)(0.5f));
    };
    // (x - mean) / sqrt(variance + 1e-5) * scale + shift over the channels of a row.
    const auto layer_norm = [&](const float* from, const float* scale, const float* shift, int channels, auto&& put) {
        vf sum = (vf)(0.0f), squares = (vf)(0.0f);
        for (int j = 0; j < channels; j += 16) sum += load(from + j);
        const float mean = sum_of(sum) / channels;
        for (int j = 0; j < channels; j += 16) {
            const vf centred = load(from + j) - mean;
            squares = fma(centred, centred, squares);
        }
        const float factor = 1.0f / __builtin_sqrtf(sum_of(squares) / channels + 1e-5f);
        for (int j = 0; j < channels; j += 16) put(j, fma((load(from + j) - mean) * factor, load(scale + j), load(shift + j)));
    };
    // `across` vectors of columns of a product, for TALL rows at a time, whose sums stay in registers.
    const auto strip = [&](auto across, const float* from, int stride, int rows, int inner, const float* matrix, const float* bias, int j,
                           auto&& put) {
        constexpr int N = decltype(across)::count;
        const float* column = matrix + static_cast<size_t>(j) * inner;
        for (int i = 0; i < rows; i += TALL) {
            const float* row = from + static_cast<size_t>(i) * stride;
            vf sum[N][TALL];
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
                for (int r = 0; r < TALL; ++r) sum[n][r] = load(bias + j + 16 * n);
            for (int k = 0; k < inner; ++k) {
                vf factor[N];
#pragma unroll
                for (int n = 0; n < N; ++n) factor[n] = load(column + 16 * (n * inner + k));
#pragma unroll
                for (int r = 0; r < TALL; ++r)
#pragma unroll
                    for (int n = 0; n < N; ++n) sum[n][r] = fma((vf)(row[static_cast<size_t>(r) * stride + k]), factor[n], sum[n][r]);
            }
#pragma unroll
            for (int r = 0; r < TALL; ++r)
#pragma unroll
                for (int n = 0; n < N; ++n) put(i + r, j + 16 * n, sum[n][r]);
        }
    };
    // rows x inner times inner x columns; the matrix comes as packed by `packed`, TALL divides rows.
    const auto product = [&](const float* from, int stride, int rows, int inner, const float* matrix, const float* bias, int columns, auto&& put) {
        int j = 0;
        for (; j + 16 * ACROSS <= columns; j += 16 * ACROSS) strip(Wide{}, from, stride, rows, inner, matrix, bias, j, put);
        for (; j < columns; j += 16) strip(Narrow{}, from, stride, rows, inner, matrix, bias, j, put);
    };
"""
"""To be put before the code of a snippet."""


def _widest() -> dict[str, Any]:
    flags = getattr(wp.config, "cpu_compiler_flags", None)
    if flags is None or "module_options" not in inspect.signature(wp.kernel).parameters or platform.machine() not in ("x86_64", "AMD64"):
        return {}
    return {"module_options": {"cpu_compiler_flags": f"{flags} -mprefer-vector-width=512"}}


WIDEST = _widest()
"""More arguments of `wp.kernel`: registers of 512 bits where the processor has them, which compilers avoid unasked; an older Warp can't be told."""


def packed(matrix_IO: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """A matrix (in, out) in the order in which `product` reads it: 16 columns after 16 columns, each row by row; flat."""
    inner, columns = matrix_IO.shape
    return np.ascontiguousarray(matrix_IO.reshape(inner, columns // WIDTH, WIDTH).swapaxes(0, 1), dtype=np.float32).ravel()
