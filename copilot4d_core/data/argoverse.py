# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Argoverse 2 sweeps: Feather tables of what two LiDARs on one roof saw, in LOG/sensors/lidar/TIME.feather.

Source: Argoverse 2 user guide, sensor and lidar data sets; `Sweep` of av2-api. Points lie in the frame of the vehicle
(rear axle, about 0.4 m above the street), moved to where it was at the time that names the file; here they come out in
the frame of the upper LiDAR, 2 m above the street, as high as the sensors of other data sets sit above theirs.
Unusual: beams 0 to 31 start at up_lidar, 32 to 63 at down_lidar (in a recording, the points of a beam lie within 0.06
degrees of one elevation seen from its own sensor, 0.16 from the other), so every point has an origin. The vehicle's
own motion during a sweep is in the points, but not in the origins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.layout import Layout, only_split, subfolders
from copilot4d_core.data.rotation import Doubles, rotation_from_quaternion
from copilot4d_core.data.scan import Scan, scan_from_points

PYARROW = "pyarrow>=15"
"""As in the extra `data` of setup.py."""
CALIBRATION = "calibration/egovehicle_SE3_sensor.feather"
SENSORS = ("up_lidar", "down_lidar")
BEAMS_PER_SENSOR = 32
COLUMNS = ("x", "y", "z", "intensity", "laser_number")
POSE_COLUMNS = ("sensor_name", "qx", "qy", "qz", "qw", "tx_m", "ty_m", "tz_m")


def read_argoverse(path: Path) -> Scan:
    """Scan of one Argoverse 2 sweep, in the frame of its log's up_lidar.

    Raises:
        ValueError: pyarrow is missing, the log's calibration is missing, or a table is not Argoverse 2's.
    """
    table = _columns(path, COLUMNS)
    beam = table["laser_number"]
    if len(beam) and not 0 <= beam.min() <= beam.max() < 2 * BEAMS_PER_SENSOR:
        raise ValueError(f"{path}: expected laser_number 0 to {2 * BEAMS_PER_SENSOR - 1}, got {beam.min()} to {beam.max()}")
    (rotation, up_m), (_, down_m) = _poses(path)
    in_vehicle_m = np.stack([table[axis] for axis in "xyz"], axis=1).astype(np.float64)
    # A row times the rotation is the inverse rotation times the column: from the vehicle's frame into the sensor's.
    points_m = ((in_vehicle_m - up_m) @ rotation).astype(np.float32)
    origins_m = np.stack([np.zeros(3), (down_m - up_m) @ rotation]).astype(np.float32)
    return scan_from_points(path.stem, points_m, table["intensity"].astype(np.float32), raw_bytes=sum(c.nbytes for c in table.values()),
                            stamp_ns=int(path.stem) if path.stem.isdecimal() else None, frame_id=SENSORS[0], path=path,
                            origins_m=origins_m, sensor=(beam // BEAMS_PER_SENSOR).astype(np.uint8))


def _poses(path: Path) -> list[tuple[Doubles, Doubles]]:
    """Rotation and position (metres) of each sensor in the frame of the vehicle, for a sweep's log."""
    file = path.absolute().parent.parent.parent / CALIBRATION
    if not file.is_file():
        raise ValueError(f"{path}: expected LOG/sensors/lidar/TIME.feather beside LOG/{CALIBRATION}, there is no {file}")
    table = _columns(file, POSE_COLUMNS)
    names = table["sensor_name"].tolist()
    missing = [sensor for sensor in SENSORS if sensor not in names]
    if missing:
        raise ValueError(f"{file}: expected the sensors {', '.join(SENSORS)}, {', '.join(missing)} is missing; got {', '.join(map(str, names))}")
    rows = np.stack([table[column] for column in POSE_COLUMNS[1:]], axis=1).astype(np.float64)
    try:
        return [(rotation_from_quaternion(rows[row, :4].tolist()), rows[row, 4:]) for row in map(names.index, SENSORS)]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    try:
        from pyarrow import OSFile, ipc
    except ImportError:
        raise ValueError(f'{path}: expected the package pyarrow, which reads Feather files, it is not installed; `pip install "{PYARROW}"`') from None
    try:
        with OSFile(str(path)) as file:
            # No threads: training reads with several processes, which would take each other's cores.
            table = ipc.open_file(file, options=ipc.IpcReadOptions(use_threads=False)).read_all()
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: expected a whole Feather file (version 2), got: {error}") from error
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: expected the columns {', '.join(names)}, missing {', '.join(missing)}; got {', '.join(table.column_names)}")
    return {name: table[name].to_numpy() for name in names}


def _log_folders(path: Path) -> list[Path]:
    folder = path / "sensors" / "lidar"
    return [folder] if folder.is_dir() else []


def _split_folders(path: Path) -> list[Path]:
    return [folder for log in subfolders(path) for folder in _log_folders(log)]


def _folders(path: Path) -> list[Path]:
    """Of LOG, of SPLIT/LOG, or of ROOT/SPLIT/LOG with one split."""
    return _log_folders(path) or _split_folders(path) or only_split(path, ("train", "val", "test"), _split_folders)


LAYOUT = Layout("Argoverse 2", ".feather", _folders, read_argoverse)
