# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Waymo Open Dataset as MMDetection3D converts it: velodyne/PSSSFFF.bin, six little-endian float32 a point.

Source: MMDetection3D, `tools/dataset_converters/waymo_converter.py`. A name is a digit for the split, three for the
segment and three for the frame. The values are x, y, z, intensity, elongation, and the place in the range image of the
top LiDAR, which counts its second returns after its first ones; -1 for a point of the other four LiDARs.
Unusual: the files say nothing of where the LiDARs sit. The top one is at `TOP_M` in the frame of the vehicle; the
others' points are left out and counted, and so are second returns: a beam has one depth. Points come out in a frame
at the top LiDAR with the vehicle's axes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from copilot4d_core.data.float_table import read_float_table
from copilot4d_core.data.layout import Layout, holds, only_split
from copilot4d_core.data.scan import Scan, scan_from_points

FILE_NAME = r"\d{7}\.bin"
TOP_M = (1.43, 0.0, 2.184)
"""Where the top LiDAR is in the frame of the vehicle (x forward, y left, z up): its extrinsic calibration in the recordings, metres."""
RANGE_IMAGE_PIXELS = 64 * 2650
"""Rows and columns of the top LiDAR's range image."""


def read_waymo(path: Path) -> Scan:
    """Scan of the first returns of the top LiDAR in one converted file.

    Raises:
        ValueError: the size is no multiple of 24 bytes, or the values are not those of the converter.
    """
    values = read_float_table(path, "x", "y", "z", "intensity", "elongation", "place in the range image")
    place = values[:, 5]
    top = place[place != -1]
    if not (np.all(np.diff(top) > 0) and np.all((top >= 0) & (top < 2 * RANGE_IMAGE_PIXELS) & (top == np.floor(top)))):
        raise ValueError(f"{path}: expected in every sixth value -1 or a place in the range image of the top LiDAR, rising, from 0 to "
                         f"{2 * RANGE_IMAGE_PIXELS - 1}, as MMDetection3D's converter writes; older ones wrote times: convert again")
    kept = (place >= 0) & (place < RANGE_IMAGE_PIXELS)
    points_m = values[kept, :3] - np.array(TOP_M, dtype=np.float32)
    return scan_from_points(path.stem, points_m, values[kept, 3], raw_bytes=values.nbytes,
                            dropped=int(np.count_nonzero(~kept)), path=path)


def is_waymo(path: Path) -> bool:
    """Whether a file lies where the converter puts it and is named as it names it."""
    return path.absolute().parent.name == "velodyne" and re.fullmatch(FILE_NAME, path.name) is not None


def _split_folders(path: Path) -> list[Path]:
    folder = path if path.absolute().name == "velodyne" else path / "velodyne"
    return [folder] if holds(folder, FILE_NAME) else []


def _folders(path: Path) -> list[Path]:
    """Of SPLIT, or of ROOT or ROOT/kitti_format with one split."""
    splits = ("training", "validation", "testing")
    return _split_folders(path) or only_split(path, splits, _split_folders) or only_split(path / "kitti_format", splits, _split_folders)


LAYOUT = Layout("Waymo as MMDetection3D converts it", ".bin", _folders, read_waymo)
