# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Writes point clouds as binary PCD files, which every point cloud viewer opens.

What goes in: points in metres, and more numbers of each. What comes out: a PCD 0.7 file, little-endian, with the fields x, y, z and those.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.grid import FloatArray

HEADER = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS {fields}
SIZE {sizes}
TYPE {types}
COUNT {counts}
WIDTH {points}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {points}
DATA binary
"""


def write_pcd(path: Path, points_m: FloatArray, columns: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    """Write an unordered cloud; an existing file is replaced at once or left as it was.

    Args:
        points_m: (N, 3) float32, metres; N may be 0.
        columns: further fields by name, each (N,) float or unsigned.
    Raises:
        ValueError: another shape.
        FileNotFoundError: the folder does not exist.
    """
    if points_m.ndim != 2 or points_m.shape[1] != 3:
        raise ValueError(f"write_pcd: expected points of shape (N, 3), got {points_m.shape}")
    values = {axis: points_m[:, place].astype(np.float32) for place, axis in enumerate("xyz")} | dict(columns or {})
    records = np.empty(len(points_m), dtype=[(name, column.dtype.newbyteorder("<")) for name, column in values.items()])
    for name, column in values.items():
        records[name] = column
    kinds = [column.dtype for column in values.values()]
    header = HEADER.format(fields=" ".join(values), sizes=" ".join(str(kind.itemsize) for kind in kinds), counts=" ".join("1" * len(kinds)),
                           types=" ".join(kind.kind.upper() for kind in kinds), points=len(points_m))
    with replacing_file(path) as file:
        file.write(header.encode("ascii"))
        file.write(records.tobytes())
