# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token grids on disk: one scan in one `.npz` file, with the name of the model that can read it.

What goes in: (H, W) uint16 tokens and a model id. What comes out: the same, after checks.
Unusual: tokens mean nothing without their codebook, so a file of another model is refused by name.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.config import Config
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import Grid

SCHEMA_VERSION = 1
INVALID_TOKEN = 65535
"""A cell without a valid token."""
KEYS = ("tokens", "model_id", "schema_version")
LARGEST_ARRAY_BYTES = 64 * 2**20
"""No token grid comes near; a larger file is not read, a larger array not unpacked."""
NOT_READABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, MemoryError, NotImplementedError, RuntimeError, OSError, SyntaxError,
                TypeError, struct.error, tokenize.TokenError)
"""What zipfile and NumPy raise for foreign, truncated, encrypted or damaged archives."""


class TokenFile(NamedTuple):
    """What a token file holds."""

    tokens: TokenArray
    """(H, W) uint16; row = y, column = x; 65535 means not valid."""
    model_id: str


def check_tokens(tokens: npt.NDArray[np.uint16], config: Config, source: str = "tokens") -> None:
    """Refuse tokens that a model with these settings cannot have made.

    Args:
        source: what the message starts with, such as the file's path.
    Raises:
        ValueError: other shape or dtype, or a token that is neither a code nor 65535.
    """
    shape, size = Grid(config).tokens_HW, config.quantizer.codebook_size
    if tokens.dtype != np.uint16 or tokens.shape != shape:
        raise ValueError(f"{source}: expected tokens uint16 of shape {shape} (preset {config.name}), "
                         f"got {tokens.dtype} of shape {tokens.shape}")
    wrong = tokens[(tokens >= size) & (tokens != INVALID_TOKEN)]
    if wrong.size:
        raise ValueError(f"{source}: expected every token below {size} or {INVALID_TOKEN} (not valid), got {int(wrong[0])}")


def save_tokens(path: Path, tokens: TokenArray, model_id: str, config: Config) -> None:
    """Write a token file; an existing one is replaced at once or left as it was.

    Raises:
        ValueError: the tokens do not fit the settings, or the model id is empty.
        FileNotFoundError: the folder does not exist.
    """
    check_tokens(tokens, config)
    if not model_id:
        raise ValueError("token file: expected the id of the model that made the tokens, got an empty text")
    with replacing_file(path) as file:
        np.savez_compressed(file, tokens=tokens, model_id=np.array(model_id), schema_version=np.array(SCHEMA_VERSION))


def load_tokens(path: Path) -> TokenFile:
    """Read a token file; whether a model can use it is for `check_model`.

    Raises:
        ValueError: no token file, a truncated one, or one of another version; the message names the file.
        FileNotFoundError: no such file.
    """
    tokens, model_id, version = _read_arrays(path)
    if version.shape or version.dtype.kind not in "iu" or int(version) != SCHEMA_VERSION:
        raise ValueError(f"{path}: expected token file version {SCHEMA_VERSION}, got {version}; encode the scan again")
    if tokens.ndim != 2 or tokens.dtype != np.uint16 or model_id.shape or model_id.dtype.kind != "U":
        raise ValueError(f"{path}: expected tokens uint16 of shape (rows, columns) and model_id as one text, "
                         f"got {tokens.dtype} of shape {tokens.shape} and {model_id.dtype} of shape {model_id.shape}")
    return TokenFile(tokens, str(model_id))


def _read_arrays(path: Path) -> tuple[npt.NDArray[Any], ...]:
    with path.open("rb") as file:
        data = file.read(LARGEST_ARRAY_BYTES + 1)
    try:
        if len(data) > LARGEST_ARRAY_BYTES:
            raise ValueError(f"a file of more than {LARGEST_ARRAY_BYTES} bytes")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return tuple(_array(archive, f"{key}.npy") for key in KEYS)
    except NOT_READABLE as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"{path}: expected a whole token file (.npz with the arrays {', '.join(KEYS)}, as `copilot4d encode` "
                         f"writes it), got: {reason}") from error


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """One array of the archive; it holds as many bytes as its header says, which is looked at before any memory is taken for them."""
    size = archive.getinfo(name).file_size
    if size > LARGEST_ARRAY_BYTES:
        raise ValueError(f"an array of {size} bytes")
    data = io.BytesIO(archive.read(name))
    version = np.lib.format.read_magic(data)
    if version != (1, 0):
        raise ValueError(f"an array of NumPy's format {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(data)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - data.tell():
        raise ValueError(f"{size - data.tell()} bytes of an array {dtype} of shape {shape}" + (", which needs pickle" if dtype.hasobject else ""))
    data.seek(0)
    return np.asarray(np.lib.format.read_array(data, allow_pickle=False))


def check_model(path: Path, file: TokenFile, model_id: str, config: Config) -> None:
    """Refuse a token file that this model did not write.

    Raises:
        ValueError: the file names another model, or its tokens do not fit this one.
    """
    if file.model_id != model_id:
        raise ValueError(f"{path}: expected tokens of model {model_id}, got tokens of model {file.model_id}; "
                         f"pass --weights with the weights of {file.model_id}, or encode the scan again")
    check_tokens(file.tokens, config, str(path))
