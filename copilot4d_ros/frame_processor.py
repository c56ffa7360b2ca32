"""One cloud message to tokens, depth image and reconstructed points, with the time of each stage; knows no node."""

from __future__ import annotations

import enum
import time
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.data.point_cloud2 import CloudLayout, layout_from_message, points_from_message
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.runner import Rendering, Runner, TokenArray
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_ros.frame_statistics import DropReason

_ENCODE_STAGES = ("voxelize", "encode")
_DECODE_STAGES = ("decode", "render")


class DepthMode(str, enum.Enum):
    """Which depth of a ray is published."""

    EXPECTED = "expected"
    MEDIAN = "median"
    STRONGEST = "strongest"


class RejectedCloudError(ValueError):
    """A cloud that gives no tokens; the text names what came and what was expected."""

    def __init__(self, reason: DropReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Frame(NamedTuple):
    """What one cloud became."""

    tokens: TokenArray
    depth_m: FloatArray | None
    """(rows, columns) float32 metres along the ray, NaN for nothing; None when it was not asked for."""
    points_m: FloatArray | None
    """(rows, columns, 3) float32 metres, NaN for nothing; None when it was not asked for."""
    points: int
    points_in_region: int
    points_dropped: int
    stage_ms: dict[str, float]


class FrameProcessor:
    """Turns cloud messages into frames with one runner and one pattern of rays."""

    def __init__(self, runner: Runner, pattern: SphericalPattern) -> None:
        self._runner = runner
        self._grid = Grid(runner.config)
        self._shape = pattern.rows, pattern.columns
        self._layout: CloudLayout | None = None
        self._rays = pattern.rays(np.zeros(3, dtype=np.float32))

    def warm_up(self) -> None:
        """Run every stage once, so that the first scan does not wait for kernels to compile or memory to be laid out."""
        point_m = (self._grid.minimum_m + 0.25 * (self._grid.maximum_m - self._grid.minimum_m)).astype(np.float32)
        self._runner.decode(self._runner.encode(point_m[None]), self._rays)

    def process(self, message: Any, mode: DepthMode | None) -> Frame:
        """Tokens of a cloud and, unless `mode` is None, its reconstruction.

        Args:
            message: sensor_msgs/PointCloud2 in the sensor's frame, metres.
            mode: which depth to render; None renders nothing and costs nothing.
        Raises:
            RejectedCloudError: the cloud cannot be read, is empty, or lies outside the region.
        """
        started_s = time.perf_counter()
        points_m, dropped = self._points(message)
        inside = self._count_inside(points_m)
        stage_ms = {"unpack": _since_ms(started_s)}
        tokens = self._runner.encode(points_m)
        stage_ms |= _picked(self._runner.stage_ms, _ENCODE_STAGES)
        depth_m = reconstruction_m = None
        if mode is not None:
            depth_m, reconstruction_m = self._render(tokens, mode)
            stage_ms |= _picked(self._runner.stage_ms, _DECODE_STAGES)
        return Frame(tokens, depth_m, reconstruction_m, len(points_m), inside, dropped, stage_ms)

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

    def _render(self, tokens: TokenArray, mode: DepthMode) -> tuple[FloatArray, FloatArray]:
        depth_m = _chosen_depth(self._runner.decode(tokens, self._rays), mode)
        points_m = self._rays.origins_m + self._rays.directions * depth_m[:, None]
        return depth_m.reshape(self._shape), points_m.astype(np.float32, copy=False).reshape(*self._shape, 3)


def _chosen_depth(rendering: Rendering, mode: DepthMode) -> FloatArray:
    if mode is DepthMode.EXPECTED:
        return rendering.expected_m
    return rendering.median_m if mode is DepthMode.MEDIAN else rendering.strongest_m


def _picked(stage_ms: dict[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: stage_ms[name] for name in names if name in stage_ms}


def _since_ms(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3
