# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The prior of a model's tokens on disk: whole numbers in safetensors, beside the weights. Needs NumPy only.

What goes in: arrays and the id of their model. What comes out: the same, after checks that keep every later sum exact.
Unusual: a prior belongs to one model; beside another model's weights it is refused, because it would cost bits and say nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.deploy.token_order import BINS, NEIGHBOURS, number_of_passes
from copilot4d_core.tensor_file import read_arrays, write_arrays

FORMAT, FORMAT_VERSION = "copilot4d-prior", 1
ENDING = ".prior.safetensors"
IN_EXPORT = "prior.safetensors"
"""Name of the prior in a folder of `copilot4d export`."""
LARGEST_BYTES = 4 * 2**20
"""No prior comes near; a larger file is not read."""
EXACT = 2**24
"""Whole numbers below this are exact in float32, and so is every sum of products that stays below it."""
SMALLEST_LOGIT_SCALE = 2**8
"""Below this a code that a class does not have would get a share; of a fitted prior it is thousands."""
HIDDEN_MAX = 255
"""Hidden units are cut off here."""

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class PriorArrays(NamedTuple):
    """P passes, S codes in C classes, D numbers an embedding, H hidden units. A code's rank is its place in `code_order`."""

    code_order: npt.NDArray[np.uint16]
    """(S,): all codes, class by class."""
    class_sizes: npt.NDArray[np.uint16]
    """(C,): codes in each class."""
    embedding: Int8
    """(S + 1, D): of the codes by rank, and of what lies beyond the edge."""
    inputs: Int8
    """(P - 1, NEIGHBOURS, D, H): from the neighbours' embeddings to the hidden units; the first pass has no neighbours."""
    hidden_bias: npt.NDArray[np.int16]
    """(P, BINS * BINS, H): by pass and place in the grid."""
    hidden_scale: Int32
    """(P, H): factors of 2^-24."""
    class_output: Int8
    """(H, C)."""
    class_bias: Int32
    """(C,)."""
    code_output: Int8
    """(H, S), by rank."""
    code_bias: Int32
    """(S,), by rank."""
    logit_scale: Int32
    """(1,): factor of 2^-24 to sixteenths of an octave."""


class PriorFile(NamedTuple):
    """A prior as it lies on disk."""

    arrays: PriorArrays
    model_id: str
    provenance: dict[str, Any]
    """What it was fitted to and how."""
    sha256: str


def write_prior(path: Path, arrays: PriorArrays, model_id: str, provenance: dict[str, Any]) -> None:
    """Write a prior; an existing file is replaced at once or left as it was.

    Raises:
        ValueError: arrays that are no prior.
    """
    _check(path, arrays)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "model_id": model_id, "provenance": provenance}
    write_arrays(path, arrays._asdict(), header)


def read_prior(path: Path) -> PriorFile:
    """Read and check a prior.

    Raises:
        ValueError: no prior, one of another version, or a damaged one; the message names the file.
        FileNotFoundError: no such file.
    """
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{path}: expected a prior below {LARGEST_BYTES} bytes, got {path.stat().st_size}")
    tensors, header = read_arrays(path, "a prior (.safetensors of `copilot4d fit-prior`)")
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: expected format {FORMAT} version {FORMAT_VERSION}, got {header.get('format')!r} version "
                         f"{header.get('format_version')!r}; fit it with this version of copilot4d")
    if tensors.keys() != set(PriorArrays._fields) or not isinstance(header.get("model_id"), str):
        raise ValueError(f"{path}: expected a model id and the arrays {', '.join(PriorArrays._fields)}, got {', '.join(sorted(tensors))}")
    arrays = PriorArrays(**tensors)
    _check(path, arrays)
    return PriorFile(arrays, header["model_id"], header.get("provenance", {}), hashlib.sha256(path.read_bytes()).hexdigest())


def _check(path: Path, arrays: PriorArrays) -> None:
    """Refuse arrays that do not fit together, or whose sums might not be exact."""
    wanted = _expected(arrays)
    for name, array in arrays._asdict().items():
        dtype, shape = wanted[name]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{path}: expected {name} {np.dtype(dtype)} of shape {shape}, got {array.dtype} of shape {array.shape}")
    codes = arrays.code_order
    if not np.array_equal(np.sort(codes), np.arange(len(codes))) or arrays.class_sizes.sum(dtype=np.int64) != len(codes) or 0 in arrays.class_sizes:
        raise ValueError(f"{path}: expected every code once and classes that hold all of them, got others; the file is damaged")
    lows = ((arrays.hidden_scale, 0), (arrays.logit_scale, SMALLEST_LOGIT_SCALE))
    if any((scale < low).any() or (scale >= EXACT).any() for scale, low in lows) or _largest_sum(arrays) >= EXACT:
        raise ValueError(f"{path}: expected scales from 0 (logit_scale: {SMALLEST_LOGIT_SCALE}) and sums, all below {EXACT}, so that they are exact, "
                         "got others; the file is damaged")


def _expected(arrays: PriorArrays) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    codes, classes, count = max(arrays.code_order.size, 1), max(arrays.class_sizes.size, 1), number_of_passes()
    dim, hidden = max(arrays.embedding.size // (codes + 1), 1), max(arrays.class_output.size // classes, 1)
    return {"code_order": (np.uint16, (codes,)), "class_sizes": (np.uint16, (classes,)), "embedding": (np.int8, (codes + 1, dim)),
            "inputs": (np.int8, (count - 1, NEIGHBOURS, dim, hidden)), "hidden_bias": (np.int16, (count, BINS * BINS, hidden)),
            "hidden_scale": (np.int32, (count, hidden)), "class_output": (np.int8, (hidden, classes)), "class_bias": (np.int32, (classes,)),
            "code_output": (np.int8, (hidden, codes)), "code_bias": (np.int32, (codes,)), "logit_scale": (np.int32, (1,))}


def _largest_sum(arrays: PriorArrays) -> int:
    """What a bias and a sum of products can reach together at most."""
    def reach(weights: Int8, axis: int | tuple[int, ...], factor: int, bias: npt.NDArray[np.signedinteger]) -> int:
        return int(abs(weights.astype(np.int64)).sum(axis=axis).max()) * factor + int(abs(bias.astype(np.int64)).max())

    largest = int(abs(arrays.embedding.astype(np.int64)).max())
    return max(reach(arrays.inputs, (1, 2), largest, arrays.hidden_bias), reach(arrays.class_output, 0, HIDDEN_MAX, arrays.class_bias),
               reach(arrays.code_output, 0, HIDDEN_MAX, arrays.code_bias))
