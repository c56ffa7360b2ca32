# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The beams of a spinning LiDAR as straight lines, found in its returns.

What goes in: how far from the axis and how high each return lies. What comes out: a line for each beam, highest first.
Unusual: a beam draws the line z = r tan(elevation) + height while the sensor spins, whatever it meets. Height is where the beam
leaves the axis; lasers sit above each other (0.1 m apart in an HDL-64E), so the elevation of a near return is no beam's.
The heights are found as one finds the focus of a lens: the right one makes the elevations of the returns pile up sharply.
K beams, N returns.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

HEIGHTS_M = np.linspace(-0.3, 0.3, 61)
"""Heights that are tried."""
BIN_DEG = 0.02
BINS = round(180 / BIN_DEG)
WINDOW_DEG = 2.0
"""Beams so near to each other start at one height, as far as finding them goes."""
BLUR_DEG = 0.03
PROMINENCE = 0.4
"""How far, of its own height, a pile of returns must rise above the valleys beside it."""
FEWEST_SHARE = 0.02
"""Of the median over the beams: a pile with fewer returns is no beam."""
FEW_SHARE, STRANGE_HEIGHT_M = 0.2, 0.01
"""A pile with so few returns must also start at the height of its neighbours to be a beam, within this distance."""
HEIGHT_SPREAD_M = 0.03
"""How far the height of a beam may well lie from that of its neighbours, where its own returns do not tell."""
ONE_BEAM_DEG = 0.04
"""Lines nearer to each other than this are one beam."""
ROUNDS = 6
TYPICAL_OFF_DEG = 0.02
"""Returns much farther from a beam than this say little about it."""


class BeamLines(NamedTuple):
    """K lines, highest elevation first."""

    elevation_rad: Doubles
    """(K,)."""
    height_m: Doubles
    """(K,): where the line meets the axis."""

    def nearest(self, radius_m: Doubles, z_m: Doubles) -> tuple[Indices, Doubles]:
        """The beam that passes nearest to each return, (N,), and by how much the return is higher, in radians, (N,)."""
        best, beam = np.full(len(radius_m), np.inf), np.zeros(len(radius_m), dtype=np.intp)
        for k, (elevation, height) in enumerate(zip(self.elevation_rad, self.height_m, strict=True)):
            off = np.abs((z_m - height) * np.cos(elevation) - radius_m * np.sin(elevation))
            nearer = off < best
            best[nearer], beam[nearer] = off[nearer], k
        return beam, np.arctan2(z_m - self.height_m[beam], radius_m) - self.elevation_rad[beam]

    def gaps_rad(self) -> tuple[Doubles, Doubles]:
        """Gap to the beam above and to the one below, (K,) each; at the ends the only one counts twice."""
        gaps = -np.diff(self.elevation_rad)
        return np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])

    def explained(self, beam: Indices, off_rad: Doubles) -> npt.NDArray[np.bool_]:
        """Which returns lie within a quarter of the gap to the next beam: half of them, if there were no beams at all."""
        above, below = self.gaps_rad()
        return np.asarray(np.abs(off_rad) <= np.where(off_rad > 0, above[beam], below[beam]) / 4)


def find_beams(radius_m: Doubles, z_m: Doubles) -> BeamLines:
    """The lines on which the returns pile up.

    Args:
        radius_m: (N,) float64, metres, above 0: distance from the axis.
        z_m: (N,) float64, metres.
    Returns:
        K lines; K is 0 or 1 where the returns show no beams.
    """
    lines = _piles(radius_m, z_m, 0.0)
    for round_ in range(ROUNDS):
        if len(lines.elevation_rad) < 2:
            break
        lines, counts = _refined(lines, radius_m, z_m)
        if round_ < ROUNDS // 2:
            lines = _completed(lines, radius_m, z_m, FEWEST_SHARE * float(np.median(counts)))
    return lines


def _completed(lines: BeamLines, radius_m: Doubles, z_m: Doubles, fewest: float) -> BeamLines:
    """The lines, and those of piles that none of them explains."""
    beam, off_rad = lines.nearest(radius_m, z_m)
    rest = ~lines.explained(beam, off_rad)
    more = _piles(radius_m[rest], z_m[rest], fewest)
    return _sorted(BeamLines(*(np.concatenate(pair) for pair in zip(lines, more, strict=True))))


def _sorted(lines: BeamLines) -> BeamLines:
    order = np.argsort(-lines.elevation_rad, kind="stable")
    return BeamLines(lines.elevation_rad[order], lines.height_m[order])


def _piles(radius_m: Doubles, z_m: Doubles, fewest: float) -> BeamLines:
    """A first guess: the peaks of the focused histogram of elevations."""
    from scipy.ndimage import gaussian_filter1d, uniform_filter1d
    from scipy.signal import find_peaks

    counts = np.stack([_histogram(radius_m, z_m - height) for height in HEIGHTS_M])
    sharpness = uniform_filter1d(counts**2, round(WINDOW_DEG / BIN_DEG), axis=1, mode="constant")
    # Where all heights are alike, as on a street, 0 is as good as any.
    focus = np.argmax(sharpness * (1 - np.abs(HEIGHTS_M[:, None])), axis=0)
    density = np.take_along_axis(gaussian_filter1d(counts, BLUR_DEG / BIN_DEG, axis=1), focus[None], axis=0)[0]
    peaks, found = find_peaks(density, prominence=0)
    peaks = peaks[found["prominences"] >= PROMINENCE * density[peaks]]
    returns = density[peaks] * np.sqrt(2 * np.pi) * BLUR_DEG / BIN_DEG
    peaks = peaks[returns >= max(3.0, fewest)]
    return _sorted(BeamLines(np.deg2rad((peaks + 0.5) * BIN_DEG - 90), HEIGHTS_M[focus[peaks]]))


def _histogram(radius_m: Doubles, z_m: Doubles) -> Doubles:
    bins = ((np.rad2deg(np.arctan2(z_m, radius_m)) + 90) / BIN_DEG).astype(np.intp)
    return np.bincount(np.minimum(bins, BINS - 1), minlength=BINS).astype(np.float64)


def _refined(lines: BeamLines, radius_m: Doubles, z_m: Doubles) -> tuple[BeamLines, Indices]:
    """Each line through its own returns, by weighted least squares; without doubles, and without those that have too few returns."""
    beam, off_rad = lines.nearest(radius_m, z_m)
    near = lines.explained(beam, off_rad)
    order = np.flatnonzero(near)[np.argsort(beam[near], kind="stable")]
    ends = np.searchsorted(beam[order], np.arange(len(lines.elevation_rad) + 1))
    mine = [order[start:end] for start, end in itertools.pairwise(ends)]
    around = _running_median(lines.height_m)
    fitted = [_line(radius_m[i], z_m[i], off_rad[i], height) for i, height in zip(mine, around, strict=True) if len(i)]
    counts = np.diff(ends)[np.diff(ends) > 0]
    lines = BeamLines(np.array([elevation for elevation, _ in fitted]), np.array([height for _, height in fitted]))
    strange = np.abs(lines.height_m - around[np.diff(ends) > 0]) > STRANGE_HEIGHT_M
    median = float(np.median(counts))
    kept = counts >= np.where(strange, FEW_SHARE, FEWEST_SHARE) * median
    return _merged(BeamLines(lines.elevation_rad[kept], lines.height_m[kept]), counts[kept])


def _merged(lines: BeamLines, counts: Indices) -> tuple[BeamLines, Indices]:
    """The lines without those that lie on another one with more returns."""
    kept: list[int] = []
    for k in np.argsort(-counts, kind="stable"):
        if all(abs(lines.elevation_rad[k] - lines.elevation_rad[other]) > np.deg2rad(ONE_BEAM_DEG) for other in kept):
            kept.append(int(k))
    return _sorted(BeamLines(lines.elevation_rad[kept], lines.height_m[kept])), counts[kept]


def _running_median(values: Doubles) -> Doubles:
    padded = np.pad(values, 3, mode="reflect" if len(values) > 3 else "edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, 7), axis=1))


def _line(radius_m: Doubles, z_m: Doubles, off_rad: Doubles, around_m: float) -> tuple[float, float]:
    """Elevation in radians, and height in metres, of one beam: z / r = tan(elevation) + height / r."""
    weight = 1 / (1 + (np.rad2deg(off_rad) / TYPICAL_OFF_DEG) ** 2)
    inverse, value = 1 / radius_m, z_m / radius_m
    total = weight.sum()
    mean_inverse, mean_value = (weight @ inverse) / total, (weight @ value) / total
    # Where all returns are equally far, height and elevation cannot be told apart; the neighbours' height then counts.
    prior = (np.deg2rad(TYPICAL_OFF_DEG) / HEIGHT_SPREAD_M) ** 2
    spread = weight @ (inverse - mean_inverse) ** 2
    height = (weight @ ((inverse - mean_inverse) * (value - mean_value)) + prior * around_m) / (spread + prior)
    return float(np.arctan(mean_value - height * mean_inverse)), float(height)
