# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""KITTI scans: little-endian float32, four values a point (x, y, z, intensity), no header.

Source: KITTI raw data development kit, "velodyne_points". The sensor frame has x forward, y left, z up.
KITTI Odometry and SemanticKITTI keep them in dataset/sequences/NN/velodyne/NNNNNN.bin.
Unusual: the file says nothing about itself, so its size and its intensity column are what can be checked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copilot4d_core.data.float_table import read_float_table
from copilot4d_core.data.layout import Layout, holds, subfolders
from copilot4d_core.data.scan import Scan, scan_from_points

FILE_NAME = r"(?!\d{7}\.)\d+\.bin"
"""In a sequence's velodyne folder: digits, by KITTI six; seven are Waymo's."""


def read_kitti(path: Path) -> Scan:
    """Scan of one KITTI `.bin` file.

    Raises:
        ValueError: the size is no multiple of 16 bytes, or the values are not x, y, z, intensity.
    """
    values = read_float_table(path, "x", "y", "z", "intensity")
    intensity = values[:, 3].copy()
    if not np.all(intensity >= 0):
        raise ValueError(f"{path}: expected intensity of at least 0 in every fourth value, got {intensity.min():g}; "
                         "a file of five values a point must be named .pcd.bin, one of six velodyne/PSSSFFF.bin (Waymo)")
    return scan_from_points(path.stem, values[:, :3], intensity, raw_bytes=values.nbytes, path=path)


def _sequence_folders(path: Path) -> list[Path]:
    folder = path / "velodyne"
    return [folder] if holds(folder, FILE_NAME) else []


def _folders(path: Path) -> list[Path]:
    """Of one sequence, or of all sequences of a download."""
    roots = (path, path / "sequences", path / "dataset" / "sequences")
    every = ([folder for sequence in subfolders(root, r"\d\d") for folder in _sequence_folders(sequence)] for root in roots)
    return _sequence_folders(path) or next(filter(None, every), [])


LAYOUT = Layout("KITTI Odometry or SemanticKITTI", ".bin", _folders, read_kitti)
