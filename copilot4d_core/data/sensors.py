# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The angular pattern of a spinning LiDAR: which beam looks where, and range images in that pattern.

What goes in: points in the sensor's frame. What comes out: one ray a pixel, or a range image.
A `SphericalPattern` has beams at even steps, a `BeamPattern` those of one sensor (`sensor_file.py` reads it); whoever
only needs one ray a pixel takes any `RayPattern`.
Row 0 is the highest beam. Column 0 looks backwards (azimuth +pi) and columns run clockwise seen from above, so the
middle column looks along +x and the picture shows left on the left. A ray goes through the middle of its pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.scan import Rays
from copilot4d_core.grid import BoolArray, FloatArray

STRAY_PERCENT = 0.1
"""Share of the points at each end that does not widen a fitted pattern: single stray returns."""
LARGEST_HEIGHT_M = 0.5
"""No sensor is taller: beams that start farther apart are those of two sensors."""


class RayPattern(Protocol):
    """Whatever gives one ray a pixel of a depth image: a sensor's pattern or a camera."""

    @property
    def rows(self) -> int:
        """Rows of the depth image; row 0 is the highest."""
        ...

    @property
    def columns(self) -> int:
        """Columns of the depth image; column 0 is the leftmost."""
        ...

    def rays(self, origin_m: FloatArray) -> Rays:
        """One ray a pixel, row by row.

        Args:
            origin_m: (3,) float32, metres: the sensor's origin in the frame of the rays.
        Returns:
            rows * columns rays.
        """
        ...


@dataclass(frozen=True)
class SphericalPattern:
    """Beams at even steps of elevation, columns at even steps of azimuth around the full turn."""

    rows: int = 64
    columns: int = 1024
    elevation_min_deg: float = -24.8
    elevation_max_deg: float = 2.0

    def __post_init__(self) -> None:
        if self.rows < 2 or self.columns < 1:
            raise ValueError(f"sensor pattern: expected at least 2 rows and 1 column, got {self.rows} and {self.columns}")
        if not -90 <= self.elevation_min_deg < self.elevation_max_deg <= 90:
            raise ValueError(f"sensor pattern: expected -90 <= elevation_min_deg < elevation_max_deg <= 90, "
                             f"got {self.elevation_min_deg} and {self.elevation_max_deg}")

    @property
    def elevation_step_rad(self) -> float:
        """Angle between two rows."""
        return float(np.deg2rad(self.elevation_max_deg - self.elevation_min_deg)) / (self.rows - 1)

    def rays(self, origin_m: FloatArray) -> Rays:
        """One ray a pixel, row by row.

        Args:
            origin_m: (3,) float32, metres.
        Returns:
            rows * columns rays.
        """
        return _rays_of_a_turn(np.linspace(self.elevation_max_deg, self.elevation_min_deg, self.rows), self.columns, origin_m)

    def pixels(self, points_m: FloatArray, origin_m: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray, BoolArray]:
        """Pixel and distance of each point.

        Args:
            points_m: (N, 3) float32, metres.
            origin_m: (3,) float32, metres.
        Returns:
            Flat pixel number (row * columns + column) and distance (metres) of the points inside the pattern, and which
            of the N points those are (N,) bool. Points at the origin or beyond the first or last row are outside.
        """
        elevation, column, distance = _seen_from(points_m, origin_m, self.columns)
        row = np.rint((np.deg2rad(self.elevation_max_deg) - elevation) / self.elevation_step_rad).astype(np.intp)
        inside = (row >= 0) & (row < self.rows) & (distance > 0)
        return (row * self.columns + column)[inside], distance[inside], inside

    def range_image(self, points_m: FloatArray, origin_m: FloatArray) -> FloatArray:
        """Distance of the nearest point in each pixel.

        Args:
            points_m: (N, 3) float32, metres, finite.
            origin_m: (3,) float32, metres.
        Returns:
            (rows, columns) float32, metres; NaN where no point falls.
        """
        pixel, distance, _ = self.pixels(points_m, origin_m)
        return _nearest(pixel, distance, self.rows, self.columns)

    @staticmethod
    def fit(points_m: FloatArray, origin_m: FloatArray, rows: int = 64, columns: int = 1024) -> SphericalPattern:
        """Pattern whose elevation limits are those of a scan, without its strays.

        Args:
            points_m: (N, 3) float32, metres, finite.
            origin_m: (3,) float32, metres.
        Raises:
            ValueError: no points, or all at one elevation.
        """
        if len(points_m) == 0:
            raise ValueError("sensor pattern: expected points to fit to, got an empty scan")
        offset = points_m - origin_m
        elevation_deg = np.rad2deg(np.arctan2(offset[:, 2], np.hypot(offset[:, 0], offset[:, 1])))
        low, high = np.percentile(elevation_deg, [STRAY_PERCENT, 100 - STRAY_PERCENT])
        return SphericalPattern(rows, columns, float(low), float(high))


@dataclass(frozen=True)
class BeamPattern:
    """The beams of one sensor, wherever its maker put them; columns at even steps of azimuth around the full turn."""

    name: str
    """Maker and model."""
    source: str
    """Where the numbers are from."""
    elevations_deg: tuple[float, ...]
    """Highest first."""
    columns: int
    max_range_m: float
    """Range that the maker states, of a bright target."""
    min_range_m: float = 0.0
    """The sensor gives no return from nearer than this."""
    azimuth_offsets_deg: tuple[float, ...] = ()
    """How far each beam looks to the left of its column; empty: not at all."""
    origin_heights_m: tuple[float, ...] = ()
    """Height above the sensor's origin at which each beam leaves the axis; empty: none. Lasers sit above each other."""

    def __post_init__(self) -> None:
        if not self.name or not self.source:
            raise ValueError(f"sensor pattern: expected a name and a source, got {self.name!r} and {self.source!r}")
        if self.rows < 2 or self.columns < 1:
            raise ValueError(f"sensor pattern: expected at least 2 elevations_deg and 1 column, got {self.rows} and {self.columns}")
        if not all(-90 <= elevation <= 90 for elevation in self.elevations_deg):
            raise ValueError(f"sensor pattern: expected elevations_deg between -90 and 90, got {self.elevations_deg}")
        for row, (upper, lower) in enumerate(zip(self.elevations_deg, self.elevations_deg[1:], strict=False)):
            if not upper > lower:
                raise ValueError(f"sensor pattern: expected elevations_deg from the highest beam to the lowest, each once, "
                                 f"got {upper} in row {row} before {lower}")
        if not (self.max_range_m > 0 and math.isfinite(self.max_range_m)):
            raise ValueError(f"sensor pattern: expected max_range_m above 0, got {self.max_range_m}")
        if not 0 <= self.min_range_m < self.max_range_m:
            raise ValueError(f"sensor pattern: expected 0 <= min_range_m < max_range_m, got {self.min_range_m} and {self.max_range_m}")
        for key, limit in (("azimuth_offsets_deg", 180.0), ("origin_heights_m", LARGEST_HEIGHT_M)):
            values = getattr(self, key)
            if values and len(values) != self.rows:
                raise ValueError(f"sensor pattern: expected one of {key} for each of {self.rows} beams, got {len(values)}")
            if not all(abs(value) <= limit for value in values):
                raise ValueError(f"sensor pattern: expected {key} between {-limit:g} and {limit:g}, got {values}")

    @property
    def rows(self) -> int:
        """Number of beams."""
        return len(self.elevations_deg)

    def rays(self, origin_m: FloatArray) -> Rays:
        """One ray a pixel, row by row.

        Args:
            origin_m: (3,) float32, metres.
        Returns:
            rows * columns rays.
        """
        return _rays_of_a_turn(np.array(self.elevations_deg, dtype=np.float64), self.columns, origin_m, self._offsets_rad(), self._heights_m())

    def range_image(self, points_m: FloatArray, origin_m: FloatArray) -> FloatArray:
        """Distance of the nearest point in each pixel, from where its beam starts.

        A beam has the points up to half-way to the beams beside it; points nearer than the least range are left out.

        Args:
            points_m: (N, 3) float32, metres, finite.
            origin_m: (3,) float32, metres.
        Returns:
            (rows, columns) float32, metres; NaN where no point falls.
        """
        pixel, distance_m, inside = self.pixels(points_m, origin_m)
        return _nearest(pixel[inside], distance_m[inside], self.rows, self.columns)

    def pixels(self, points_m: FloatArray, origin_m: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray, BoolArray]:
        """Pixel and distance of each point.

        Args:
            points_m: (N, 3) float32, metres, finite.
            origin_m: (3,) float32, metres.
        Returns:
            Flat pixel number (row * columns + column) and distance from where the beam starts (metres), (N,) each, and which of
            the points belong to a beam at all, (N,) bool; of the others, pixel and distance mean nothing.
        """
        offset = points_m - origin_m
        flat, z = np.hypot(offset[:, 0], offset[:, 1]), offset[:, 2]
        row, inside = self._rows_of(flat, z)
        turn = np.pi - np.arctan2(offset[:, 1], offset[:, 0]) + self._offsets_rad()[row]
        column = np.rint(turn * (self.columns / (2 * np.pi))).astype(np.intp) % self.columns
        distance_m = np.hypot(flat, z - self._heights_m()[row].astype(z.dtype))
        return row * self.columns + column, distance_m, inside & (distance_m > 0) & (distance_m >= self.min_range_m)

    def _rows_of(self, flat_m: FloatArray, z_m: FloatArray) -> tuple[npt.NDArray[np.intp], BoolArray]:
        """The beam of each point, and whether the point is near enough to it."""
        beams = np.array(self.elevations_deg, dtype=np.float64)
        middle = (beams[:-1] + beams[1:]) / 2
        edges = np.concatenate([[2 * beams[0] - middle[0]], middle, [2 * beams[-1] - middle[-1]]])
        if not self.origin_heights_m:
            row = np.searchsorted(-edges, -np.rad2deg(np.arctan2(z_m, flat_m)), side="right") - 1
            return np.clip(row, 0, self.rows - 1), np.asarray((row >= 0) & (row < self.rows))
        row = self._nearest_line(flat_m, z_m)
        elevation_deg = np.rad2deg(np.arctan2(z_m - self._heights_m()[row], flat_m))
        return row, np.asarray((elevation_deg <= edges[0]) & (elevation_deg > edges[-1]))

    def _nearest_line(self, flat_m: FloatArray, z_m: FloatArray) -> npt.NDArray[np.intp]:
        # Beams that start at different heights are no fan, so elevations alone do not order the points.
        best, row = np.full(len(z_m), np.inf, dtype=np.float32), np.zeros(len(z_m), dtype=np.intp)
        for k, (elevation, height) in enumerate(zip(np.deg2rad(self.elevations_deg), self.origin_heights_m, strict=True)):
            off = np.abs((z_m - np.float32(height)) * np.float32(np.cos(elevation)) - flat_m * np.float32(np.sin(elevation)))
            nearer = off < best
            best[nearer], row[nearer] = off[nearer], k
        return row

    def _offsets_rad(self) -> npt.NDArray[np.float64]:
        return np.deg2rad(self.azimuth_offsets_deg) if self.azimuth_offsets_deg else np.zeros(self.rows)

    def _heights_m(self) -> npt.NDArray[np.float64]:
        return np.array(self.origin_heights_m) if self.origin_heights_m else np.zeros(self.rows)


SensorPattern = SphericalPattern | BeamPattern


def _seen_from(points_m: FloatArray, origin_m: FloatArray, columns: int) -> tuple[FloatArray, npt.NDArray[np.intp], FloatArray]:
    """Elevation in radians, column and distance in metres of each point."""
    offset = points_m - origin_m
    x, y, z = offset[:, 0], offset[:, 1], offset[:, 2]
    flat = np.hypot(x, y)
    column = np.rint((np.pi - np.arctan2(y, x)) * (columns / (2 * np.pi))).astype(np.intp) % columns
    return np.arctan2(z, flat), column, np.hypot(flat, z)


def _nearest(pixel: npt.NDArray[np.intp], distance_m: FloatArray, rows: int, columns: int) -> FloatArray:
    image = np.full(rows * columns, np.inf, dtype=np.float32)
    np.minimum.at(image, pixel, distance_m)
    image[np.isinf(image)] = np.nan
    return image.reshape(rows, columns)


def _rays_of_a_turn(elevations_deg: npt.NDArray[np.float64], columns: int, origin_m: FloatArray,
                    offsets_rad: npt.NDArray[np.float64] | None = None, heights_m: npt.NDArray[np.float64] | None = None) -> Rays:
    elevation = np.deg2rad(elevations_deg)[:, None]
    azimuth = (np.pi - 2 * np.pi / columns * np.arange(columns))[None, :]
    if offsets_rad is not None:
        azimuth = azimuth + offsets_rad[:, None]
    up = np.broadcast_to(np.sin(elevation), (len(elevations_deg), columns))
    directions = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), up], axis=-1)
    directions = directions.reshape(-1, 3).astype(np.float32)
    origins = np.tile(origin_m.astype(np.float32), (len(directions), 1))
    if heights_m is not None:
        origins[:, 2] += np.repeat(heights_m, columns).astype(np.float32)
    return Rays(origins, directions)
