# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Entropy coding in whole numbers: rANS (Duda, arXiv:1311.2540), one state, the same bytes on every machine.

What goes in: for each symbol its share of 65536. What comes out: bytes, within a few bytes of the sum of -log2(share / 65536).
Unusual: it is a stack: the encoder takes the symbols last to first, so that the decoder gives them first to last. The state is a
plain Python integer; `constriction`, the library for this, has no wheel for the 64-bit Arm Linux of most robots.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right

import numpy as np
import numpy.typing as npt

SHARE_BITS = 16
TOTAL = 1 << SHARE_BITS
"""The shares of all symbols of one choice add up to this."""
WORD_BITS, LOWEST = 16, 1 << 24
"""The state stays in [LOWEST, LOWEST << WORD_BITS); it is 256 times the total at least, so that rounding costs next to nothing."""
STATE_BYTES = 5


def encode(first: npt.NDArray[np.int64], share: npt.NDArray[np.int64]) -> bytes:
    """Bytes that `Decoder` turns back into the symbols.

    Args:
        first: (N,) sum of the shares of the symbols before the chosen one, in the order in which they will be decoded.
        share: (N,) share of the chosen one, 1 to 65536.
    """
    state, words = LOWEST, array("H")
    for low, size in zip(first[::-1].tolist(), share[::-1].tolist(), strict=True):
        if state >= size << 24:
            words.append(state & 0xFFFF)
            state >>= WORD_BITS
        state = (state // size << SHARE_BITS) + state % size + low
    words.reverse()
    if sys.byteorder == "big":
        words.byteswap()
    return state.to_bytes(STATE_BYTES, "little") + words.tobytes()


class Decoder:
    """Takes symbols from bytes; whatever the bytes are, it ends after as many symbols as it is asked for."""

    def __init__(self, data: bytes) -> None:
        """Read the state.

        Raises:
            ValueError: fewer bytes than a state has, a state out of range, or half a word at the end.
        """
        self._state = int.from_bytes(data[:STATE_BYTES], "little")
        if len(data) < STATE_BYTES or len(data) % 2 != STATE_BYTES % 2 or self._state < LOWEST:
            raise ValueError(f"token stream: expected a state and whole words, got {len(data)} bytes; they were cut or altered")
        self._words = np.frombuffer(data, dtype="<u2", offset=STATE_BYTES).tolist()
        self._words.reverse()

    def take(self, bounds: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """The next symbols.

        Args:
            bounds: (N, S + 1): for each choice the sums of the shares before each of its S symbols, from 0 to 65536.
        Returns:
            (N,) numbers below S.
        Raises:
            ValueError: the bytes end before.
        """
        width, flat, taken = bounds.shape[1], np.ascontiguousarray(bounds).reshape(-1).data, []
        state, words = self._state, self._words
        for row in range(0, len(flat), width):
            slot = state & 0xFFFF
            place = bisect_right(flat, slot, row, row + width) - 1
            low = flat[place]
            state = (flat[place + 1] - low) * (state >> SHARE_BITS) + slot - low
            if state < LOWEST:
                if not words:
                    raise ValueError("token stream: expected more words, got to their end; they were cut or altered")
                state = state << WORD_BITS | words.pop()
            taken.append(place - row)
        self._state = state
        return np.array(taken, dtype=np.int64)

    def finish(self) -> None:
        """Check that all bytes were used.

        Raises:
            ValueError: words are left, or the state is not the one that the encoder started from.
        """
        if self._words or self._state != LOWEST:
            raise ValueError(f"token stream: expected their end after the last symbol, got {len(self._words)} words more; "
                             "they were altered, or something was added")
