# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token images that arrive from elsewhere, and the record that says which model made them.

What goes in: the JSON text of `~/model_info` and 16UC1 images. What comes out: token grids that a runner can decode, or a
refusal with its reason. Unusual: a token is a row of one model's codebook, so tokens of unknown origin are refused however
well they fit; and a grid with a cell that is not valid (65535) is refused whole, because the decoder has no code for
"unknown" and its attention would carry a made-up code into the depths all around.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.deploy.runner import Runner, TokenArray, check_token_grid
from copilot4d_core.deploy.token_file import INVALID_TOKEN
from copilot4d_core.deploy.token_stream import stream_format, tokens_from_bytes
from copilot4d_core.grid import Grid
from copilot4d_ros.messages import array_from_image
from copilot4d_ros.model_info import SCHEMA_VERSION

_ENCODING = "16UC1"


class TokenRefusal(str, enum.Enum):
    """Why a token image is not decoded."""

    NO_MODEL_INFO = "no_model_info"
    """Nobody said which model made it."""
    OTHER_MODEL = "other_model"
    """Another model made it, or its record does not fit the model of that name."""
    INVALID = "invalid"
    """Its layout cannot be read, or it holds what the codebook does not."""
    INVALID_CELLS = "invalid_cells"
    """Some of its cells are 65535."""


class RefusedTokensError(ValueError):
    """A token image that is not decoded; the text names what came and what was expected."""

    def __init__(self, reason: TokenRefusal, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class TokenOrigin(NamedTuple):
    """The model that made the tokens, as its record says."""

    model_id: str
    """Empty while it is unknown."""
    record: Mapping[str, Any]
    obstacle: str = ""
    """Why the model is unknown."""


UNKNOWN_ORIGIN = TokenOrigin("", {}, "no model_info has arrived")


def origin_from_json(text: str) -> TokenOrigin:
    """Origin of the tokens that follow a `~/model_info` record; a record that cannot be read gives an unknown one with the reason."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return TokenOrigin("", {}, f"model_info: expected a JSON record as the node `tokenizer` publishes it, got: {error}")
    model_id = record.get("model_id") if isinstance(record, dict) else None
    if not isinstance(model_id, str) or not model_id:
        return TokenOrigin("", {}, "model_info: expected a JSON record with the key model_id, as the node `tokenizer` publishes it; "
                                   f"got {text[:60]!r}")
    return TokenOrigin(model_id, record)


def check_origin(origin: TokenOrigin, runner: Runner) -> None:
    """Refuse tokens that the loaded model did not make.

    Raises:
        RefusedTokensError: the origin is unknown, another model, or described otherwise than this one.
    """
    loaded = f"the weights of {runner.model_id} are loaded"
    if not origin.model_id:
        raise RefusedTokensError(TokenRefusal.NO_MODEL_INFO, f"{origin.obstacle}, so it is unknown which model made the tokens; {loaded}; connect "
                                 "~/input/model_info to the tokenizer's ~/model_info, and play it before the tokens")
    if origin.model_id != runner.model_id:
        raise RefusedTokensError(TokenRefusal.OTHER_MODEL, f"model {origin.model_id} made the tokens, {loaded}; start this node with the "
                                 f"parameter weights set to those of {origin.model_id}, or make the tokens again")
    for key, expected in _fitting(runner).items():
        if origin.record.get(key) != expected:
            raise RefusedTokensError(TokenRefusal.OTHER_MODEL, f"model_info: expected {key} {expected} of model {runner.model_id}, got "
                                     f"{origin.record.get(key)}; make the tokens with this version of the package")


def _fitting(runner: Runner) -> dict[str, Any]:
    """What a record must say of tokens that the runner can decode."""
    grid = Grid(runner.config)
    return {"schema_version": SCHEMA_VERSION, "token_dtype": "uint16", "invalid_token": INVALID_TOKEN,
            "codebook_size": runner.config.quantizer.codebook_size, "grid": list(grid.tokens_HW),
            "row_axis": "y", "column_axis": "x", "region_min_m": [float(v) for v in grid.minimum_m],
            "region_max_m": [float(v) for v in grid.maximum_m]}


def tokens_from_image(message: Any, runner: Runner) -> TokenArray:
    """Token grid of an image whose origin was checked.

    Args:
        message: sensor_msgs/Image, 16UC1 of either byte order; padded rows are allowed.
    Returns:
        (H, W) uint16; row = y, column = x.
    Raises:
        RefusedTokensError: another encoding or size, fewer bytes than promised, a token beyond the codebook, or a cell of 65535.
    """
    rows, columns = Grid(runner.config).tokens_HW
    if (message.encoding, message.height, message.width) != (_ENCODING, rows, columns):
        raise RefusedTokensError(TokenRefusal.INVALID, f"tokens: expected a {_ENCODING} image of {rows} rows and {columns} columns for model "
                                 f"{runner.model_id}, got {message.encoding!r} of {message.height} rows and {message.width} columns")
    try:
        tokens: TokenArray = array_from_image(message)
    except ValueError as error:
        raise RefusedTokensError(TokenRefusal.INVALID, f"tokens: {error}") from error
    _check_cells(tokens)
    try:
        check_token_grid(tokens, runner.config, runner.model_id)
    except ValueError as error:
        raise RefusedTokensError(TokenRefusal.INVALID, str(error)) from error
    return tokens


def tokens_from_compressed(message: Any, runner: Runner) -> TokenArray:
    """Token grid of a compressed message, which names its model itself.

    Args:
        message: sensor_msgs/CompressedImage of the format `copilot4d; v1; MODEL`.
    Returns:
        (H, W) uint16; row = y, column = x.
    Raises:
        RefusedTokensError: another format or model, another prior, or bytes that were cut or altered.
    """
    expected = stream_format(runner.model_id)
    if message.format != expected:
        kind, _, model_id = message.format.rpartition("; ")
        reason = TokenRefusal.OTHER_MODEL if kind == expected.rpartition("; ")[0] else TokenRefusal.INVALID
        raise RefusedTokensError(reason, f"compressed tokens: expected the format {expected!r}, got {message.format!r}; start this node with the "
                                 f"weights of {model_id or 'the model that made them'}, and the same version of the package")
    try:
        return tokens_from_bytes(bytes(message.data), runner.model_id, runner.config, runner.prior)
    except ValueError as error:
        raise RefusedTokensError(TokenRefusal.INVALID, str(error)) from error


def _check_cells(tokens: TokenArray) -> None:
    broken = np.argwhere(tokens == INVALID_TOKEN)
    if len(broken):
        row, column = broken[0].tolist()
        raise RefusedTokensError(TokenRefusal.INVALID_CELLS, f"tokens: expected a code in every cell, {len(broken)} of {tokens.size} are "
                                 f"{INVALID_TOKEN} (not valid), the first in row {row}, column {column}; the decoder has no code for an unknown "
                                 "cell; publish whole grids")
