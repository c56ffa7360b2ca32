# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Rays of a scan: those that met something, and beams that met nothing inside the region.

What goes in: points in the sensor's frame. What comes out: origins, unit directions and distances.
"""

from __future__ import annotations

import math

import numpy as np

from copilot4d_core.data.scan import Rays, Scan
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_core.grid import BoolArray, FloatArray, Grid

__all__ = ["Rays", "empty_rays", "grown", "rays_from_points"]

PATTERN_ROWS = (128, 64, 32, 16)
PATTERN_COLUMNS = 1024
FILLED_SHARE = 0.5
"""Share of its looking-down pixels that hold a return, from which on a pattern is as coarse as the sensor."""
NEAR_M = 5.0
"""Returns nearer than this do not tell where the beams look."""
ROW_SHARE = 0.05
"""Share of the columns in which a row must have returns to count as a row of the sensor."""

HOLE_ROW_SHARE = 0.3
"""The same for a row below the horizon; what looks at the own vehicle there may hide most of it."""

BESIDE_DEG = 0.35
"""Beams of a given sensor so near to a return are not called empty, however fine its columns are: one column of `PATTERN_COLUMNS`."""


def rays_from_points(points_m: FloatArray, origin_m: FloatArray) -> tuple[Rays, FloatArray]:
    """Rays from the sensor to its returns.

    Args:
        points_m: (R, 3) float32, metres, finite.
        origin_m: (3,) float32, metres: where every ray starts, or (R, 3): where each does.
    Returns:
        The rays, and their distances (R,) float32, metres. No points: no rays.
    Raises:
        ValueError: a point lies at the origin, so it has no direction, or is not finite.
    """
    # float64: the square of a far outlier (1e30 m) overflows float32.
    offset = points_m.astype(np.float64) - origin_m
    distance = np.sqrt(np.einsum("ri,ri->r", offset, offset))
    broken = ~((distance > 0) & np.isfinite(distance))
    origins = np.broadcast_to(origin_m.astype(np.float32), points_m.shape)
    if broken.any():
        first = int(np.argmax(broken))
        raise ValueError(f"rays: expected finite points away from the origin {origins[first].tolist()}, point {first} is "
                         f"{points_m[first].tolist()}; drop such points first")
    directions = (offset / distance[:, None]).astype(np.float32)
    return Rays(np.ascontiguousarray(origins), directions), distance.astype(np.float32)


def empty_rays(scan: Scan, grid: Grid, pattern: BeamPattern | None = None) -> Rays:
    """Beams that met nothing inside the region: they teach a model where the air is.

    Three kinds: beams whose return lies outside the region; beams above the horizon in each sensor's own pattern (fitted to what it saw)
    with no return of any sensor in their 3x3 neighbourhood; and beams below it with none in their 5x5 neighbourhood, as where the own
    vehicle stands in the way: a single beam that is lost there met a dark or wet surface, a hole in the scan is one in what it shows.

    Args:
        scan: points in the sensor's frame, whose origins lie inside the region.
        grid: the region.
        pattern: of the beams of each sensor; None fits an even one to what it saw.
    Returns:
        The beams in no useful order; none where the scan is too thin to tell a pattern.
    Raises:
        ValueError: an origin lies outside the region, where a return in front of the region hides it.
    """
    if not grid.inside(scan.origins_m).all():
        raise ValueError(f"empty rays: expected an origin inside the region {grid.minimum_m.tolist()} to "
                         f"{grid.maximum_m.tolist()}, got {scan.origins_m.tolist()}")
    outside = ~grid.inside(scan.points_m)
    beyond, _ = rays_from_points(scan.points_m[outside], scan.point_origins_m[outside])
    kinds = [beyond]
    for number, origin_m in enumerate(scan.origins_m):
        own_m = scan.points_of(number)
        kinds += [_sky_rays(pattern, own_m, scan.points_m, origin_m), _hole_rays(own_m, scan.points_m, origin_m)]
    return Rays(np.concatenate([rays.origins_m for rays in kinds]), np.concatenate([rays.directions for rays in kinds]))


def _sky_rays(pattern: BeamPattern | None, own_m: FloatArray, all_m: FloatArray, origin_m: FloatArray) -> Rays:
    return _fitted_sky_rays(own_m, all_m, origin_m) if pattern is None else _sky_rays_of(pattern, own_m, all_m, origin_m)


def _fitted_sky_rays(own_m: FloatArray, all_m: FloatArray, origin_m: FloatArray) -> Rays:
    # Beams start up to 0.2 m apart in a real sensor, so near returns appear at elevations where no beam looks.
    _, distance_m = rays_from_points(own_m, origin_m)
    far_m = own_m[distance_m > NEAR_M]
    pattern = _sensor_pattern(far_m, origin_m)
    if pattern is None:
        return _no_rays()
    rays = pattern.rays(origin_m)
    looks = _rows_that_look(_hits(pattern, far_m, origin_m))
    hit = _hits(pattern, all_m, origin_m)
    # Below the horizon a beam without return met a black or wet surface more often than air.
    sky = ~grown(hit) & looks & (rays.directions[:, 2] > 0).reshape(hit.shape)
    return Rays(rays.origins_m[sky.ravel()], rays.directions[sky.ravel()])


def _hole_rays(own_m: FloatArray, all_m: FloatArray, origin_m: FloatArray) -> Rays:
    # Near returns tell where the beams look, too: what stands in the way of the lowest ones is near.
    pattern = _sensor_pattern(own_m, origin_m)
    if pattern is None:
        return _no_rays()
    rays = pattern.rays(origin_m)
    looks = _rows_that_look(grown(_hits(pattern, own_m, origin_m), columns=0), HOLE_ROW_SHARE)
    hole = ~grown(grown(_hits(pattern, all_m, origin_m))) & looks & (rays.directions[:, 2] < 0).reshape(looks.shape)
    return Rays(rays.origins_m[hole.ravel()], rays.directions[hole.ravel()])


def _sky_rays_of(pattern: BeamPattern, own_m: FloatArray, all_m: FloatArray, origin_m: FloatArray) -> Rays:
    rays = pattern.rays(origin_m)
    looks = (rays.directions[:, 2] > 0) & np.tile(_hits(pattern, own_m, origin_m).any(axis=0), pattern.rows)
    sky = looks & ~grown(_hits(pattern, all_m, origin_m), math.ceil(BESIDE_DEG * pattern.columns / 360)).ravel()
    # What is nearer than the sensor's least range may be there all the same.
    return Rays(rays.origins_m[sky] + np.float32(pattern.min_range_m) * rays.directions[sky], rays.directions[sky])


def _no_rays() -> Rays:
    return Rays(np.zeros((0, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float32))


def _hits(pattern: SphericalPattern | BeamPattern, points_m: FloatArray, origin_m: FloatArray) -> BoolArray:
    return np.asarray(np.isfinite(pattern.range_image(points_m, origin_m)))


def _rows_that_look(hit: BoolArray, share: float = ROW_SHARE) -> BoolArray:
    """Pixels in rows and columns where the sensor has beams at all: (rows, columns) bool."""
    columns = np.asarray(hit.any(axis=0))
    rows = np.count_nonzero(hit, axis=1) >= share * np.count_nonzero(columns)
    return np.asarray(rows[:, None] & columns[None, :])


def grown(hit: BoolArray, columns: int = 1) -> BoolArray:
    """Pixels (rows, columns) with a hit in their row or those beside it, at most so many columns away; columns wrap round."""
    wide = hit.copy()
    for step in range(1, columns + 1):
        wide |= np.roll(hit, step, axis=1) | np.roll(hit, -step, axis=1)
    tall = wide.copy()
    tall[1:] |= wide[:-1]
    tall[:-1] |= wide[1:]
    return np.asarray(tall)


def _sensor_pattern(points_m: FloatArray, origin_m: FloatArray) -> SphericalPattern | None:
    """The finest pattern that the returns below the horizon fill; None where even the coarsest has gaps."""
    if len(points_m) < PATTERN_ROWS[-1]:
        return None
    for rows in PATTERN_ROWS:
        pattern = SphericalPattern.fit(points_m, origin_m, rows, PATTERN_COLUMNS)
        hit = _hits(pattern, points_m, origin_m)
        elevation_deg = np.linspace(pattern.elevation_max_deg, pattern.elevation_min_deg, rows)
        down = hit[np.ix_(elevation_deg < 0, hit.any(axis=0))]
        if down.size and down.mean() >= FILLED_SHARE:
            return pattern
    return None
