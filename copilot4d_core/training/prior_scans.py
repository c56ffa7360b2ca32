# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token grids to fit a prior to: of scans as they are, of the same scans turned and shifted, and of simulated ones.

What goes in: a runner and sources of scans. What comes out: groups of token grids and how much each counts.
Unusual: a source counts by the square root of its size, as in training: a drive of 500 nearly equal scans should not drown one of 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from copilot4d_core.data.simulator import SENSORS, simulate_drive
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.evaluation.report import DataSet
from copilot4d_core.grid import FloatArray, Grid

SHIFT_XY_M, SHIFT_Z_M, SCALE, TURN_DEG = 3.0, 0.15, 0.03, 6.0
"""How far copies are moved, scaled and, if they stay along the road, turned. Our choice."""
ANY_DIRECTION = 3
"""Every so many copies, one is turned to any direction. Our choice."""
SIMULATED_SHARE = 0.1
"""Of all grids, counted by their weight."""
SCANS_PER_DRIVE = 2
Track = Callable[[Iterable[int], str], Iterable[int]]
"""Shows progress: takes what is gone through and its name."""


class Group(NamedTuple):
    """Grids of one source."""

    name: str
    tokens: TokenArray
    """(B, H, W)."""
    weight: float


def tokens_of(runner: Runner, data: DataSet, copies: int, rng: np.random.Generator, track: Track) -> TokenArray:
    """Tokens of the scans of a data set and of copies of each; (B, H, W).

    Raises:
        ValueError: no scan has points inside the model's region.
    """
    grid = Grid(runner.config)
    scans = (data.source[index] for index in track(range(len(data.source)), data.name))
    clouds = (points_m for scan in scans for points_m in _with_copies(scan.points_m, copies, rng))
    tokens = [runner.encode(points_m) for points_m in clouds if grid.inside(points_m).any()]
    if not tokens:
        raise ValueError(f"{data.name}: expected a scan with points inside the model's region, got none")
    return np.stack(tokens)


def groups(runner: Runner, data: list[DataSet], copies: int, simulated: int, rng: np.random.Generator, track: Track) -> list[Group]:
    """Grids of all data sets and of simulated scans."""
    found = [Group(one.name, tokens_of(runner, one, copies, rng, track), math.sqrt(len(one.source))) for one in data]
    if simulated:
        real = sum(group.weight for group in found)
        tokens = np.stack([runner.encode(points_m) for points_m in _simulated(track(range(simulated), "simulator"))])
        found.append(Group("simulator", tokens, real * SIMULATED_SHARE / (1 - SIMULATED_SHARE)))
    return found


def _with_copies(points_m: FloatArray, copies: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    yield points_m
    for number in range(copies):
        yield _moved(points_m, rng, along_the_road=number % ANY_DIRECTION != 0)


def _moved(points_m: FloatArray, rng: np.random.Generator, along_the_road: bool) -> FloatArray:
    """A copy that is turned, mirrored, scaled and shifted; along the road it still is driven on forwards or backwards."""
    slight = rng.normal(0, math.radians(TURN_DEG)) + math.pi * rng.integers(2)
    angle = slight if along_the_road else rng.uniform(0, 2 * math.pi)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    turn[:, 1] *= rng.choice([-1, 1])
    turn *= rng.uniform(1 - SCALE, 1 + SCALE)
    shift_m = rng.uniform([-SHIFT_XY_M, -SHIFT_XY_M, -SHIFT_Z_M], [SHIFT_XY_M, SHIFT_XY_M, SHIFT_Z_M])
    return np.ascontiguousarray(points_m @ turn.T.astype(np.float32) + shift_m.astype(np.float32))


def _simulated(indices: Iterable[int]) -> Iterator[FloatArray]:
    """One sensor after the other, a new street every second scan."""
    names = list(SENSORS)
    for index in indices:
        if index % SCANS_PER_DRIVE == 0:
            drive = index // SCANS_PER_DRIVE
            scans = simulate_drive(drive, SCANS_PER_DRIVE, names[drive % len(names)])
        yield next(scans).points_m
