# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How likely a cell of an octree is to hold a point, counted while coding: sender and receiver count alike.

What goes in: contexts and, for the encoder, the truth. What comes out: choices.
Unusual: counts are taken over after every `BLOCK` choices, not after each, so that a block is one array operation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from copilot4d_core.deploy import rans
from copilot4d_core.grid import BoolArray

Int64 = npt.NDArray[np.int64]
Choose = Callable[[npt.NDArray[np.int32], "BoolArray | None"], BoolArray]
"""Takes the shares of "empty" (N,) of N choices and, where it is known, the truth; gives it."""

CONTEXTS = 8 * 6**3
SIBLINGS = 3
"""How many earlier children of the node hold a point: 0, 1, more."""
BLOCK = 64
FADE = 0.5
"""Counts of the level above are worth this much: a finer level is alike, not equal."""
FIRST = 0.4
"""Counts of both outcomes to start from."""
TRUST = 2.0
"""Choices by which the counts of a context without siblings stand for those of one with."""


class OctreeModel:
    """Counts of two kinds: by context, and by context and number of siblings; the first stands in while the second has few."""

    def __init__(self) -> None:
        self._coarse = np.zeros((CONTEXTS, 2))
        self._fine = np.zeros((CONTEXTS * SIBLINGS, 2))

    def choose(self, contexts: Int64, siblings: Int64, known: BoolArray | None, choose: Choose) -> BoolArray:
        """Choose whether each of N cells holds a point, and count.

        Args:
            contexts: (N,) numbers below `CONTEXTS`.
            siblings: (N,) earlier children of the same node that hold a point.
            known: (N,) the truth, for the encoder.
        """
        fine = contexts * SIBLINGS + np.minimum(siblings, SIBLINGS - 1)
        chosen = np.zeros(len(contexts), dtype=bool)
        for start in range(0, len(contexts), BLOCK):
            block = slice(start, start + BLOCK)
            chosen[block] = choose(self._empty(contexts[block], fine[block]), None if known is None else known[block])
            outcome = chosen[block].astype(np.int64)
            np.add.at(self._coarse, (contexts[block], outcome), 1)
            np.add.at(self._fine, (fine[block], outcome), 1)
        return chosen

    def fade(self) -> None:
        """A level is done."""
        self._coarse *= FADE
        self._fine *= FADE

    def _empty(self, contexts: Int64, fine: Int64) -> npt.NDArray[np.int32]:
        """Share of "empty" among 65536, 1 to 65535."""
        coarse = self._coarse[contexts] + FIRST
        counts = self._fine[fine] + TRUST * coarse / coarse.sum(axis=1, keepdims=True)
        share = counts[:, 0] / counts.sum(axis=1) * rans.TOTAL
        return np.asarray(np.clip(share, 1, rans.TOTAL - 1).astype(np.int32))
