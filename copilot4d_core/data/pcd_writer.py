"""Writes point clouds as binary PCD files, which every point cloud viewer opens.

What goes in: points in metres. What comes out: a PCD 0.7 file with the fields x, y, z as little-endian float32.
"""

from __future__ import annotations

from pathlib import Path

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.grid import FloatArray

HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z
SIZE 4 4 4
TYPE F F F
COUNT 1 1 1
WIDTH {points}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {points}
DATA binary
"""


def write_pcd(path: Path, points_m: FloatArray) -> None:
    """Write an unordered cloud; an existing file is replaced at once or left as it was.

    Args:
        points_m: (N, 3) float32, metres; N may be 0.
    Raises:
        ValueError: another shape.
        FileNotFoundError: the folder does not exist.
    """
    if points_m.ndim != 2 or points_m.shape[1] != 3:
        raise ValueError(f"write_pcd: expected points of shape (N, 3), got {points_m.shape}")
    with replacing_file(path) as file:
        file.write(HEADER.format(points=len(points_m)).encode("ascii"))
        file.write(points_m.astype("<f4").tobytes())
