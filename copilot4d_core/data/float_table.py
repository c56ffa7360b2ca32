# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Files of points without a header: little-endian float32, always as many values a point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copilot4d_core.grid import FloatArray


def read_float_table(path: Path, *columns: str) -> FloatArray:
    """All values of a file, (N, number of columns) float32, read-only.

    Raises:
        ValueError: the size is no whole number of points.
    """
    data = path.read_bytes()
    point_bytes = 4 * len(columns)
    if len(data) % point_bytes:
        raise ValueError(f"{path}: expected a multiple of {point_bytes} bytes ({', '.join(columns)} as float32), got {len(data)} bytes")
    return np.frombuffer(data, dtype="<f4").reshape(-1, len(columns)).astype(np.float32, copy=False)
