# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One cloud message to tokens, depth image and reconstructed points, with the time of each stage; knows no node."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.data.cloud_reader import CloudReader, Returns
from copilot4d_core.data.point_cloud2 import CloudLayout
from copilot4d_core.data.sensors import SensorPattern
from copilot4d_core.deploy.runner import CloudRunner, Runner, TokenArray
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_ros.frame_statistics import DropReason
from copilot4d_ros.parameters import TokenizerParameters
from copilot4d_ros.surprise_probe import SurpriseProbes
from copilot4d_ros.views import Rendered, Views, Wanted


class RejectedCloudError(ValueError):
    """A cloud that gives no tokens; the text names what came and what was expected."""

    def __init__(self, reason: DropReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class EncodedScan(NamedTuple):
    """The tokens of one cloud, and what they were made of."""

    tokens: TokenArray
    points_m: FloatArray
    """(N, 3) what was encoded, those outside the region among them."""
    points_in_region: int
    points_dropped: int
    points_thinned: int
    stage_ms: dict[str, float]


class Reconstruction(NamedTuple):
    """What is seen of those tokens."""

    rendered: Rendered
    error_m: FloatArray | None
    """(rows, columns) reconstruction minus the nearest return in the region in the same pixel; NaN where either is missing; None without points."""
    surprise_m: float | None
    """How badly the tokens explain the scan, see `evaluation/surprise.py`; None when it was not looked at."""
    stage_ms: dict[str, float]


class FrameProcessor:
    """Cloud messages to tokens, and tokens to what somebody looks at, with one runner and its views."""

    def __init__(self, runner: Runner, pattern: SensorPattern, parameters: Callable[[], TokenizerParameters]) -> None:
        """Args: `parameters` gives those that hold at the moment; the pattern is that of the depth image."""
        self._runner, self._pattern, self._parameters = runner, pattern, parameters
        self._views = Views(runner, pattern)
        self._grid = Grid(runner.config)
        self._probes = SurpriseProbes(self._grid, lambda: parameters().surprise_period_s)
        self._read = CloudReader(self._grid)

    @property
    def layout(self) -> CloudLayout | None:
        """Of the last cloud that could be read."""
        return self._read.layout

    def warm_up(self) -> None:
        """Run every stage once, so that the first scan does not wait for kernels to compile or memory to be laid out."""
        point_m = (self._grid.minimum_m + 0.25 * (self._grid.maximum_m - self._grid.minimum_m)).astype(np.float32)
        self._views.warm_up(self._runner.encode(point_m[None]))

    def encode(self, message: Any) -> EncodedScan:
        """Tokens of a cloud.

        Args:
            message: sensor_msgs/PointCloud2 in the sensor's frame, metres.
        Raises:
            RejectedCloudError: the cloud cannot be read, or gives no tokens because it is empty or lies outside the region.
        """
        started_s = time.perf_counter()
        if (whole_m := self._whole(message)) is not None:
            return self._encode_whole(message, whole_m, started_s)
        points_m, in_region, dropped = self._returns(message)
        points_m, thinned = thinned_evenly(points_m, self._parameters().max_points)
        if thinned:
            in_region = int(np.count_nonzero(self._grid.inside(points_m)))
        self._check(points_m, in_region, dropped)
        stage_ms = {"unpack": _since_ms(started_s)}
        tokens = self._runner.encode(points_m if len(points_m) else self._beyond_m())
        stage_ms |= {stage: ms for stage, ms in self._runner.stage_ms.items() if stage in ("voxelize", "encode")}
        return EncodedScan(tokens, points_m, in_region, dropped, thinned, stage_ms)

    def render(self, scan: EncodedScan, wanted: Wanted) -> Reconstruction:
        """What is wanted of a scan's reconstruction; nothing costs nothing, unless it is time to look how badly the tokens explain the scan."""
        probe = self._probes.aim(scan.points_m)
        rendered, stage_ms = self._views.render(scan.tokens, wanted, None if probe is None else probe.rays)
        surprise_m = None if probe is None or rendered.probe_m is None else probe.surprise_m(rendered.probe_m, self._grid)
        error_m = None
        if rendered.points_m is not None and rendered.depth_m is not None:
            returns_m = scan.points_m[self._grid.inside(scan.points_m)]
            error_m = rendered.depth_m - self._pattern.range_image(returns_m, np.zeros(3, dtype=np.float32))
        return Reconstruction(rendered, error_m, surprise_m, stage_ms)

    def _whole(self, message: Any) -> FloatArray | None:
        """All points of a cloud, if the runner finds the returns among them; None: they are to be found before."""
        if not (isinstance(self._runner, CloudRunner) and self._runner.takes_clouds):
            return None
        try:
            points_m = self._read.view(message)
        except ValueError as error:
            raise RejectedCloudError(DropReason.INVALID, str(error)) from error
        return points_m if points_m is not None and len(points_m) <= self._parameters().max_points else None

    def _encode_whole(self, message: Any, points_m: FloatArray, started_s: float) -> EncodedScan:
        assert isinstance(self._runner, CloudRunner)
        unpack_ms = _since_ms(started_s)
        tokens, returns, in_region = self._runner.encode_cloud(points_m, self._parameters().min_range_m)
        stage_ms = {"unpack": unpack_ms} | {stage: ms for stage, ms in self._runner.stage_ms.items() if stage in ("voxelize", "encode")}
        dropped = len(points_m) - returns
        if dropped:
            points_m = self._returns(message).points_m
        self._check(points_m, in_region, dropped)
        return EncodedScan(tokens, points_m, in_region, dropped, 0, stage_ms)

    def _returns(self, message: Any) -> Returns:
        try:
            return self._read(message, self._parameters().min_range_m)
        except ValueError as error:
            raise RejectedCloudError(DropReason.INVALID, str(error)) from error

    def _check(self, points_m: FloatArray, in_region: int, dropped: int) -> None:
        if in_region or self._parameters().on_empty == "encode":
            return
        if len(points_m) == 0:
            raise RejectedCloudError(DropReason.EMPTY, f"cloud: expected points, got {dropped} of which each is NaN, infinite, (0, 0, 0) or nearer "
                                     f"than min_range_m = {self._parameters().min_range_m:g}")
        low, high = points_m.min(axis=0).tolist(), points_m.max(axis=0).tolist()
        raise RejectedCloudError(DropReason.OUTSIDE, f"cloud: expected points between {self._grid.minimum_m.tolist()} and "
                                 f"{self._grid.maximum_m.tolist()} m, got {len(points_m)} points between {low} and {high}; "
                                 "the unit must be metres and the frame the sensor's own")

    def _beyond_m(self) -> FloatArray:
        """A point outside the region, which stands for none: runners take no empty cloud."""
        return (self._grid.maximum_m + 1.0).astype(np.float32)[None]


def thinned_evenly(points_m: FloatArray, most: int) -> tuple[FloatArray, int]:
    """At most so many points, evenly over the order in which they came: a sensor's turn stays whole.

    Returns:
        The points, and how many were left out.
    """
    excess = len(points_m) - most
    if excess <= 0:
        return points_m, 0
    return points_m[np.arange(most) * len(points_m) // most], excess


def _since_ms(started_s: float) -> float:
    return (time.perf_counter() - started_s) * 1e3
