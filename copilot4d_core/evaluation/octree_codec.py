# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A cloud as the occupied cells of a uniform grid, coded as an octree: the plain rival that a tokenizer must beat.

What goes in: points and a grid step. What comes out: bytes, and from them the centre of every occupied cell.
Unusual: the eight children of a node are eight passes over a whole level, so that a child is told from neighbours on both sides and
everything is done by array operations. Shares are counted while coding (`octree_model.py`); nothing is fitted beforehand.

All numbers are little-endian: three float32 of the grid's lower corner and one of its step, in metres; levels (1 byte); cells (4 bytes); then
the state and words of `deploy/rans.py`. A level comes after the one above it. A choice is 1 where the child holds a point; the last
child of a node whose others are empty is not asked for.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.deploy import rans
from copilot4d_core.evaluation.octree_model import Choose, OctreeModel
from copilot4d_core.grid import BoolArray, FloatArray

Cells = npt.NDArray[np.int64]
"""(N, 3) whole numbers, each row once, in the order of `_keys`."""
HEADER = struct.Struct("<4fBI")
DEEPEST = 16
"""Levels: a step of 80 m / 65536 = 1.2 mm and coarser."""
KEY_BITS = DEEPEST + 2
CHILDREN = np.array([[(child >> axis) & 1 for axis in range(3)] for child in range(8)], dtype=np.int64)
"""Steps (x, y, z) of the eight children: bit 0 of a child's number is x, bit 2 is z."""
SIDES = np.concatenate([-np.eye(3, dtype=np.int64), np.eye(3, dtype=np.int64)])
"""Steps to the six nodes that share a face: the three below, then the three above."""


class Level(NamedTuple):
    """The nodes of one level and what they know of each other."""

    nodes: Cells
    beside: npt.NDArray[np.int64]
    """(6, N) number of the node at each of `SIDES`; N where there is none."""


def encode(points_m: FloatArray, step_m: float, minimum_m: FloatArray) -> bytes:
    """Bytes of the cells that hold a point.

    Args:
        points_m: (N, 3) float32, metres, none below the minimum.
        step_m: edge of a cell.
        minimum_m: (3,) float32, metres: lower corner of the grid.
    Raises:
        ValueError: no points, points below the minimum, or a step so small that the grid needs more than `DEEPEST` levels.
    """
    cells = _cells(points_m, np.float32(step_m), minimum_m)
    levels = max(int(cells.max()).bit_length(), 1)
    first: list[npt.NDArray[np.int64]] = []
    share: list[npt.NDArray[np.int64]] = []

    def choose(empty: npt.NDArray[np.int32], known: BoolArray | None) -> BoolArray:
        assert known is not None
        first.append(np.where(known, empty, 0).astype(np.int64))
        share.append(np.where(known, rans.TOTAL - empty, empty).astype(np.int64))
        return known

    model, nodes = OctreeModel(), np.zeros((1, 3), dtype=np.int64)
    for below in range(levels - 1, -1, -1):
        children = _distinct(cells >> below)
        _children(nodes, choose, model, _occupancy(nodes, children))
        nodes = children
    head = HEADER.pack(*minimum_m.astype(np.float32).tolist(), step_m, levels, len(cells))
    return head + rans.encode(np.concatenate(first), np.concatenate(share))


def decode(data: bytes) -> FloatArray:
    """Centres of the occupied cells; (N, 3) float32, metres.

    Raises:
        ValueError: bytes that were cut or altered.
    """
    if len(data) < HEADER.size:
        raise ValueError(f"octree: expected a header of {HEADER.size} bytes, got {len(data)} bytes; the rest is missing")
    *minimum_m, step_m, levels, count = HEADER.unpack_from(data)
    if not (np.isfinite([*minimum_m, step_m]).all() and step_m > 0 and 1 <= levels <= DEEPEST):
        raise ValueError(f"octree: expected a finite corner, a step above 0 m and 1 to {DEEPEST} levels, got {minimum_m}, {step_m} and {levels}")
    decoder, model = rans.Decoder(data[HEADER.size:]), OctreeModel()

    def choose(empty: npt.NDArray[np.int32], known: BoolArray | None) -> BoolArray:
        bounds = np.stack([np.zeros_like(empty), empty, np.full_like(empty, rans.TOTAL)], axis=1)
        return decoder.take(bounds).astype(bool)

    nodes = np.zeros((1, 3), dtype=np.int64)
    for _ in range(levels):
        node, child = np.nonzero(_children(nodes, choose, model, None))
        if len(node) > count:
            raise ValueError(f"octree: expected {count} cells, got {len(node)}; the bytes were altered")
        nodes = _distinct(2 * nodes[node] + CHILDREN[child])
    decoder.finish()
    if len(nodes) != count:
        raise ValueError(f"octree: expected {count} cells, got {len(nodes)}; the bytes were altered")
    return np.asarray((nodes + 0.5) * step_m + minimum_m, dtype=np.float32)


def _cells(points_m: FloatArray, step_m: np.float32, minimum_m: FloatArray) -> Cells:
    if not len(points_m):
        raise ValueError("octree: expected at least one point, got an empty cloud")
    cells = np.floor((points_m.astype(np.float64) - minimum_m) / np.float64(step_m)).astype(np.int64)
    if cells.min() < 0:
        raise ValueError(f"octree: expected points from {minimum_m.tolist()} m on, got {points_m.min(axis=0).tolist()}")
    if cells.max() >= 2**DEEPEST:
        raise ValueError(f"octree: expected at most {2**DEEPEST} cells along an axis, got {cells.max() + 1}; choose a step above {step_m} m")
    return _distinct(cells)


def _keys(cells: Cells) -> npt.NDArray[np.int64]:
    """One number a cell; cells may lie one step outside the grid."""
    return np.asarray((((cells[:, 0] + 1) << KEY_BITS) + cells[:, 1] + 1 << KEY_BITS) + cells[:, 2] + 1)


def _distinct(cells: Cells) -> Cells:
    _, first = np.unique(_keys(cells), return_index=True)
    return np.asarray(cells[first])


def _level(nodes: Cells) -> Level:
    keys = _keys(nodes)
    wanted = np.stack([_keys(nodes + side) for side in SIDES])
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return Level(nodes, np.where(keys[place] == wanted, place, len(keys)))


def _occupancy(nodes: Cells, children: Cells) -> BoolArray:
    """(N, 8): which children of each node hold a point."""
    occupied = np.zeros((len(nodes), 8), dtype=bool)
    occupied[np.searchsorted(_keys(nodes), _keys(children >> 1)), (children & 1) @ np.array([1, 2, 4])] = True
    return occupied


def _children(nodes: Cells, choose: Choose, model: OctreeModel, known: BoolArray | None) -> BoolArray:
    """(N, 8): which children of each node hold a point, chosen child by child; `known` are the true ones, for the encoder."""
    level = _level(nodes)
    occupied = np.zeros((len(nodes) + 1, 8), dtype=bool)  # the last row stands for a node that is not there
    for child in range(8):
        before = occupied[:-1, :child].sum(axis=1)
        asked = np.flatnonzero(before) if child == 7 else np.arange(len(nodes))
        occupied[:-1, child] = True
        contexts = _contexts(child, level, occupied)[asked]
        truth = None if known is None else known[asked, child]
        occupied[asked, child] = model.choose(contexts, before[asked], truth, choose)
    model.fade()
    return occupied[:-1]


def _contexts(child: int, level: Level, occupied: BoolArray) -> npt.NDArray[np.int64]:
    """(N,) what is known around one child of every node, as one number below `octree_model.CONTEXTS`.

    Along each axis: whether the sibling holds a point, and of the cell on the other side whether its node is empty (0) or not (1) or
    the cell itself holds a point (2). A sibling or a cell that is coded later counts as empty.
    """
    number = np.full(len(level.nodes), child)
    for axis in range(3):
        upper = child >> axis & 1
        beside = level.beside[3 * upper + axis]
        number = number * 6 + (beside < len(level.nodes))
        if upper:  # only then sibling and cell, which are the lower children of their nodes, are coded already
            lower = child - (1 << axis)
            number += 3 * occupied[:-1, lower] + occupied[beside, lower]
    return number
