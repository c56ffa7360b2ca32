# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One LiDAR scan, a bundle of rays, and what every source of scans offers.

What goes in: raw coordinates as a reader found them. What comes out: a `Scan` with finite points only.
Unusual: points at exactly (0, 0, 0) mean "no return" in many drivers; they are dropped and counted, never kept.
A scan of several sensors (Argoverse 2) knows where the ray of each point starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import FloatArray

FARTHEST_M = 1e4
"""No LiDAR reaches 10 km: coordinates beyond it come from a file of another format."""

NONSENSE_SHARE = 0.01
"""Share of points beyond `FARTHEST_M` above which a file is refused; below it they are single broken points."""


class Scan(NamedTuple):
    """One sweep of a LiDAR in the frame of its sensor, or of several in the frame of the first."""

    name: str
    """File stem, or "topic#index"."""
    stamp_ns: int | None
    """Time of the header; None when the file holds none."""
    frame_id: str
    """Frame of the points; "" when the file names none."""
    points_m: FloatArray
    """(N, 3) float32, metres, finite, never (0, 0, 0)."""
    intensity: FloatArray | None
    """(N,) float32 in the scale of the source; None when the source has none."""
    origins_m: FloatArray
    """(S, 3) float32, metres: where the rays of each sensor start; nearly always one."""
    dropped: int
    """Points of the source that are not kept."""
    raw_bytes: int
    """Bytes of the message data or of the file's points."""
    sensor: npt.NDArray[np.uint8] | None = None
    """(N,) uint8: from which of the origins each point was seen; None: all from the first."""

    @property
    def origin_m(self) -> FloatArray:
        """(3,) float32, metres: the first sensor, from where pictures are made."""
        return np.asarray(self.origins_m[0])

    @property
    def point_origins_m(self) -> FloatArray:
        """(N, 3) float32, metres: where the ray of each point starts."""
        if self.sensor is None:
            return np.asarray(np.broadcast_to(self.origins_m[0], self.points_m.shape))
        return np.asarray(self.origins_m[self.sensor])

    def points_of(self, sensor: int) -> FloatArray:
        """(M, 3) float32, metres: the points that one of the sensors saw."""
        if self.sensor is None:
            return self.points_m if sensor == 0 else self.points_m[:0]
        return np.asarray(self.points_m[self.sensor == sensor])


class Rays(NamedTuple):
    """R half-lines."""

    origins_m: FloatArray
    """(R, 3) float32, metres."""
    directions: FloatArray
    """(R, 3) float32, unit length."""


class ScanSource(Protocol):
    """A drive: scans in order, read when asked for."""

    @property
    def name(self) -> str:
        """Short name of the data set."""
        ...

    def __len__(self) -> int:
        """Number of scans."""
        ...

    def __getitem__(self, index: int) -> Scan:
        """Scan at an index; negative counts from the end. IndexError beyond."""
        ...

    def __iter__(self) -> Iterator[Scan]:
        """All scans in order, one in memory at a time."""
        ...


def kept_points(points_m: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which points are real returns: finite and not exactly (0, 0, 0).

    Args:
        points_m: (N, 3) float32, metres.
    Returns:
        (N,) bool.
    """
    x, y, z = points_m[:, 0], points_m[:, 1], points_m[:, 2]
    if len(points_m) and np.isfinite([points_m.min(), points_m.max()]).all() and np.count_nonzero(x) == len(x):
        return np.ones(len(x), dtype=bool)  # what most drivers send, in a third of the time
    return np.asarray(np.isfinite(x) & np.isfinite(y) & np.isfinite(z) & ((x != 0) | (y != 0) | (z != 0)), dtype=bool)


def refuse_nonsense(points_m: FloatArray, name: str) -> None:
    """Refuse coordinates that no LiDAR gives.

    Raises:
        ValueError: more than `NONSENSE_SHARE` of the points lie beyond `FARTHEST_M`.
    """
    if len(points_m) == 0:
        return
    far = int(np.count_nonzero(np.any(np.abs(points_m) > FARTHEST_M, axis=1)))
    if far > NONSENSE_SHARE * len(points_m):
        raise ValueError(f"{name}: expected coordinates within {FARTHEST_M:g} m, {far} of {len(points_m)} points lie beyond; "
                         "the file is of another format or unit")


def scan_from_points(name: str, points_m: FloatArray, intensity: FloatArray | None, *, raw_bytes: int,
                     stamp_ns: int | None = None, frame_id: str = "", dropped: int = 0, path: Path | None = None,
                     origins_m: FloatArray | None = None, sensor: npt.NDArray[np.uint8] | None = None) -> Scan:
    """Scan of the real returns among points in the sensor's frame.

    Args:
        points_m: (N, 3) float32, metres.
        intensity: (N,) float32 or None.
        dropped: points that the reader left out before.
        path: the file, to name it in a refusal.
        origins_m: (S, 3) float32, metres: where the rays of each sensor start; None: one sensor at (0, 0, 0).
        sensor: (N,) uint8: from which of them each point was seen; None: all from the first.
    Raises:
        ValueError: the coordinates are no LiDAR's.
    """
    kept = kept_points(points_m)
    if not kept.all():
        dropped += int(np.count_nonzero(~kept))
        points_m = points_m[kept]
        intensity = None if intensity is None else intensity[kept]
        sensor = None if sensor is None else sensor[kept]
    refuse_nonsense(points_m, name if path is None else str(path))
    origins_m = np.zeros((1, 3), dtype=np.float32) if origins_m is None else origins_m
    return Scan(name, stamp_ns, frame_id, np.ascontiguousarray(points_m, dtype=np.float32), intensity, origins_m, dropped, raw_bytes, sensor)
