# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The order in which a token grid is coded: from a coarse lattice to the cells between, in passes.

What goes in: a grid's size. What comes out: for every pass its cells, and for every cell the nearest ones that earlier passes coded.
Unusual: the cells of one pass know nothing of each other, so that a whole pass is decoded by a few array operations.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import IntArray

PERIOD = 8
"""The order repeats after so many rows and columns."""
NEIGHBOURS = 16
"""A cell looks at this many earlier ones."""
BINS = 8
"""Where a cell lies is told in so many steps from the middle of the grid to its edge, along y and along x."""


class Pass(NamedTuple):
    """Cells that are coded together. Cells are numbered row by row."""

    cells: IntArray
    """(N,) int32."""
    neighbours: IntArray
    """(N, NEIGHBOURS) int32, the nearest first; the number of cells for one beyond the edge. (N, 0) in the first pass."""
    places: IntArray
    """(N,) int32: bin of the distance from the middle along y, times `BINS`, plus that along x."""


@lru_cache(maxsize=8)
def passes(rows: int, columns: int) -> tuple[Pass, ...]:
    """All passes of a grid, first to last."""
    row, column = np.mgrid[:rows, :columns]
    number = _pattern()[row % PERIOD, column % PERIOD]
    places = abs(2 * row + 1 - rows) * BINS // rows * BINS + abs(2 * column + 1 - columns) * BINS // columns
    result = []
    for index in range(number_of_passes()):
        mine, near = number == index, nearest(index)
        y, x = row[mine][:, None] + near[:, 0], column[mine][:, None] + near[:, 1]
        inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
        result.append(Pass((row * columns + column)[mine].astype(np.int32),
                           np.where(inside, y * columns + x, rows * columns).astype(np.int32), places[mine].astype(np.int32)))
    return tuple(result)


def number_of_passes() -> int:
    """How many passes there are, whatever the grid's size."""
    return int(_pattern().max()) + 1


def nearest(index: int) -> npt.NDArray[np.int64]:
    """Steps (rows, columns) from any cell of a pass to the nearest cells of earlier passes; (NEIGHBOURS, 2), (0, 2) in the first pass."""
    pattern, reach = _pattern(), np.arange(-2 * PERIOD, 2 * PERIOD + 1)
    y, x = (steps.reshape(-1) for steps in np.meshgrid(reach, reach, indexing="ij"))
    mine = np.argwhere(pattern == index)
    is_known = (pattern[(mine[:, :1] + y) % PERIOD, (mine[:, 1:] + x) % PERIOD] < index).all(axis=0)
    steps = np.stack([y, x], axis=1)[is_known]
    return np.asarray(steps[np.argsort((steps**2).sum(axis=1), kind="stable")][:NEIGHBOURS])


@cache
def _pattern() -> npt.NDArray[np.int64]:
    """Number of the pass of each cell of one period.

    A lattice of spacing s is filled in to one of s / 2: first the middles of its squares, then those of its rows, then those of its
    columns. The last three, with most of the cells, are taken in two halves each, as the black and the white fields of a chess board.
    """
    row, column = np.mgrid[:PERIOD, :PERIOD]
    pattern, number = np.zeros((PERIOD, PERIOD), dtype=np.int64), 1
    for spacing in (8, 4, 2):
        half = spacing // 2
        for y, x in ((half, half), (0, half), (half, 0)):
            mine = (row % spacing == y) & (column % spacing == x)
            white = (row // 2 + column // 2) % 2 if spacing == 2 else np.zeros_like(row)
            for colour in range(white.max() + 1):
                pattern[mine & (white == colour)] = number
                number += 1
    return pattern
