"""nuScenes sweeps: little-endian float32, five values a point (x, y, z, intensity, ring), no header.

Source: nuScenes devkit, `LidarPointCloud.from_file`. The sensor frame has x right, y forward, z up.
Unusual: the sweeps hold returns from the vehicle that carries the sensor; they are dropped and counted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.grid import FloatArray

POINT_BYTES = 20
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
    data = path.read_bytes()
    if len(data) % POINT_BYTES:
        raise ValueError(f"{path}: expected a multiple of {POINT_BYTES} bytes (x, y, z, intensity, ring as float32), "
                         f"got {len(data)} bytes")
    values = np.frombuffer(data, dtype="<f4").reshape(-1, 5)
    ring = values[:, 4]
    if not np.all((ring >= 0) & (ring <= MAX_RING) & (ring == np.floor(ring))):
        raise ValueError(f"{path}: expected whole ring numbers 0 to {MAX_RING} in every fifth value, "
                         f"got {ring.min():g} to {ring.max():g}; a file of four values a point must be named .bin")
    own = ego_returns(values[:, :3])
    points_m = values[~own, :3].astype(np.float32)
    return scan_from_points(path.name.removesuffix(".pcd.bin"), points_m, values[~own, 3].astype(np.float32),
                            raw_bytes=len(data), dropped=int(np.count_nonzero(own)), path=path)
