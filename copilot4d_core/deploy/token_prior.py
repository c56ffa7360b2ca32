# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How likely a model's tokens are: a small network in whole numbers that tells every token from its neighbours.

What goes in: the prior file of a model. What comes out: token grids as entropy-coded bytes, and back.
Unusual: it gives the same on every machine. All products and sums are whole numbers below 2^24, which float32 holds exactly, so a matrix
product does not depend on the order in which it sums; the exponential is a table of whole roots; and what is left, one product to a
hidden unit and one quotient to a bound, IEEE 754 rounds in one way only.

A token is told in two choices: which class of codes it belongs to, then which code of the class. Both are read from the same hidden
units, which sum the embeddings of the neighbours, with other weights in each pass of `token_order.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from copilot4d_core.deploy import rans
from copilot4d_core.deploy.manifest import read_manifest
from copilot4d_core.deploy.prior_file import ENDING, HIDDEN_MAX, IN_EXPORT, Int32, Int64, PriorFile, read_prior
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.deploy.token_order import Pass, passes
from copilot4d_core.grid import FloatArray
from copilot4d_core.model_file import read_model

SCALE_BITS = 24
"""Scales are whole factors of 2^-24."""
STEPS_PER_OCTAVE = 16
WEIGHTS = np.array([math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << 256 - gap)))) for gap in range(257)] + [0], dtype=np.float64)
"""Weight of a symbol by the gap to the largest logit, in sixteenths of an octave: floor(2^16 * 2^(-gap / 16)), 0 beyond 16 octaves."""

NEVER = 2.0**26
"""Far beyond every logit, which stays below 2^24."""
TABLE_SIZE = 4096
BLOCK = 2**18

Choose = Callable[[Int32, "Int64 | None"], Int64]
"""Takes the bounds (N, S + 1) of N choices and, where they are known, the symbols; gives the symbols (N,)."""


class TokenPrior:
    """The prior of one model."""

    def __init__(self, file: PriorFile) -> None:
        arrays = file.arrays
        self.model_id, self.sha256, self.codebook_size = file.model_id, file.sha256, len(arrays.code_order)
        self._code_order, self._sizes = arrays.code_order, arrays.class_sizes.astype(np.int64)
        self._rank = np.argsort(arrays.code_order)
        self._class = np.repeat(np.arange(len(self._sizes)), self._sizes)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        # What each code adds to the hidden units as each neighbour: adding rows of tables is faster than multiplying embeddings every time.
        self._tables = arrays.embedding.astype(np.float32) @ arrays.inputs.astype(np.float32)
        self._hidden_bias = arrays.hidden_bias.astype(np.float32)
        self._hidden_scale = arrays.hidden_scale.astype(np.float32) / np.float32(2**SCALE_BITS)
        self._class_output, self._class_bias = arrays.class_output.astype(np.float32), arrays.class_bias.astype(np.float32)
        self._code_output = [np.ascontiguousarray(part, dtype=np.float32) for part in np.split(arrays.code_output, self._first[1:-1], axis=1)]
        self._code_bias = _padded(np.split(arrays.code_bias, self._first[1:-1]))
        self._weights, self._gap_unit = _weights(int(arrays.logit_scale[0]))

    @property
    def key(self) -> bytes:
        """First 8 bytes of the file's SHA-256: by what a token stream names its prior."""
        return bytes.fromhex(self.sha256[:16])

    def encode(self, tokens: TokenArray) -> bytes:
        """Entropy-coded bytes of a grid (H, W) whose every token is a code."""
        return rans.encode(*self.intervals(tokens))

    def decode(self, data: bytes, rows: int, columns: int) -> TokenArray:
        """The grid in the bytes; (rows, columns) uint16.

        Raises:
            ValueError: bytes that do not end where the grid does.
        """
        decoder = rans.Decoder(data)
        ranks = self._walk(rows, columns, lambda bounds, _: decoder.take(bounds), None)
        decoder.finish()
        return self._code_order[ranks].reshape(rows, columns)

    def intervals(self, tokens: TokenArray) -> tuple[Int64, Int64]:
        """Where each choice lies among 65536, in the order of the choices, two for a token: first number and share.

        The sum of -log2(share / 65536) is what the grid costs.
        """
        first, share = [], []

        def choose(bounds: Int32, symbols: Int64 | None) -> Int64:
            assert symbols is not None
            row = np.arange(len(bounds))
            first.append(bounds[row, symbols].astype(np.int64))
            share.append(bounds[row, symbols + 1] - first[-1])
            return symbols

        rows, columns = tokens.shape
        self._walk(rows, columns, choose, self._rank[tokens.reshape(-1)])
        return np.concatenate(first), np.concatenate(share)

    def _walk(self, rows: int, columns: int, choose: Choose, known: Int64 | None) -> Int64:
        """Ranks of all cells, chosen pass by pass; `known` are the true ones, for the encoder."""
        ranks = np.full(rows * columns + 1, self.codebook_size)
        for index, one in enumerate(passes(rows, columns)):
            hidden = self._hidden(index, one, ranks)
            mine = None if known is None else known[one.cells]
            classes = choose(self._class_bounds(hidden), None if mine is None else self._class[mine])
            order = np.argsort(classes, kind="stable")
            sorted_classes = classes[order]
            first = self._first[sorted_classes]
            within = choose(self._code_bounds(hidden.take(order, axis=0), sorted_classes), None if mine is None else mine[order] - first)
            ranks[one.cells[order]] = first + within
        return ranks[:-1]

    def _hidden(self, index: int, one: Pass, ranks: Int64) -> FloatArray:
        """(N, H) whole numbers from 0 to 255."""
        sums = self._hidden_bias[index].take(one.places, axis=0)
        for table, near in zip(self._tables[index - 1] if index else (), ranks.take(one.neighbours.T), strict=True):
            sums += table.take(near, axis=0, mode="clip")
        sums *= self._hidden_scale[index]
        return np.asarray(np.floor(np.clip(sums, 0, HIDDEN_MAX, out=sums), out=sums))

    def _class_bounds(self, hidden: FloatArray) -> Int32:
        return self._bounds(_product(hidden, self._class_output) + self._class_bias, np.full(len(hidden), len(self._sizes)))

    def _code_bounds(self, hidden: FloatArray, classes: Int64) -> Int32:
        """Of the codes within the given classes, which are sorted."""
        logits = self._code_bias.take(classes, axis=0)
        start = np.searchsorted(classes, np.arange(len(self._sizes) + 1)).tolist()
        for number, weights in enumerate(self._code_output):
            rows = slice(start[number], start[number + 1])
            if rows.start < rows.stop:
                logits[rows, :weights.shape[1]] += _product(hidden[rows], weights)
        return self._bounds(logits, self._sizes[classes])

    def _bounds(self, logits: FloatArray, sizes: Int64) -> Int32:
        """Sums of the shares before each symbol, (N, S + 1); the first `sizes` symbols of a row get one at least, the others none."""
        gap = np.minimum((logits.max(axis=1, keepdims=True) - logits) * self._gap_unit, len(self._weights) - 1)
        sums = np.cumsum(self._weights.take(gap.astype(np.int32)), axis=1)
        total = sums[:, -1:].copy()
        sums *= (rans.TOTAL - sizes)[:, None]
        sums /= total
        bounds = np.zeros((len(logits), logits.shape[1] + 1), dtype=np.int32)
        bounds[:, 1:] = sums  # cut down to whole numbers
        bounds += np.minimum(np.arange(bounds.shape[1]), sizes[:, None]).astype(np.int32)
        return bounds


def _product(rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Matrix product of (N, K) and (K, M), in blocks of rows.

    OpenBLAS starts threads for more than `BLOCK` multiplications. For matrices as small as these they gain nothing, and where other
    processes keep the cores busy, each waits for the other: a grid then takes ten times as long.
    """
    block = max(1, BLOCK // weights.size)
    if len(rows) <= block:
        return rows @ weights
    whole = len(rows) // block * block
    product = np.empty((len(rows), weights.shape[1]), dtype=np.float32)
    np.matmul(rows[:whole].reshape(-1, block, rows.shape[1]), weights, out=product[:whole].reshape(-1, block, weights.shape[1]))
    np.matmul(rows[whole:], weights, out=product[whole:])
    return product


def _weights(logit_scale: int) -> tuple[npt.NDArray[np.float64], np.float32]:
    """Weight of a symbol by the gap to the largest logit, and by what a gap is multiplied (1, 1/2, 1/4, ...) to be looked up.

    The table has at most `TABLE_SIZE` steps, so that it stays in a core's nearest cache; the last one, 0, is for all larger gaps.
    """
    steps = (len(WEIGHTS) << SCALE_BITS) // max(logit_scale, 1) + 2
    shift = max(0, steps.bit_length() - TABLE_SIZE.bit_length() + 1)
    gaps = [min((step << shift) * logit_scale >> SCALE_BITS, len(WEIGHTS) - 1) for step in range(min(steps, TABLE_SIZE))]
    return np.append(WEIGHTS[gaps], 0.0), np.float32(2.0**-shift)


def _padded(biases: list[Int32]) -> FloatArray:
    """(C, largest class): biases of the codes of each class; for a code that a class does not have, so low that its weight is 0."""
    padded = np.full((len(biases), max(map(len, biases))), -NEVER, dtype=np.float32)
    for row, bias in zip(padded, biases, strict=True):
        row[:len(bias)] = bias
    return padded


def prior_path(model: Path) -> Path:
    """Where the prior of a weights file or of an export folder lies, if it has one."""
    return model / IN_EXPORT if model.is_dir() else model.with_name(model.name.removesuffix(".safetensors") + ENDING)


def prior_of(model: Path) -> TokenPrior | None:
    """The prior of a weights file or of an export folder; None where there is none.

    Raises:
        ValueError: the model or its prior is damaged, or the prior is another model's.
    """
    path = prior_path(model)
    if not path.is_file():
        return None
    return load_prior(path, read_manifest(model).model_id if model.is_dir() else read_model(model).model_id)


def load_prior(path: Path, model_id: str) -> TokenPrior:
    """The prior of a model.

    Raises:
        ValueError: no prior, a damaged one, or one of another model.
        FileNotFoundError: no such file.
    """
    file = read_prior(path)
    if file.model_id != model_id:
        raise ValueError(f"{path}: expected the prior of model {model_id}, got that of model {file.model_id}; "
                         "fit one with `copilot4d fit-prior`, or delete it")
    return TokenPrior(file)
