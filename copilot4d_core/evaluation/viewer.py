# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A drive and its reconstruction as a Rerun recording, scan by scan.

What goes in: a runner and scans. What comes out: entities on the timelines `frame` and, where a scan has a stamp, `time`.
Unusual: the first scan fixes the colour scales, so that colours mean the same in every frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rerun as rr

from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import SensorPattern, SphericalPattern
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.evaluation.colours import (
    DEPTH_PALETTE,
    SURPRISE_PALETTE,
    Pixels,
    colours,
    error_colours,
    far_limit_m,
    height_limits_m,
    token_colours,
)
from copilot4d_core.evaluation.evaluate import points_on_rays
from copilot4d_core.evaluation.reconstruction import Reconstruction, reconstruct
from copilot4d_core.evaluation.surprise import CAP_M, scan_surprise_m
from copilot4d_core.evaluation.viewer_blueprint import blueprint
from copilot4d_core.evaluation.viewer_legend import legend
from copilot4d_core.grid import FloatArray, Grid

APPLICATION = "copilot4d"
FRAME, TIME = "frame", "time"
POINT_RADIUS = -1.25
"""Negative: in pixels of the screen, so that far points are seen, too."""
REGION_COLOUR = (90, 90, 90)
STRIP_ASPECT = 5
"""A depth image of 64 beams and 1024 columns is a thin line on the screen; its rows are repeated up to this width per height."""


class _Scales(NamedTuple):
    """What the colours stand for."""

    height_m: tuple[float, float]
    far_m: float


class DriveRecording:
    """Logs scans one after the other into a recording; close it to finish its file."""

    def __init__(self, runner: Runner, name: str, path: Path, pattern: SensorPattern | None = None) -> None:
        """Start the recording's file.

        Args:
            runner: the model.
            name: of the drive, for the reader.
            path: `.rrd` file to write.
            pattern: rays of the reconstruction; None fits an even pattern to the first scan.
        """
        self.frames = 0
        """Scans logged so far."""
        self.left_out: list[str] = []
        """Names of the scans without a return inside the model's region."""
        self._runner, self._pattern = runner, pattern
        self._grid = Grid(runner.config)
        self._scales: _Scales | None = None
        self._recording = rr.RecordingStream(APPLICATION)
        self._recording.save(path)
        self._recording.send_recording_name(f"{runner.model_id} on {name}")

    def __enter__(self) -> DriveRecording:
        return self

    def __exit__(self, *unused: object) -> None:
        self._recording.disconnect()

    def add(self, number: int, scan: Scan) -> None:
        """Reconstruct a scan and log both; a scan without a return inside the region is left out and noted.

        Args:
            number: of the scan in its drive.
        """
        inside_m = scan.points_m[self._grid.inside(scan.points_m)]
        if len(inside_m) == 0:
            self.left_out.append(scan.name)
            return
        if self._pattern is None:
            self._pattern = SphericalPattern.fit(scan.points_m, scan.origin_m)
        result = reconstruct(self._runner, scan, self._pattern)
        if self._scales is None:
            self._scales = self._start(inside_m, result)
        self._set_time(number, scan.stamp_ns)
        self._log_points(scan, result, self._scales)
        self._log_images(result, self._scales)
        self._log_scalars(result)
        self._recording.flush()
        self.frames += 1

    def _start(self, inside_m: FloatArray, first: Reconstruction) -> _Scales:
        """Fix the colour scales, and log what holds for the whole drive."""
        scales = _Scales(height_limits_m(inside_m, self._grid), far_limit_m(first.input_m))
        self._recording.send_blueprint(blueprint(self._grid))
        low_m, high_m = self._grid.minimum_m, self._grid.maximum_m
        self._log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        region = rr.Boxes3D(mins=[low_m], sizes=[high_m - low_m], colors=[REGION_COLOUR], radii=[-0.5], fill_mode="MajorWireframe")
        self._log("region", region, static=True)
        self._log("legend", rr.EncodedImage(contents=legend(scales.height_m, scales.far_m), media_type="image/png"), static=True)
        return scales

    def _set_time(self, number: int, stamp_ns: int | None) -> None:
        self._recording.reset_time()
        self._recording.set_time(FRAME, sequence=number)
        if stamp_ns is not None:
            self._recording.set_time(TIME, timestamp=np.datetime64(stamp_ns, "ns"))

    def _log_points(self, scan: Scan, result: Reconstruction, scales: _Scales) -> None:
        points_m = points_on_rays(result.rays, result.depth_m.ravel())
        error_m = result.error_m.ravel()[np.isfinite(result.depth_m.ravel())]
        heights_m = np.where(self._grid.inside(scan.points_m), scan.points_m[:, 2], np.nan)
        for path, positions_m, its_colours in (
            ("points/input", scan.points_m, colours(heights_m, DEPTH_PALETTE, *scales.height_m)),
            ("points/reconstruction", points_m, colours(points_m[:, 2], DEPTH_PALETTE, *scales.height_m)),
            ("points/error", points_m, error_colours(error_m)),
        ):
            self._log(path, rr.Points3D(positions_m, colors=its_colours, radii=[POINT_RADIUS]))

    def _log_images(self, result: Reconstruction, scales: _Scales) -> None:
        self._log("depth/input", _strip(colours(result.input_m, DEPTH_PALETTE, 0.0, scales.far_m)))
        self._log("depth/reconstruction", _strip(colours(result.depth_m, DEPTH_PALETTE, 0.0, scales.far_m)))
        self._log("depth/error", _strip(error_colours(result.error_m)))
        tokens = (255 * token_colours(result.tokens, result.occupied)).round().astype(np.uint8)
        self._log("tokens", _ahead_up(tokens))
        self._log("surprise/map", _ahead_up(colours(result.surprise_m, SURPRISE_PALETTE, 0.0, CAP_M)))

    def _log_scalars(self, result: Reconstruction) -> None:
        depth = result.metrics(self._grid)
        self._log("error/median_m", rr.Scalars(depth.l1_median_m))
        self._log("share/within_0p2m", rr.Scalars(depth.within_0p2m))
        self._log("share/within_1m", rr.Scalars(depth.within_1m))
        self._log("surprise/mean_m", rr.Scalars(scan_surprise_m(result.surprise_m)))
        self._log("codes/used", rr.Scalars(result.codes))
        for stage, elapsed_ms in result.ms.items():
            self._log(f"ms/{stage}", rr.Scalars(elapsed_ms))

    def _log(self, path: str, what: Any, static: bool = False) -> None:
        self._recording.log(path, what, static=static, strict=True)


def _ahead_up(image: Pixels) -> rr.Image:
    """A picture of the token grid, whose row 0 is y_min and column 0 x_min, turned so that ahead (+x) is up and left (+y) is left."""
    return rr.Image(image.transpose(1, 0, 2)[::-1, ::-1])


def _strip(image: Pixels) -> rr.Image:
    rows, columns, _ = image.shape
    return rr.Image(image.repeat(max(1, round(columns / (STRIP_ASPECT * rows))), axis=0))
