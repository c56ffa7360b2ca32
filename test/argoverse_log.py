# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A log as Argoverse 2 lays it out, of hand-made sweeps or of the real ones beside the repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import feather

HALF = 0.5**0.5
UP = ("up_lidar", HALF, 0.0, 0.0, HALF, 1.0, 0.0, 2.0)
"""Turned to the left by 90 degrees, 1 m ahead of the vehicle's origin and 2 m above it."""
DOWN = ("down_lidar", 0.0, 1.0, 0.0, 0.0, 1.0, 0.5, 1.5)
"""Upside down, 0.5 m to the left of the other and 0.5 m below it."""
CAMERA = ("ring_front_center", 0.5, -0.5, 0.5, -0.5, 1.6, 0.0, 1.4)
POSE = ("sensor_name", "qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")

Point = tuple[float, float, float, int, int]
"""x, y, z in the vehicle's frame, intensity, laser_number."""


def write_sweep(log: Path, time_ns: int, points: Sequence[Point]) -> Path:
    columns = list(zip(*points, strict=True)) if points else [()] * 5
    kinds = (np.float16, np.float16, np.float16, np.uint8, np.uint8)
    table = {name: np.array(column, dtype=kind) for name, column, kind in zip(("x", "y", "z", "intensity", "laser_number"), columns, kinds,
                                                                              strict=True)}
    path = log / "sensors" / "lidar" / f"{time_ns}.feather"
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pyarrow.table({**table, "offset_ns": np.zeros(len(points), dtype=np.int32)}), path)
    return path


def write_calibration(log: Path, poses: Sequence[tuple[str | float, ...]] = (CAMERA, UP, DOWN)) -> Path:
    path = log / "calibration" / "egovehicle_SE3_sensor.feather"
    path.parent.mkdir(parents=True, exist_ok=True)
    feather.write_feather(pyarrow.table(dict(zip(POSE, map(list, zip(*poses, strict=True)), strict=True))), path)
    return path


def real_log(lidar_data: Path, log: Path) -> Path:
    """The real sweeps beside the repository, laid out as the download."""
    source = next((lidar_data / "argoverse2").iterdir())
    (log / "sensors" / "lidar").mkdir(parents=True)
    for sweep in source.glob("*.feather"):
        (log / "sensors" / "lidar" / sweep.name).symlink_to(sweep)
    rows = [line.split() for line in (source / "egovehicle_SE3_sensor.txt").read_text().splitlines()[1:]]
    write_calibration(log, [(row[0], *map(float, row[1:])) for row in rows])
    return log
