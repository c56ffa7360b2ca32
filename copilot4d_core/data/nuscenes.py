# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""nuScenes sweeps: little-endian float32, five values a point (x, y, z, intensity, ring), no header.

Source: nuScenes devkit, `LidarPointCloud.from_file`. The sensor frame has x right, y forward, z up. The name of a file
is LOG__LIDAR_TOP__MICROSECONDS.pcd.bin; keyframes lie in samples/LIDAR_TOP, all others of the same drives in
sweeps/LIDAR_TOP, so both folders together are in order by name.
Unusual: the sweeps hold returns from the vehicle that carries the sensor; they are dropped and counted.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.float_table import read_float_table
from copilot4d_core.data.layout import Layout
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.grid import FloatArray

MAX_RING = 255

EGO_MIN_M = (-1.0, -2.0, -1.2)
EGO_MAX_M = (1.0, 2.6, 0.3)
"""Box around the vehicle that carries the sensor, in the sensor's frame: in the recordings its returns lie within
|x| < 1.0, -1.2 < y < 2.1 and -0.95 < z < 0.01, and the nearest return of anything else is 3 m away. The box ends above
the street, which lies 1.8 m below the sensor."""


def ego_returns(points_m: FloatArray) -> npt.NDArray[np.bool_]:
    """Which points lie on the vehicle that carries the sensor.

    Args:
        points_m: (N, 3) float32, metres, in the nuScenes sensor frame.
    Returns:
        (N,) bool.
    """
    low, high = np.array(EGO_MIN_M, dtype=np.float32), np.array(EGO_MAX_M, dtype=np.float32)
    return np.asarray(np.all((points_m > low) & (points_m < high), axis=1), dtype=bool)


def read_nuscenes(path: Path) -> Scan:
    """Scan of one nuScenes `.pcd.bin` file, without the returns of the vehicle itself.

    Raises:
        ValueError: the size is no multiple of 20 bytes, or the values are not x, y, z, intensity, ring.
    """
    values = read_float_table(path, "x", "y", "z", "intensity", "ring")
    ring = values[:, 4]
    if not np.all((ring >= 0) & (ring <= MAX_RING) & (ring == np.floor(ring))):
        raise ValueError(f"{path}: expected whole ring numbers 0 to {MAX_RING} in every fifth value, "
                         f"got {ring.min():g} to {ring.max():g}; a file of four values a point must be named .bin")
    own = ego_returns(values[:, :3])
    time_us = re.search(r"__LIDAR_TOP__(\d+)\.pcd\.bin$", path.name)
    return scan_from_points(path.name.removesuffix(".pcd.bin"), values[~own, :3], values[~own, 3],
                            raw_bytes=values.nbytes, dropped=int(np.count_nonzero(own)), path=path,
                            stamp_ns=1000 * int(time_us[1]) if time_us else None)


def _folders(path: Path) -> list[Path]:
    """Of a download's root."""
    return [folder for name in ("samples", "sweeps") if (folder := path / name / "LIDAR_TOP").is_dir()]


LAYOUT = Layout("nuScenes", ".pcd.bin", _folders, read_nuscenes, by_name=True)
