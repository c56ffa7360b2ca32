# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The network of a token prior while it is fitted: floats, its loss in bits and the gradient by hand. NumPy only, no torch.

What goes in: token grids as ranks of codes, sorted by class. What comes out: bits a token and the gradient of every parameter.
Unusual: the network is that of `deploy/token_prior.py`; there it is told in whole numbers, `prior_quantization.py` turns this one into it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from copilot4d_core.deploy.prior_file import Int64
from copilot4d_core.deploy.token_order import BINS, NEIGHBOURS, number_of_passes, passes
from copilot4d_core.grid import FloatArray, IntArray

EMBEDDING_DIM, HIDDEN = 24, 64
Parameters = dict[str, FloatArray]


class Losses(NamedTuple):
    """What one batch gives."""

    bits: FloatArray
    """(B * cells,): cost of every token, pass by pass."""
    gradient: Parameters
    """Of the mean cost in natural units; by the names of the parameters."""


def first_parameters(counts: Int64, number_of_classes: int, rng: np.random.Generator) -> Parameters:
    """Parameters to start from.

    Args:
        counts: (S,) how often each code occurs, by rank.
    """
    def normal(spread: float, *shape: int) -> FloatArray:
        return rng.normal(0, spread, shape).astype(np.float32)

    count, fan_in = number_of_passes(), NEIGHBOURS * EMBEDDING_DIM
    return {"embedding": normal(0.3, len(counts) + 1, EMBEDDING_DIM), "inputs": normal(fan_in**-0.5, count - 1, fan_in, HIDDEN),
            "hidden_bias": np.full((count, HIDDEN), 0.1, dtype=np.float32), "place_bias": np.zeros((count, BINS * BINS, HIDDEN), dtype=np.float32),
            "class_output": normal(HIDDEN**-0.5, HIDDEN, number_of_classes), "class_bias": np.zeros(number_of_classes, dtype=np.float32),
            "code_output": normal(0.5 * HIDDEN**-0.5, HIDDEN, len(counts)), "code_bias": np.log(counts + 10.0).astype(np.float32)}


class PriorNetwork:
    """One grid size and one division of the codes into classes."""

    def __init__(self, rows: int, columns: int, class_sizes: Int64) -> None:
        self._passes = passes(rows, columns)
        self._class = np.repeat(np.arange(len(class_sizes)), class_sizes)
        self._first = np.concatenate([[0], np.cumsum(class_sizes)])

    def hidden(self, parameters: Parameters, ranks: IntArray) -> list[FloatArray]:
        """Sums of the hidden units before they are cut off at 0, one array (B * N, H) a pass, of grids (B, cells)."""
        return [self._sums(parameters, index, inputs, len(ranks)) for index, inputs in enumerate(self._inputs(parameters, ranks))]

    def losses(self, parameters: Parameters, ranks: IntArray) -> Losses:
        """Cost and gradient of grids (B, cells) of ranks."""
        inputs = self._inputs(parameters, ranks)
        sums = np.concatenate([self._sums(parameters, index, one, len(ranks)) for index, one in enumerate(inputs)])
        truth = np.concatenate([ranks[:, one.cells].reshape(-1) for one in self._passes])
        gradient: Parameters = {}
        bits, by_hidden = self._output(parameters, np.maximum(sums, 0), truth, gradient)
        self._input_gradient(parameters, ranks, inputs, by_hidden * (sums > 0), gradient)
        return Losses(bits, gradient)

    def _neighbours(self, ranks: IntArray) -> list[IntArray]:
        edge = np.full((len(ranks), 1), len(self._class), dtype=np.int32)
        padded = np.concatenate([ranks, edge], axis=1)
        return [padded[:, one.neighbours].reshape(len(ranks) * len(one.cells), -1 if one.neighbours.size else 0) for one in self._passes]

    def _inputs(self, parameters: Parameters, ranks: IntArray) -> list[FloatArray]:
        return [parameters["embedding"][near].reshape(len(near), near.shape[1] * EMBEDDING_DIM) for near in self._neighbours(ranks)]

    def _sums(self, parameters: Parameters, index: int, inputs: FloatArray, grids: int) -> FloatArray:
        bias = parameters["hidden_bias"][index] + parameters["place_bias"][index][self._passes[index].places]
        sums = np.tile(bias, (grids, 1))
        return sums + inputs @ parameters["inputs"][index - 1] if index else sums

    def _output(self, parameters: Parameters, hidden: FloatArray, truth: IntArray, gradient: Parameters) -> tuple[FloatArray, FloatArray]:
        """Bits of every token and the gradient by the hidden units; classes first, then the codes of each class."""
        classes = self._class[truth]
        bits, error = _softmax_loss(hidden @ parameters["class_output"] + parameters["class_bias"], classes, len(truth))
        gradient["class_output"], gradient["class_bias"] = hidden.T @ error, error.sum(axis=0)
        by_hidden = error @ parameters["class_output"].T
        gradient["code_output"], gradient["code_bias"] = np.zeros_like(parameters["code_output"]), np.zeros_like(parameters["code_bias"])
        order = np.argsort(classes, kind="stable")
        for rows in np.split(order, np.cumsum(np.bincount(classes, minlength=len(self._first) - 1))[:-1]):
            if not len(rows):
                continue
            number = classes[rows[0]]
            codes = slice(self._first[number], self._first[number + 1])
            weights = parameters["code_output"][:, codes]
            more, error = _softmax_loss(hidden[rows] @ weights + parameters["code_bias"][codes], truth[rows] - codes.start, len(truth))
            bits[rows] += more
            gradient["code_output"][:, codes], gradient["code_bias"][codes] = hidden[rows].T @ error, error.sum(axis=0)
            by_hidden[rows] += error @ weights.T
        return bits, by_hidden

    def _input_gradient(self, parameters: Parameters, ranks: IntArray, inputs: list[FloatArray], by_sums: FloatArray,
                        gradient: Parameters) -> None:
        for name in ("inputs", "hidden_bias", "place_bias"):
            gradient[name] = np.zeros_like(parameters[name])
        parts = np.split(by_sums, np.cumsum([len(one) for one in inputs])[:-1])
        by_embedding = []
        for index, (one, error) in enumerate(zip(self._passes, parts, strict=True)):
            by_cell = error.reshape(len(ranks), len(one.cells), -1).sum(axis=0)
            gradient["hidden_bias"][index] = by_cell.sum(axis=0)
            gradient["place_bias"][index] = _sum_by(one.places, by_cell, BINS * BINS)
            if index:
                gradient["inputs"][index - 1] = inputs[index].T @ error
                by_embedding.append((error @ parameters["inputs"][index - 1].T).reshape(-1, EMBEDDING_DIM))
        near = np.concatenate([one.reshape(-1) for one in self._neighbours(ranks)])
        gradient["embedding"] = _sum_by(near, np.concatenate(by_embedding), len(parameters["embedding"]))


def _softmax_loss(logits: FloatArray, truth: Int64, tokens: int) -> tuple[FloatArray, FloatArray]:
    """Bits of the true symbols, and the gradient by the logits of the natural cost divided by the number of tokens."""
    rows = np.arange(len(truth))
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    logits /= logits.sum(axis=1, keepdims=True)
    bits = -np.log2(np.maximum(logits[rows, truth], np.float32(1e-30)))
    logits[rows, truth] -= 1
    return bits, logits / np.float32(tokens)


def _sum_by(index: IntArray, rows: FloatArray, size: int) -> FloatArray:
    """Sum of the rows that share an index; (size, columns)."""
    ones = np.ones(len(index), dtype=np.float32)
    return np.asarray(csr_array((ones, (index, np.arange(len(index)))), shape=(size, len(index))) @ rows)
