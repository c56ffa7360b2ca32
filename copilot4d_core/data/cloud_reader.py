# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 messages of one publisher to what a tokenizer takes: the returns.

What goes in: messages. What comes out: float32 points. Unusual: a cloud of nothing but returns, in this machine's float32, is not copied: its
points are a view of the message. Other layouts are read by NumPy, which gives the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.data.point_cloud2 import CloudLayout, CloudMessage, checked_bytes, layout_from_message, points_from_message
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.cloud_points import Placement, copy_returns, count_returns


class Returns(NamedTuple):
    """Of one cloud."""

    points_m: FloatArray
    """(N, 3) float32, metres, in the sensor's frame and the order of the cloud; may be a view of the message."""
    in_region: int
    """How many of them lie in the region."""
    dropped: int
    """Points that are no returns: not finite, exactly (0, 0, 0), or nearer than asked for."""


class CloudReader:
    """Reads clouds, and checks their fields only when these change."""

    def __init__(self, grid: Grid) -> None:
        """Args: `grid`: of the region."""
        self._grid = grid
        self.layout: CloudLayout | None = None
        """Of the last cloud that could be read."""
        self._expect_returns_only = True  # as the cloud before: a wrong guess costs a second look

    def __call__(self, message: CloudMessage, min_range_m: float = 0.0) -> Returns:
        """The returns of a cloud.

        Args:
            message: a PointCloud2 in the sensor's frame, metres; its data must stay as they are while the points are in use.
            min_range_m: nearer points are no returns; 0: any may be.
        Raises:
            ValueError: the layout cannot be read, or there is less data than the message says.
        """
        self.layout = layout = layout_from_message(message, self.layout)
        if layout.float32_offsets is None:
            return self._plainly(message, layout, min_range_m)
        data, row_step = checked_bytes(message)
        if not (count := message.height * message.width):
            return Returns(np.empty((0, 3), dtype=np.float32), 0, 0)
        placement = Placement(message.height, message.width, row_step, message.point_step, layout.float32_offsets)
        view = placement.view(data)
        if view is not None and self._expect_returns_only:
            found = count_returns(data, placement, self._grid, min_range_m)
            if found.returns == count:
                return Returns(view, found.inside, 0)
        points_m, found = copy_returns(data, placement, self._grid, min_range_m)
        self._expect_returns_only = found.returns == count
        return Returns(points_m, found.inside, count - found.returns)

    def view(self, message: CloudMessage) -> FloatArray | None:
        """All points of a cloud where they lie, (N, 3) float32, returns or not; None where they cannot stay there, or the cloud before held others.

        Raises:
            ValueError: see the call.
        """
        self.layout = layout = layout_from_message(message, self.layout)
        data, row_step = checked_bytes(message)
        if layout.float32_offsets is None or not message.height * message.width or not self._expect_returns_only:
            return None
        return Placement(message.height, message.width, row_step, message.point_step, layout.float32_offsets).view(data)

    def _plainly(self, message: CloudMessage, layout: CloudLayout, min_range_m: float) -> Returns:
        points_m, _, dropped = points_from_message(message, layout)
        if min_range_m > 0:
            far = np.einsum("ni,ni->n", points_m, points_m) >= np.float32(min_range_m**2)
            points_m, dropped = points_m[far], dropped + int(np.count_nonzero(~far))
        return Returns(points_m, int(np.count_nonzero(self._grid.inside(points_m))), dropped)
