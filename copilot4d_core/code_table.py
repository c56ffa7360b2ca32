# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What each token stands for, from a model's settings and tensors. Needs NumPy only.

What goes in: quantiser settings and the tensors of a weights file. What comes out: one code vector a token.
Unusual: finite scalar quantisation has no codebook, so its bounds stand here, where torch and the ONNX graph both find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.config import QuantizerConfig, QuantizerKind

Array = npt.NDArray[Any]
CODEBOOK, COARSE, FINE = "quantizer.codebook", "quantizer.coarse.codebook", "quantizer.fine.codebook"
EDGE = 1e-3
"""How far beyond the outermost value a channel may reach, so that it is reached and its gradient does not vanish there."""


class ScalarLevels(NamedTuple):
    """Bounds of finite scalar quantisation, one entry a channel: round(tanh(z + shift) half_range - offset) takes `steps` values."""

    steps: npt.NDArray[np.int64]
    half_range: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    """Half a step where the number of values is even: the values then lie at ..., -1, 0, 1, ... but one more below 0 than above."""
    shift: npt.NDArray[np.float64]
    """Makes 0 of 0."""
    half_width: npt.NDArray[np.int64]
    """Digit of the value 0, and what a value is divided by to become a channel of the code."""
    place: npt.NDArray[np.int64]
    """What a digit counts in the token; the first channel counts 1."""


def scalar_levels(levels: tuple[int, ...]) -> ScalarLevels:
    """Source: Mentzer et al., Finite Scalar Quantization, arXiv 2309.15505, section 3.1 and appendix A.1.

    The shift is atanh, which makes 0 of 0, where the appendix writes tan, which nearly does.
    """
    steps = np.array(levels, dtype=np.int64)
    half_range = (steps - 1) * (1 + EDGE) / 2
    offset = np.where(steps % 2 == 0, 0.5, 0.0)
    return ScalarLevels(steps, half_range, offset, np.arctanh(offset / half_range), steps // 2, np.cumprod(np.append(1, steps[:-1])))


def code_table(settings: QuantizerConfig, tensors: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Code of every token, (codebook_size, codebook_dim) float32."""
    if settings.kind is QuantizerKind.FSQ:
        levels = scalar_levels(settings.levels)
        digits = np.arange(settings.codebook_size)[:, None] // levels.place % levels.steps
        return np.asarray((digits - levels.half_width) / levels.half_width, dtype=np.float32)
    if settings.kind is QuantizerKind.RESIDUAL:
        table = tensors[COARSE][:, None] + tensors[FINE][None]
        return np.asarray(table.reshape(settings.codebook_size, settings.codebook_dim), dtype=np.float32)
    codebook = tensors[CODEBOOK]
    if settings.kind is QuantizerKind.COSINE:
        codebook = codebook / np.linalg.norm(codebook, axis=1, keepdims=True).clip(1e-12)
    return np.ascontiguousarray(codebook, dtype=np.float32)


class ScoreTable(NamedTuple):
    """What tells the nearest code from the encoder's rows y: the largest of y matrix + bias."""

    matrix_CK: npt.NDArray[np.float64]
    bias_K: npt.NDArray[np.float64]


def score_table(codes_KD: Array, tensors: Mapping[str, Array], unit: bool = False) -> ScoreTable:
    """z.e - |e|^2 / 2 with the last linear map, z = W y + b, multiplied into the codes e, so that no code or latent is left to be looked at.

    Its largest is the nearest code; and it costs the same whatever the codebook's dimension is.

    Args:
        unit: codes of length 1 need no second term, and z no length of 1: neither changes which is the largest.
    """
    codes, weight, bias = codes_KD.astype(np.float64), tensors["pre_quantizer.2.weight"].astype(np.float64), tensors["pre_quantizer.2.bias"]
    return ScoreTable(weight.T @ codes.T, codes @ bias - (0.0 if unit else 0.5 * np.square(codes).sum(axis=1)))


def codebook_shapes(settings: QuantizerConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of the quantiser's tensors in a weights file."""
    if settings.kind is QuantizerKind.FSQ:
        return {}
    if settings.kind is QuantizerKind.RESIDUAL:
        return {name: (size, settings.codebook_dim) for name, size in zip((COARSE, FINE), settings.levels, strict=True)}
    return {CODEBOOK: (settings.codebook_size, settings.codebook_dim)}
