"""One cloud message to tokens, depth image and reconstructed points, with the time of each stage; knows no node."""

from __future__ import annotations

import enum
import time
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.data.camera import PinholeCamera
from copilot4d_core.data.point_cloud2 import CloudLayout, layout_from_message, points_from_message
from copilot4d_core.data.rays import Rays
from copilot4d_core.data.sensors import RayPattern
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
    camera_depth_m: FloatArray | None
    """(height, width) float32 metres along the camera's optical axis, NaN for nothing; None when it was not asked for."""
    points: int
    points_in_region: int
    points_dropped: int
    stage_ms: dict[str, float]


class Wanted(NamedTuple):
    """What is to be rendered of a scan; nothing costs nothing."""

    mode: DepthMode
    turn: bool
    """Depth image and points of the sensor's pattern."""
    camera: bool
    """Depth image of the virtual camera."""


class FrameProcessor:
    """Turns cloud messages into frames with one runner, one pattern of rays and one virtual camera."""

    def __init__(self, runner: Runner, pattern: RayPattern, camera: PinholeCamera) -> None:
        self._runner = runner
        self._grid = Grid(runner.config)
        self._shape = pattern.rows, pattern.columns
        self._layout: CloudLayout | None = None
        self._camera = camera
        turn, view = (each.rays(np.zeros(3, dtype=np.float32)) for each in (pattern, camera))
        both = Rays(np.concatenate([turn.origins_m, view.origins_m]), np.concatenate([turn.directions, view.directions]))
        self._rays = {(True, False): turn, (False, True): view, (True, True): both}

    def warm_up(self) -> None:
        """Run every stage once, so that the first scan does not wait for kernels to compile or memory to be laid out."""
        point_m = (self._grid.minimum_m + 0.25 * (self._grid.maximum_m - self._grid.minimum_m)).astype(np.float32)
        self._runner.decode(self._runner.encode(point_m[None]), self._rays[True, False])

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
        stage_ms |= _picked(self._runner.stage_ms, _ENCODE_STAGES)
        depth_m = reconstruction_m = camera_m = None
        if wanted.turn or wanted.camera:
            depth_m, reconstruction_m, camera_m = self._render(tokens, wanted)
            stage_ms |= _picked(self._runner.stage_ms, _DECODE_STAGES)
        return Frame(tokens, depth_m, reconstruction_m, camera_m, len(points_m), inside, dropped, stage_ms)

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

    def _render(self, tokens: TokenArray, wanted: Wanted) -> tuple[FloatArray | None, FloatArray | None, FloatArray | None]:
        """Depth and points of the turn, and depth of the camera; the tokens are decoded once for both."""
        rays = self._rays[wanted.turn, wanted.camera]
        distance_m = _chosen_depth(self._runner.decode(tokens, rays), wanted.mode)
        count = self._shape[0] * self._shape[1] if wanted.turn else 0
        depth_m = points_m = camera_m = None
        if wanted.turn:
            points_m = rays.origins_m[:count] + rays.directions[:count] * distance_m[:count, None]
            points_m = points_m.astype(np.float32, copy=False).reshape(*self._shape, 3)
            depth_m = distance_m[:count].reshape(self._shape)
        if wanted.camera:
            camera_m = self._camera.z_depth_m(distance_m[count:]).reshape(self._camera.rows, self._camera.columns)
        return depth_m, points_m, camera_m


def _chosen_depth(rendering: Rendering, mode: DepthMode) -> FloatArray:
    if mode is DepthMode.EXPECTED:
        return rendering.expected_m
    return rendering.median_m if mode is DepthMode.MEDIAN else rendering.strongest_m


def _picked(stage_ms: dict[str, float], names: tuple[str, ...]) -> dict[str, float]:
    return {name: stage_ms[name] for name in names if name in stage_ms}


def _since_ms(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3
