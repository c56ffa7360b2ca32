# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The reader and the node's intake in one process with a real (tiny, untrained) model, held against the oracle message by message.

What goes in: a PointCloud2. What comes out: a word for what became of it, or a `WrongError` that says what is wrong.
Unusual: the tokens are compared with those of the oracle's points in the reverse order, so a result that depends on the order is wrong, too.
"""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tiny_model import write_tiny_weights

from copilot4d_core.data.point_cloud2 import points_from_message
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import CloudRunner, TokenArray
from copilot4d_core.grid import FloatArray
from copilot4d_ros.frame_processor import FrameProcessor, RejectedCloudError
from copilot4d_ros.frame_statistics import DropReason, FrameStatistics
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.parameters import TokenizerParameters
from copilot4d_ros.views import DepthMode, Wanted
from trust.cloud_oracle import Point, Reading, read

HALF_WIDTH_M, HALF_HEIGHT_M = 10.0, 2.25
"""Region of the model `tiny`, half-open."""
NOTHING, TURN = Wanted(DepthMode.MEDIAN, False, False, {}), Wanted(DepthMode.MEDIAN, True, True, {})
JUMP_NS = 1_000_000_000
"""A stamp that goes back by more is a jump."""


class WrongError(AssertionError):
    """What came out is not what the message says."""


class Intake:
    """One model and what the node does with a cloud before it publishes."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self._runner = open_runner(write_tiny_weights(Path(folder) / "tiny.safetensors", sparse_dim=16), "onnx")
        assert isinstance(self._runner, CloudRunner) and self._runner.takes_clouds
        self.parameters = TokenizerParameters()
        self._processor = FrameProcessor(self._runner, SphericalPattern(4, 16), lambda: self.parameters)
        self._processor.warm_up()
        self._statistics, self._stamp_ns, self._jumps = FrameStatistics(), 0, 0
        self._empty = self._runner.encode(np.array([[1e3, 0.0, 0.0]], dtype=np.float32))

    def take(self, message: Any, most: int = 1_000_000, on_empty: str = "skip", turn: bool = False) -> str:
        """What became of a message: `tokens`, or the reason why there are none.

        Raises:
            WrongError: another result than the oracle's, an error of another type, or a refusal that names nothing that is wrong.
        """
        self.parameters = replace(self.parameters, max_points=most, on_empty=on_empty)
        self._check_stamps(message)
        reading = read(message)
        if not reading.problems:
            check_reader(message, reading)
        try:
            scan = self._processor.encode(message)
            self._processor.render(scan, TURN if turn else NOTHING)
        except RejectedCloudError as error:
            return self._check_refusal(error, reading, most, on_empty)
        except Exception as error:
            raise WrongError(f"untyped error {error!r}; the oracle says {reading.problems or len(reading.points)}") from error
        if reading.problems:
            raise WrongError(f"read, although it is wrong: {reading.problems}")
        points = thinned(reading.points, most)
        self._check_tokens(scan.tokens, points, on_empty)
        if (scan.points_in_region, scan.points_dropped) != (sum(map(is_inside, points)), reading.dropped):
            raise WrongError(f"{scan.points_in_region} points in the region and {scan.points_dropped} dropped, the oracle counts otherwise")
        return "tokens"

    def tokens_of(self, points_m: FloatArray) -> TokenArray:
        """What the model makes of points."""
        return self._runner.encode(points_m)

    def _check_refusal(self, error: RejectedCloudError, reading: Reading, most: int, on_empty: str) -> str:
        inside = any(map(is_inside, thinned(reading.points, most)))
        if reading.problems:
            expected = DropReason.INVALID
        elif inside or on_empty == "encode":
            raise WrongError(f"refused, although it can be read: {error}")
        else:
            expected = DropReason.OUTSIDE if reading.points else DropReason.EMPTY
        if error.reason is not expected:
            raise WrongError(f"refused as {error.reason.value}, expected {expected.value}: {error}")
        if reading.problems and not any(re.search(problem, str(error)) for problem in reading.problems):
            raise WrongError(f"the refusal names nothing of {reading.problems}: {error}")
        return error.reason.value

    def _check_tokens(self, tokens: TokenArray, points: list[Point], on_empty: str) -> None:
        expected = self._runner.encode(np.array(points[::-1], dtype=np.float32)) if any(map(is_inside, points)) else self._empty
        if not np.array_equal(tokens, expected):
            raise WrongError(f"{np.count_nonzero(tokens != expected)} tokens are not those of the same points in reverse order")

    def _check_stamps(self, message: Any) -> None:
        before, now = self._stamp_ns, stamp_ns(message.header)
        if now != message.header.stamp.sec * 10**9 + message.header.stamp.nanosec:
            raise WrongError(f"stamp {now}")
        self._jumps += now < before - JUMP_NS and self._statistics.snapshot().received > 0
        self._statistics.received(now, before)
        self._stamp_ns = now
        if (jumps := self._statistics.snapshot().time_jumps) != self._jumps:
            raise WrongError(f"{jumps} jumps of time were counted, expected {self._jumps}")


def check_reader(message: Any, reading: Reading) -> None:
    """Points and intensity bit for bit; NaN of an intensity counts as equal.

    Raises:
        WrongError: others than the oracle's.
    """
    try:
        points_m, intensity, dropped = points_from_message(message)
    except Exception as error:
        raise WrongError(f"the reader fails with {error!r} on a message that can be read") from error
    expected = np.array(reading.points, dtype=np.float32).reshape(-1, 3)
    if dropped != reading.dropped or points_m.tobytes() != expected.tobytes():
        raise WrongError(f"{len(points_m)} points and {dropped} dropped, the oracle has {len(expected)} and {reading.dropped}, or others")
    wanted = None if reading.intensity is None else np.array(reading.intensity, dtype=np.float32)
    if (intensity is None) != (wanted is None) or (intensity is not None and not np.array_equal(intensity, wanted, equal_nan=True)):
        raise WrongError(f"intensity {intensity}, the oracle has {wanted}")


def is_inside(point: Point) -> bool:
    """Whether a point lies in the half-open region."""
    return all(-half <= value < half for value, half in zip(point, (HALF_WIDTH_M, HALF_WIDTH_M, HALF_HEIGHT_M), strict=True))


def thinned(points: list[Point], most: int) -> list[Point]:
    """At most so many, evenly."""
    return points if len(points) <= most else [points[math.floor(index * len(points) / most)] for index in range(most)]
