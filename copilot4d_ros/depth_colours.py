# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Depth images as colour pictures on a fixed range, so that the same distance always has the same colour."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import FloatArray

Colours = npt.NDArray[np.uint8]

NOTHING_COLOUR = (0, 0, 0)
"""A ray that met nothing; no depth has this colour."""
_NUM_COLOURS = 256


def depth_colours(depth_m: FloatArray, max_m: float) -> Colours:
    """Picture of a depth image, from near (blue) over green to far (red).

    Args:
        depth_m: (rows, columns) float32, metres; NaN for nothing.
        max_m: depth of the last colour; what is farther has it, too.
    Returns:
        (rows, columns, 3) uint8 red, green and blue.
    """
    nothing = np.isnan(depth_m)
    index = np.where(nothing, 0, depth_m * np.float32(_NUM_COLOURS / max_m)).astype(np.int64).clip(0, _NUM_COLOURS - 1)
    return _table()[np.where(nothing, _NUM_COLOURS, index)]


@cache
def _table() -> Colours:
    """Colours by index, and last that of nothing."""
    import matplotlib  # Only here: a node whose colours nobody looks at starts a quarter of a second sooner without it.

    depths = matplotlib.colormaps["turbo"](np.arange(_NUM_COLOURS))[:, :3]
    return np.concatenate([np.round(255 * depths), [NOTHING_COLOUR]]).astype(np.uint8)
