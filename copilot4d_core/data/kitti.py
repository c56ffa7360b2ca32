"""KITTI scans: little-endian float32, four values a point (x, y, z, intensity), no header.

Source: KITTI raw data development kit, "velodyne_points". The sensor frame has x forward, y left, z up.
Unusual: the file says nothing about itself, so its size and its intensity column are what can be checked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copilot4d_core.data.scan import Scan, scan_from_points

POINT_BYTES = 16


def read_kitti(path: Path) -> Scan:
    """Scan of one KITTI `.bin` file.

    Raises:
        ValueError: the size is no multiple of 16 bytes, or the values are not x, y, z, intensity.
    """
    data = path.read_bytes()
    if len(data) % POINT_BYTES:
        raise ValueError(f"{path}: expected a multiple of {POINT_BYTES} bytes (x, y, z, intensity as float32), "
                         f"got {len(data)} bytes")
    values = np.frombuffer(data, dtype="<f4").reshape(-1, 4)
    intensity = values[:, 3].astype(np.float32)
    if not np.all(intensity >= 0):
        raise ValueError(f"{path}: expected intensity of at least 0 in every fourth value, got {intensity.min():g}; "
                         "a file of five values a point must be named .pcd.bin")
    return scan_from_points(path.stem, values[:, :3].astype(np.float32), intensity, raw_bytes=len(data), path=path)
