# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Rotations as files and TF give them, turned into matrices.

What goes in: a quaternion. What comes out: a rotation matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

UNIT_WITHIN = 1e-3
"""Rounding of a quaternion that was typed with four digits; it is divided by its length."""


def rotation_from_quaternion(quaternion_xyzw: Sequence[float]) -> Doubles:
    """Rotation matrix of a quaternion.

    Args:
        quaternion_xyzw: x, y, z, w of unit length.
    Returns:
        (3, 3) float64.
    Raises:
        ValueError: not 4 numbers of length 1.
    """
    q = np.asarray(quaternion_xyzw, dtype=np.float64)
    length = float(np.linalg.norm(q)) if q.shape == (4,) else math.nan
    if not abs(length - 1) <= UNIT_WITHIN:
        raise ValueError(f"expected a quaternion x, y, z, w of length 1, got {q.tolist()} of length {length:g}")
    x, y, z, w = q / length
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
