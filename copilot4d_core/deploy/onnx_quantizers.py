# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The quantiser at the end of the encoder's graph: rows before the last linear map to tokens.

What goes in: a model's settings and tensors. What comes out: the name of (cells,) int32 tokens.
Unusual: the last linear map is multiplied into the codebook beforehand, in float64, so no latent exists where a codebook does.
"""

from __future__ import annotations

import numpy as np

from copilot4d_core.code_table import COARSE, FINE, code_table, scalar_levels, score_table
from copilot4d_core.config import QuantizerKind
from copilot4d_core.deploy.onnx_builder import OnnxBuilder
from copilot4d_core.model_file import Model


def token_rows(build: OnnxBuilder, model: Model, x: str) -> str:
    """Token of each row, as the quantiser of the model chooses it; `x` is float32."""
    settings = model.config.quantizer
    if settings.kind is QuantizerKind.FSQ:
        return _rounded(build, model, x)
    if settings.kind is QuantizerKind.RESIDUAL:
        return _residual(build, model, x)
    codes, unit = code_table(settings, model.tensors), settings.kind is QuantizerKind.COSINE
    return _best(build, "", build.linear("scores", x, *score_table(codes, model.tensors, unit)))


def _best(build: OnnxBuilder, suffix: str, scores: str) -> str:
    return build.cast(f"nearest{suffix}", build.node("ArgMax", f"best{suffix}", [scores], axis=1, keepdims=0), np.int32)


def _residual(build: OnnxBuilder, model: Model, x: str) -> str:
    """Both levels score the same rows; what the coarse code takes away from the fine scores is a table, a row a coarse code."""
    coarse, fine = model.tensors[COARSE], model.tensors[FINE]
    first = _best(build, "/coarse", build.linear("scores/coarse", x, *score_table(coarse, model.tensors)))
    taken = build.constant("taken/table", -coarse.astype(np.float64) @ fine.T)
    scores = build.node("Add", "scores/rest", [build.linear("scores/fine", x, *score_table(fine, model.tensors)),
                                               build.node("Gather", "taken", [taken, first], axis=0)])
    first_token = build.constant("first_token/table", np.arange(len(coarse), dtype=np.int32) * np.int32(len(fine)))
    return build.node("Add", "pair", [build.node("Gather", "first_token", [first_token, first], axis=0), _best(build, "/fine", scores)])


def _rounded(build: OnnxBuilder, model: Model, x: str) -> str:
    """Finite scalars; products and sums instead of matrix products, which a GPU may round to ten bits."""
    levels = scalar_levels(model.config.quantizer.levels)
    channels = build.linear("channels", x, build.tensors["pre_quantizer.2.weight"].T, build.tensors["pre_quantizer.2.bias"] + levels.shift)
    spread = build.node("Mul", "spread", [build.node("Tanh", "bounded", [channels]), build.constant("spread/half_range", levels.half_range)])
    value = build.node("Round", "value", [build.node("Add", "value/offset", [spread, build.constant("value/minus_offset", -levels.offset)])])
    digit = build.node("Add", "digit", [value, build.constant("digit/half_width", levels.half_width.astype(np.float64))])
    counted = build.node("Mul", "counted", [digit, build.constant("counted/place", levels.place.astype(np.float64))])
    axes = build.constant("number/axes", np.array([1], dtype=np.int64))
    return build.cast("nearest", build.node("ReduceSum", "number", [counted, axes], keepdims=0), np.int32)
