# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""At which azimuths the beams of a spinning LiDAR fire, found in its returns.

What goes in: the azimuth and the beam of each return, scan by scan. What comes out: columns of a turn, and how far each beam looks beside
its column.
Unusual: a motor does not turn evenly, so azimuths are compared with those nearby, never across the turn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

SMALLEST_STEP_RAD = np.deg2rad(0.02)
"""Two returns of one beam that are nearer to each other are of one shot."""
LARGEST_SHARE = 1.75
"""Of a step: a larger one has a lost return in it. Encoders are coarse, so single steps come as a half and one and a half, too."""
ROUNDS = 8
LEAST_AGREEMENT = 0.9
"""Length of the mean of unit vectors (1: all alike, 0: none) from which on the returns agree on their offset."""


class FiredBeams(NamedTuple):
    """Returns of one turn."""

    azimuth_rad: Doubles
    """(N,)."""
    beam: Indices
    """(N,): number of the beam."""


def azimuth_step_rad(turns: list[FiredBeams]) -> float:
    """Angle between two shots of a beam, the mean over the turns; NaN where no beam has two returns."""
    steps = np.concatenate([np.zeros(0), *(_steps(turn) for turn in turns)])
    if not len(steps):
        return float("nan")
    step = float(np.median(steps))
    for _ in range(ROUNDS):
        step = float(np.mean(steps[steps <= LARGEST_SHARE * step]))
    return step


def _steps(turn: FiredBeams) -> Doubles:
    """Angles between neighbouring returns of one beam, of the beams that lost fewest."""
    counts = np.bincount(turn.beam)
    full = counts >= np.median(counts[counts > 0])
    kept = full[turn.beam]
    beam, azimuth = turn.beam[kept], turn.azimuth_rad[kept]
    order = np.lexsort((azimuth, beam))
    steps = np.diff(azimuth[order])[np.diff(beam[order]) == 0]
    return np.asarray(steps[steps > SMALLEST_STEP_RAD])


def azimuth_offsets_rad(turns: list[FiredBeams], beams: int, step_rad: float) -> Doubles:
    """How far each beam looks to the left of the beam with most returns, from minus half a step to half a step.

    More is no matter: a whole step more is the next column.

    Returns:
        (beams,), or (0,) where the returns of most beams do not agree, as where every turn's columns are others.
    """
    reference = int(np.argmax(sum(np.bincount(turn.beam, minlength=beams) for turn in turns)))
    vectors, counts = np.zeros(beams, dtype=np.complex128), np.zeros(beams)
    for turn in turns:
        columns = np.sort(turn.azimuth_rad[turn.beam == reference])
        if not len(columns):
            continue
        beside = turn.azimuth_rad - columns[_nearest(columns, turn.azimuth_rad)]
        near = np.abs(beside) <= step_rad
        turned = np.exp(2j * np.pi * beside[near] / step_rad)
        vectors += np.bincount(turn.beam[near], turned.real, beams) + 1j * np.bincount(turn.beam[near], turned.imag, beams)
        counts += np.bincount(turn.beam[near], minlength=beams)
    agreement = np.abs(vectors) / np.maximum(counts, 1)
    if np.median(agreement) < LEAST_AGREEMENT:
        return np.zeros(0)
    return np.where(agreement >= LEAST_AGREEMENT, np.angle(vectors) * step_rad / (2 * np.pi), 0.0)


def _nearest(sorted_values: Doubles, values: Doubles) -> Indices:
    after = np.clip(np.searchsorted(sorted_values, values), 1, max(1, len(sorted_values) - 1))
    after = np.minimum(after, len(sorted_values) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(values - sorted_values[before] < sorted_values[after] - values, before, after)
