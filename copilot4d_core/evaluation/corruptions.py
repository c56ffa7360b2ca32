# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Scans made wrong on purpose: weather, losses, and mounts and units that are not what the model was told.

What goes in: the points of a real scan and a random generator. What comes out: the points of a worse one, in the same frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import FloatArray

Points = npt.NDArray[np.float64]

FOG_SHARE, FOG_NEAREST_M, FOG_DEPTH_M = 0.3, 2.0, 4.0
RAIN_SHARE, RAIN_NEAREST_M = 0.05, 1.0
SECTOR_DEG = 90.0
NOISE_M = 0.2
TILT_DEG = 10.0


class Corruption(NamedTuple):
    """One way to make a scan worse."""

    apply: Callable[[Points, np.random.Generator], Points]
    """Points (N, 3) float64, metres, and a generator to points (M, 3)."""
    is_random: bool = True
    """Whether another generator gives another scan."""


def _range_m(points_m: Points) -> Points:
    return np.asarray(np.maximum(np.linalg.norm(points_m, axis=1), 1e-6))


def _at_range(points_m: Points, range_m: Points) -> Points:
    return np.asarray(points_m * (range_m / _range_m(points_m))[:, None])


def fog(points_m: Points, random: np.random.Generator) -> Points:
    """A share of the beams ends in the air near the sensor, the farther the rarer."""
    range_m = _range_m(points_m)
    near_m = FOG_NEAREST_M + random.exponential(FOG_DEPTH_M, len(range_m))
    return _at_range(points_m, np.where((random.random(len(range_m)) < FOG_SHARE) & (near_m < range_m), near_m, range_m))


def rain(points_m: Points, random: np.random.Generator) -> Points:
    """A small share of the beams ends on a drop, anywhere before its return."""
    range_m = _range_m(points_m)
    drop_m = RAIN_NEAREST_M + random.random(len(range_m)) * np.maximum(range_m - RAIN_NEAREST_M, 0)
    return _at_range(points_m, np.where(random.random(len(range_m)) < RAIN_SHARE, np.minimum(drop_m, range_m), range_m))


def shuffled(points_m: Points, random: np.random.Generator) -> Points:
    """Every beam has the distance of another one."""
    return _at_range(points_m, random.permutation(_range_m(points_m)))


def noisy(points_m: Points, random: np.random.Generator) -> Points:
    """Every coordinate is off by a normal error."""
    return np.asarray(points_m + random.normal(0.0, NOISE_M, points_m.shape))


def tilted(points_m: Points, random: np.random.Generator) -> Points:
    """The sensor leans forward or back."""
    angle = np.deg2rad(TILT_DEG) * random.choice([-1.0, 1.0])
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return np.asarray(points_m @ turn.T)


def without_sector(points_m: Points, random: np.random.Generator) -> Points:
    """All returns of a sector are lost."""
    away_deg = np.rad2deg(np.arctan2(points_m[:, 1], points_m[:, 0])) - random.uniform(-180.0, 180.0)
    return points_m[np.abs((away_deg + 180.0) % 360.0 - 180.0) > SECTOR_DEG / 2]


def _thinned(share: float) -> Corruption:
    return Corruption(lambda points_m, random: points_m[random.random(len(points_m)) < share])


def _fixed(turn: list[list[float]], shift_m: float = 0.0) -> Corruption:
    """Always the same: `turn` times the point, and up by `shift_m`."""
    matrix, shift = np.array(turn, dtype=np.float64), np.array([0.0, 0.0, shift_m])
    return Corruption(lambda points_m, random: np.asarray(points_m @ matrix.T + shift), is_random=False)


CORRUPTIONS: dict[str, Corruption] = {
    "fog: 30 % of the beams end near": Corruption(fog),
    "rain: 5 % of the beams end on a drop": Corruption(rain),
    "ranges shuffled": Corruption(shuffled),
    "noise of 0.2 m": Corruption(noisy),
    "upside down": _fixed([[1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "axes of a camera": _fixed([[0, -1, 0], [0, 0, -1], [1, 0, 0]]),
    "tilted by 10 degrees": Corruption(tilted),
    "moved up by 1 m": _fixed([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1.0),
    "moved down by 1 m": _fixed([[1, 0, 0], [0, 1, 0], [0, 0, 1]], -1.0),
    "half as large again": _fixed([[1.5, 0, 0], [0, 1.5, 0], [0, 0, 1.5]]),
    "a sector of 90 degrees lost": Corruption(without_sector),
    "half of the returns lost": _thinned(0.5),
    "9 of 10 returns lost": _thinned(0.1),
}
"""By name."""


def corrupted(corruption: Corruption, points_m: FloatArray, seed: int) -> FloatArray:
    """Points of a scan after a corruption, (N, 3) float32, the same for the same seed."""
    return np.ascontiguousarray(corruption.apply(points_m.astype(np.float64), np.random.default_rng(seed)), dtype=np.float32)
