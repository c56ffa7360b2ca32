# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 messages of one publisher to what a tokenizer takes: the returns, and which of them lie in its region.

What goes in: messages. What comes out: packed float32 points. Unusual: float32 in this machine's byte order, which nearly every driver sends,
is read by a kernel in one go; everything else by NumPy, which gives the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.data.point_cloud2 import CloudLayout, CloudMessage, checked_bytes, layout_from_message, points_from_message
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.cloud_points import Placement, returns_in


class Returns(NamedTuple):
    """Of one cloud."""

    points_m: FloatArray
    """(N, 3) float32, metres, in the sensor's frame and the order of the cloud."""
    inside: BoolArray
    """(N,): which lie in the region."""
    dropped: int
    """Points that are no returns: not finite, exactly (0, 0, 0), or nearer than asked for."""


class CloudReader:
    """Reads clouds, and checks their fields only when these change."""

    def __init__(self, grid: Grid) -> None:
        """Args: `grid`: of the region."""
        self._grid = grid
        self.layout: CloudLayout | None = None
        """Of the last cloud that could be read."""

    def __call__(self, message: CloudMessage, min_range_m: float = 0.0) -> Returns:
        """The returns of a cloud.

        Args:
            message: a PointCloud2 in the sensor's frame, metres.
            min_range_m: nearer points are no returns; 0: any may be.
        Raises:
            ValueError: the layout cannot be read, or there is less data than the message says.
        """
        self.layout = layout = layout_from_message(message, self.layout)
        if layout.float32_offsets is None:
            return self._plainly(message, layout, min_range_m)
        data, row_step = checked_bytes(message)
        placement = Placement(message.height, message.width, row_step, message.point_step, layout.float32_offsets)
        points_m, inside = returns_in(data, placement, self._grid, min_range_m)
        return Returns(points_m, inside, message.height * message.width - len(points_m))

    def _plainly(self, message: CloudMessage, layout: CloudLayout, min_range_m: float) -> Returns:
        points_m, _, dropped = points_from_message(message, layout)
        if min_range_m > 0:
            far = np.einsum("ni,ni->n", points_m, points_m) >= np.float32(min_range_m**2)
            points_m, dropped = points_m[far], dropped + int(np.count_nonzero(~far))
        return Returns(points_m, self._grid.inside(points_m), dropped)
