# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How much of the codebook live scans use: few codes tell of a sensor or a place that the model does not know."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from copilot4d_core.config import Config
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import BoolArray, FloatArray, Grid

_EVERY_S = 1.0
_WINDOW = 60
"""Scans looked at."""


class CodeUse:
    """Codes of occupied cells over the last minute, one scan a second: what it costs is not worth every scan."""

    def __init__(self, config: Config) -> None:
        self._grid, self._size = Grid(config), config.quantizer.codebook_size
        self._seen: deque[BoolArray] = deque(maxlen=_WINDOW)
        self._occupied = 0
        self._next_s = 0.0

    def note(self, tokens: TokenArray, points_m: FloatArray) -> None:
        """Look at a scan, if a second has passed.

        Args:
            tokens: (H, W).
            points_m: (N, 3) float32, metres; points outside the region are left out.
        """
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _EVERY_S
        occupied = self._grid.occupied_tokens(points_m)
        codes: BoolArray = np.zeros(self._size, dtype=bool)
        codes[tokens[occupied]] = True
        self._seen.append(codes)
        self._occupied = int(np.count_nonzero(occupied))

    def values(self) -> dict[str, str]:
        """Keys for the diagnostics: occupied cells of the last scan looked at, and the share of the codebook that they used in the window."""
        seen = list(self._seen)
        if not seen:
            return {}
        used = int(np.count_nonzero(np.logical_or.reduce(seen)))
        return {"occupied_cells": str(self._occupied), "codes_used": str(used), "codes_used_percent": f"{100 * used / self._size:.1f}"}
