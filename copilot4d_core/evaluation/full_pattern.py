# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every beam of the sensor, also those that came back with nothing: what is rendered where nothing was, and what is missing.

What goes in: a sensor's beams, a scan, and the depth rendered along each of them. What comes out: two shares.
Unusual: rays to known returns never tell of a surface that is rendered into empty air; only the whole pattern does.

A beam has the scan's returns in its own pixel of the pattern: half-way to the beams above and below, half-way to the columns beside it.
- A beam is *asked* where its column holds a return at all, at any distance: a recording that was cut to one view asks nothing elsewhere.
- A rendered point is a *phantom* if no return inside the region lies in its pixel or the eight around it. The tolerance of one pixel is
  for the pattern: the motor turns unevenly, so columns of the pattern are not those of the scan, and a pixel between two returns is
  empty without meaning anything. A return beyond the region is no return inside, so a point in front of it is a phantom.
- A return is *missed* if nothing is rendered along the beam of its pixel. There is no tolerance: a beam beside it proves nothing.
Below the horizon, a beam without return met a dark or wet surface, or the own vehicle, more often than air, and a model that fills in
the street there is right in a way that no scan can tell. So the share above the horizon is given, too.
At which depth something is rendered is no matter here; the depth metrics say that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.data.rays import grown
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.grid import FloatArray, Grid


class BeamCounts(NamedTuple):
    """Counts over the asked beams of one scan."""

    asked: int
    rendered: int
    """Beams along which something is rendered."""
    phantoms: int
    """Of those, the ones without a return inside the region, nor around them."""
    rendered_above: int
    """Of the rendered points, those along beams that look above the horizon."""
    phantoms_above: int
    """Of those, the phantoms."""
    returned: int
    """Beams with a return inside the region."""
    missed: int
    """Of those, the ones along which nothing is rendered."""


def beam_counts(sensor: BeamPattern, scan: Scan, grid: Grid, depth_m: FloatArray) -> BeamCounts:
    """Counts of one scan.

    Args:
        sensor: the beams.
        scan: as the sensor recorded it.
        grid: the region.
        depth_m: (rows * columns,) float32, metres, along `sensor.rays(scan.origin_m)`; NaN for nothing.
    Raises:
        ValueError: not one depth for each beam.
    """
    shape = (sensor.rows, sensor.columns)
    if depth_m.shape != (shape[0] * shape[1],):
        raise ValueError(f"beam_counts: expected {shape[0]} x {shape[1]} depths, one for each beam, got {depth_m.shape}")
    inside_m = scan.points_m[grid.inside(scan.points_m)]
    seen, returned = (np.isfinite(sensor.range_image(points_m, scan.origin_m)) for points_m in (scan.points_m, inside_m))
    asked = np.broadcast_to(seen.any(axis=0), shape)
    rendered = np.isfinite(depth_m).reshape(shape) & asked
    phantoms, above = rendered & ~grown(returned), np.array(sensor.elevations_deg)[:, None] > 0
    counted = (asked, rendered, phantoms, rendered & above, phantoms & above, returned, returned & ~rendered)
    return BeamCounts(*(int(np.count_nonzero(beams)) for beams in counted))


def beam_metrics(counts: list[BeamCounts]) -> dict[str, float]:
    """Shares over the beams of all scans together, 0 to 1; NaN of nothing.

    Returns:
        `phantom_points`: share of the rendered points that are phantoms, `phantom_points_above_horizon`: the same among those of beams
        that look up; `missed_returns`: share of the beams with a return that are missed.
    """
    total = _total(counts)
    return {"phantom_points": _share(total.phantoms, total.rendered),
            "phantom_points_above_horizon": _share(total.phantoms_above, total.rendered_above),
            "missed_returns": _share(total.missed, total.returned)}


def beam_note(sensor: BeamPattern, counts: list[BeamCounts]) -> str:
    """What a reader of the shares must know."""
    total = _total(counts)
    return (f"Full pattern: {sensor.name}, {sensor.rows} beams x {sensor.columns} columns; of {total.asked} beams {total.returned} had a return "
            f"inside the region and {total.missed} of these are missed; along {total.rendered} something is rendered, {total.phantoms} of these "
            f"points are phantoms, {total.phantoms_above} of them above the horizon.")


def _total(counts: list[BeamCounts]) -> BeamCounts:
    return BeamCounts(*(sum(column) for column in zip(*counts, strict=True)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
