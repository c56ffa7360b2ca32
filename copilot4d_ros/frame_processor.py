"""One cloud message to tokens, depth image and reconstructed points, with the time of each stage; knows no node."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.data.point_cloud2 import CloudLayout, layout_from_message, points_from_message
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_ros.frame_statistics import DropReason
from copilot4d_ros.views import Rendered, Views, Wanted


class RejectedCloudError(ValueError):
    """A cloud that gives no tokens; the text names what came and what was expected."""

    def __init__(self, reason: DropReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Frame(NamedTuple):
    """What one cloud became."""

    tokens: TokenArray
    rendered: Rendered
    points: int
    points_in_region: int
    points_dropped: int
    stage_ms: dict[str, float]


class FrameProcessor:
    """Turns cloud messages into frames with one runner and its views."""

    def __init__(self, runner: Runner, views: Views) -> None:
        self._runner, self._views = runner, views
        self._grid = Grid(runner.config)
        self._layout: CloudLayout | None = None

    def warm_up(self) -> None:
        """Run every stage once, so that the first scan does not wait for kernels to compile or memory to be laid out."""
        point_m = (self._grid.minimum_m + 0.25 * (self._grid.maximum_m - self._grid.minimum_m)).astype(np.float32)
        self._views.warm_up(self._runner.encode(point_m[None]))

    def process(self, message: Any, wanted: Wanted) -> Frame:
        """Tokens of a cloud and what is wanted of its reconstruction.

        Args:
            message: sensor_msgs/PointCloud2 in the sensor's frame, metres.
        Raises:
            RejectedCloudError: the cloud cannot be read, is empty, or lies outside the region.
        """
        started_s = time.perf_counter()
        points_m, dropped = self._points(message)
        inside = self._count_inside(points_m)
        stage_ms = {"unpack": _since_ms(started_s)}
        tokens = self._runner.encode(points_m)
        stage_ms |= {stage: ms for stage, ms in self._runner.stage_ms.items() if stage in ("voxelize", "encode")}
        rendered, rendering_ms = self._views.render(tokens, wanted)
        return Frame(tokens, rendered, len(points_m), inside, dropped, stage_ms | rendering_ms)

    def _points(self, message: Any) -> tuple[FloatArray, int]:
        if message.width * message.height == 0:
            raise RejectedCloudError(DropReason.EMPTY, f"cloud: expected points, got width {message.width} and "
                                     f"height {message.height}")
        try:
            self._layout = layout_from_message(message, self._layout)
            points_m, _, dropped = points_from_message(message, self._layout)
        except ValueError as error:
            raise RejectedCloudError(DropReason.INVALID, str(error)) from error
        if len(points_m) == 0:
            raise RejectedCloudError(DropReason.EMPTY, f"cloud: expected finite points, got {dropped} points that are all NaN, "
                                     "infinite or (0, 0, 0)")
        return points_m, dropped

    def _count_inside(self, points_m: FloatArray) -> int:
        inside = int(np.count_nonzero(self._grid.inside(points_m)))
        if inside == 0:
            low, high = points_m.min(axis=0).tolist(), points_m.max(axis=0).tolist()
            raise RejectedCloudError(DropReason.OUTSIDE, f"cloud: expected points between {self._grid.minimum_m.tolist()} and "
                                     f"{self._grid.maximum_m.tolist()} m, got {len(points_m)} points between {low} and {high}; "
                                     "the unit must be metres and the frame the sensor's own")
        return inside


def _since_ms(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3
