# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which sensor recorded these scans? Its beams, columns and ranges, found in the returns alone.

What goes in: some scans of one sensor, in its own frame. What comes out: a `BeamPattern`, and how well it explains the returns.
Unusual: no ring number is needed, and none is trusted: the beams are the lines that the returns lie on (`beam_lines.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.beam_azimuths import FiredBeams, azimuth_offsets_rad, azimuth_step_rad
from copilot4d_core.data.beam_lines import BeamLines, Doubles, find_beams
from copilot4d_core.data.scan import Scan, ScanSource
from copilot4d_core.data.sensors import BeamPattern

NEAR_M, FAR_M = 1.0, 5.0
"""Nearer returns tell nothing about the beams; those beyond `FAR_M` tell where they fire, too."""
MOST_RETURNS = 100_000
"""So many returns, of all scans together, are enough to find the beams."""
FEWEST_RETURNS = 1_000
EXPLAINED_SHARE = 0.9
"""Of the returns: a pattern that explains fewer is refused. Where there are no beams, half of them would be explained."""
STRAY_SHARE = 1e-4
"""Of the returns, that do not count as the nearest or farthest one: single strays."""
LEAST_HEIGHT_M = 0.005
"""Beams that all start nearer to the origin than this start at it."""
MOST_SCANS = 20


class FittedSensor(NamedTuple):
    """A sensor, and what speaks for it."""

    pattern: BeamPattern
    explained: float
    """Share of the returns within a quarter of the gap to the next beam; 0.5 means nothing."""
    off_deg: float
    """Median distance of a return from its beam."""
    scans: int
    returns: int


def some_scans(sources: Sequence[ScanSource], most: int = MOST_SCANS) -> list[Scan]:
    """At most so many scans, spread evenly over the sources one after the other."""
    places = [(source, index) for source in sources for index in range(len(source))]
    return [source[index] for source, index in places[::math.ceil(len(places) / most) or 1]]


def fit_sensor(scans: Sequence[Scan], name: str) -> FittedSensor:
    """The sensor that recorded some scans.

    Args:
        scans: of one sensor, in its frame; one is enough, more see more.
        name: of the sensor, for its file.
    Raises:
        ValueError: too few returns, or they lie on no beams: points of two sensors, or moved to one moment.
    """
    clouds = [scan.points_m.astype(np.float64) - scan.origin_m for scan in scans]
    range_m = np.sort(np.concatenate([np.zeros(0), *(np.linalg.norm(cloud, axis=1) for cloud in clouds)]))
    if len(range_m) < FEWEST_RETURNS:
        raise ValueError(f"fit-sensor: expected at least {FEWEST_RETURNS} returns, got {len(range_m)} in {len(scans)} scans; pass more scans")
    lines = find_beams(*_cylindric(_some([cloud[_beyond(cloud, NEAR_M)] for cloud in clouds])))
    explained, off_deg = _explanation(lines, np.concatenate([cloud[_beyond(cloud, NEAR_M)] for cloud in clouds]))
    _refuse_no_pattern(len(lines.elevation_rad), explained)
    turns = [_fired(lines, cloud[_beyond(cloud, FAR_M)]) for cloud in clouds]
    step_rad = azimuth_step_rad(turns)
    if not math.isfinite(step_rad):
        raise ValueError(f"fit-sensor: expected returns beyond {FAR_M:g} m that tell the columns, got too few; pass more scans")
    strays = int(STRAY_SHARE * len(range_m))
    pattern = BeamPattern(
        name, f"copilot4d fit-sensor on {len(scans)} scans, {explained:.1%} of {len(range_m)} returns explained",
        _listed(np.rad2deg(lines.elevation_rad), 4), round(2 * np.pi / step_rad),
        max_range_m=math.ceil(range_m[-1 - strays]), min_range_m=math.floor(10 * range_m[strays]) / 10,
        azimuth_offsets_deg=_listed(np.rad2deg(azimuth_offsets_rad(turns, len(lines.elevation_rad), step_rad)), 3),
        origin_heights_m=_listed(lines.height_m, 3) if np.abs(lines.height_m).max() >= LEAST_HEIGHT_M else ())
    return FittedSensor(pattern, explained, off_deg, len(scans), len(range_m))


def _beyond(points_m: Doubles, least_m: float) -> npt.NDArray[np.bool_]:
    # The axis itself has no elevation.
    return np.asarray((np.linalg.norm(points_m, axis=1) > least_m) & (np.hypot(points_m[:, 0], points_m[:, 1]) > 0.1))


def _some(clouds: list[Doubles]) -> Doubles:
    points_m = np.concatenate(clouds)
    return points_m[np.random.default_rng(0).permutation(len(points_m))[:MOST_RETURNS]]


def _cylindric(points_m: Doubles) -> tuple[Doubles, Doubles]:
    return np.hypot(points_m[:, 0], points_m[:, 1]), points_m[:, 2]


def _explanation(lines: BeamLines, points_m: Doubles) -> tuple[float, float]:
    if len(lines.elevation_rad) < 2:
        return 0.0, math.nan
    beam, off_rad = lines.nearest(*_cylindric(points_m))
    return float(np.mean(lines.explained(beam, off_rad))), float(np.rad2deg(np.median(np.abs(off_rad))))


def _refuse_no_pattern(beams: int, explained: float) -> None:
    if explained < EXPLAINED_SHARE:
        raise ValueError(f"fit-sensor: expected the returns to lie on the beams of one sensor; of {beams} beams, those found explain "
                         f"{explained:.0%} of the returns, {EXPLAINED_SHARE:.0%} are needed. A cloud of two sensors, in another frame than the "
                         "sensor's, or with the vehicle's motion taken out shows no beams: take the driver's own cloud")


def _fired(lines: BeamLines, points_m: Doubles) -> FiredBeams:
    beam, off_rad = lines.nearest(*_cylindric(points_m))
    ours = lines.explained(beam, off_rad)
    return FiredBeams(np.arctan2(points_m[ours, 1], points_m[ours, 0]), beam[ours])


def _listed(values: Doubles, decimals: int) -> tuple[float, ...]:
    return tuple(round(float(value), decimals) + 0.0 for value in values)
