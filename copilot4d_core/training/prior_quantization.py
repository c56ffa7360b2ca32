# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Turns a fitted prior network into the whole numbers of a prior file.

What goes in: float parameters and some grids. What comes out: arrays of `deploy/prior_file.py`.
Unusual: a scale is pulled out of every embedding channel and hidden unit and put into the next layer, so that eight bits suffice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from copilot4d_core.deploy.prior_file import HIDDEN_MAX, Int64, PriorArrays
from copilot4d_core.deploy.token_order import NEIGHBOURS
from copilot4d_core.deploy.token_prior import SCALE_BITS, STEPS_PER_OCTAVE
from copilot4d_core.grid import IntArray
from copilot4d_core.training.prior_network import EMBEDDING_DIM, Parameters, PriorNetwork

LARGEST, LARGEST_BIAS = 127, 32767
SMALLEST_STEP = 1e-6
"""Of an embedding channel, or of the sums of a hidden unit, that is always 0."""
SMALLEST_UNIT = 1e-3
"""Step of a hidden unit that is nearly always 0; so its scale stays below 1."""


def quantize(parameters: Parameters, network: PriorNetwork, ranks: IntArray, code_order: Int64, class_sizes: Int64) -> PriorArrays:
    """Whole numbers that stand for the parameters.

    Args:
        ranks: (B, cells) grids that show how large the hidden units become.
        code_order: (S,) codes by rank.
        class_sizes: (C,) codes in each class.
    """
    count, _, hidden = parameters["place_bias"].shape
    channel = _steps(parameters["embedding"], (0,), LARGEST)
    inputs = parameters["inputs"].reshape(count - 1, NEIGHBOURS, EMBEDDING_DIM, hidden) * channel[:, None]
    shown = np.stack([np.maximum(sums, 0).max(axis=0) for sums in network.hidden(parameters, ranks)])
    unit = np.maximum(_steps(shown, (0,), HIDDEN_MAX), SMALLEST_UNIT)
    bias = parameters["hidden_bias"][:, None] + parameters["place_bias"] + unit / 2  # half a unit, because hidden units are cut, not rounded
    sums = np.concatenate([unit[None] / LARGEST, _steps(inputs, (1, 2), LARGEST)])
    sums = np.maximum(sums, _steps(bias, (1,), LARGEST_BIAS))
    class_output, code_output = (parameters[name] * unit[:, None] for name in ("class_output", "code_output"))
    logit = float(max(abs(class_output).max(), abs(code_output).max())) / LARGEST
    return PriorArrays(
        code_order.astype(np.uint16), class_sizes.astype(np.uint16), _whole(parameters["embedding"] / channel, np.int8),
        _whole(inputs / sums[1:, None, None], np.int8), _whole(bias / sums[:, None], np.int16), _whole(sums / unit * 2**SCALE_BITS, np.int32),
        _whole(class_output / logit, np.int8), _whole(parameters["class_bias"] / logit, np.int32),
        _whole(code_output / logit, np.int8), _whole(parameters["code_bias"] / logit, np.int32),
        _whole(np.array([logit * STEPS_PER_OCTAVE / math.log(2) * 2**SCALE_BITS]), np.int32))


def _steps(values: npt.NDArray[np.floating], axes: tuple[int, ...], largest: int) -> npt.NDArray[np.floating]:
    """Step by which the largest value over some axes becomes the largest whole number."""
    return np.asarray(np.maximum(abs(values).max(axis=axes) / largest, SMALLEST_STEP))


def _whole(values: npt.NDArray[np.floating], dtype: type[np.signedinteger]) -> npt.NDArray[Any]:
    return np.asarray(np.rint(values), dtype=dtype)
