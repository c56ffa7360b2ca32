# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The nodes' parameters: names, types, ranges, descriptions and defaults, in one place.

What training fixed (region, cells, codebook) travels with the weights and is no parameter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from copilot4d_core.data.camera import CameraPose, PinholeCamera, camera_pose_from_angles
from copilot4d_core.data.sensor_file import sensor_file
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_core.deploy.open_runner import RUNNERS
from copilot4d_ros.parameter_table import parameter
from copilot4d_ros.views import DepthMode

AUTO_TOPIC = "auto"
OWN_NAMES = ("debug", "depth", "diagnostics", "input", "model_info", "reconstruction", "tokens")
"""What a camera cannot be called: its topics lie beside these."""


@dataclass(frozen=True)
class DepthParameters:
    """Rays and looks of the depth image."""

    sensor: str = parameter("", "Rays of the depth image: a sensor (hdl64e, hdl32e, vlp16, vlp32c, os1_64, os1_128, pandar64) or the path of a "
                            "sensor file; empty: the four parameters below.")
    rows: int = parameter(64, "Rows of the depth image (beams).", 2, 256)
    columns: int = parameter(1024, "Columns of the depth image (steps of a full turn).", 1, 4096)
    elevation_min_deg: float = parameter(-24.8, "Elevation of the lowest row in degrees.", -90, 90)
    elevation_max_deg: float = parameter(2.0, "Elevation of the highest row in degrees.", -90, 90)
    mode: str = parameter("median", "Which depth of a ray is published: that of the surface where the weights reach half (median, which takes "
                          "least time), the expected one, or that of the largest weight (strongest).",
                          choices=[mode.value for mode in DepthMode], live=True)
    color_max_m: float = parameter(50.0, "Depth at the far end of the colours of `~/depth/color`; the near end is 0.", 1, 1000, live=True)

    @cached_property
    def pattern(self) -> SphericalPattern | BeamPattern:
        """The rays.

        Raises:
            ValueError: no such sensor, or elevations in the wrong order.
        """
        if self.sensor:
            return sensor_file(self.sensor)
        return SphericalPattern(self.rows, self.columns, self.elevation_min_deg, self.elevation_max_deg)


@dataclass(frozen=True)
class CameraParameters:
    """One virtual pinhole camera; the group has the camera's name."""

    frame_id: str = parameter("", "Frame of the camera's images: its optical frame (z forward, x right, y down); empty: NODE_CAMERA_optical.")
    pose_from: str = parameter("parameters", "Where the camera is: as the six parameters below say, or as TF says of its frame (tf; needs tf2_ros).",
                               choices=("parameters", "tf"))
    width: int = parameter(320, "Columns of the camera's depth image.", 1, 4096, live=True)
    height: int = parameter(240, "Its rows.", 1, 4096, live=True)
    fx: float = parameter(160.0, "Its focal length along a row in pixels.", 1, 100000, live=True)
    fy: float = parameter(160.0, "Its focal length along a column in pixels.", 1, 100000, live=True)
    cx: float = parameter(159.5, "Image column of its optical axis; the middle of the first pixel is 0.", -100000, 100000, live=True)
    cy: float = parameter(119.5, "Image row of its optical axis.", -100000, 100000, live=True)
    x_m: float = parameter(0.0, "Where it is in the sensor's frame, forward.", -1000, 1000, live=True)
    y_m: float = parameter(0.0, "To the left.", -1000, 1000, live=True)
    z_m: float = parameter(0.0, "Up.", -1000, 1000, live=True)
    roll_deg: float = parameter(0.0, "Turn about its viewing axis; positive leans to the right.", -180, 180, live=True)
    pitch_deg: float = parameter(0.0, "Positive looks down.", -180, 180, live=True)
    yaw_deg: float = parameter(0.0, "Positive looks left; 0 looks along +x.", -180, 180, live=True)

    @cached_property
    def camera(self) -> PinholeCamera:
        """The camera where the parameters put it; one object until they change."""
        return self.camera_at(camera_pose_from_angles((self.x_m, self.y_m, self.z_m), self.roll_deg, self.pitch_deg, self.yaw_deg))

    def camera_at(self, pose: CameraPose) -> PinholeCamera:
        """The camera somewhere else."""
        return PinholeCamera(self.width, self.height, self.fx, self.fy, self.cx, self.cy, pose)


@dataclass(frozen=True)
class DiagnosticsParameters:
    """What the node reports, and what it finds worth a warning."""

    period_s: float = parameter(1.0, "Seconds between two messages on /diagnostics.", 0.05, 60)
    budget_ms: float = parameter(100.0, "Warn when 95 % of the scans take longer than this: the time from one scan to the next.", 1, 60000, live=True)
    min_rate_hz: float = parameter(0.0, "Warn when scans arrive less often; 0: never.", 0, 1000, live=True)
    stale_s: float = parameter(5.0, "Report STALE when nothing has arrived for so long.", 0.1, 3600, live=True)


@dataclass(frozen=True)
class ModelParameters:
    """What both nodes with a model have."""

    weights: str = parameter("", "Path of the model's .safetensors file, or of a folder of `copilot4d export`; empty: the weights in the package.")
    runner: str = parameter("auto", "What runs the networks; auto: tensorrt where a GPU and an export are there, else kernels "
                            "(our own, on the CPU), or onnx (ONNX Runtime) where a model has no kernels. One that is named and cannot be had "
                            "ends the node.", choices=RUNNERS)
    int8: bool = parameter(False, "Eight-bit layers in ONNX Runtime.")
    engines: str = parameter("", "Folder of the TensorRT engines; empty: `engines` in the export folder.")
    autostart: bool = parameter(True, "Configure and activate at the start; else wait for a lifecycle manager.")
    build_only: bool = parameter(False, "Build engines and kernels, and end: exit code 0, or 1 with the reason.")
    input_qos: str = parameter("auto", "Reliability of the input. auto: best effort for clouds, which matches every publisher; for tokens as their "
                               "publisher offers.", choices=("auto", "best_effort", "reliable"))
    cameras: tuple[str, ...] = parameter(("camera",), "Names of the virtual cameras; each has the parameters of `camera` under its own name.")
    depth: DepthParameters = field(default_factory=DepthParameters)
    diagnostics: DiagnosticsParameters = field(default_factory=DiagnosticsParameters)

    def __post_init__(self) -> None:
        for name in self.cameras:
            if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in OWN_NAMES or self.cameras.count(name) > 1:
                raise ValueError(f"cameras: expected names of small letters, digits and _, each once and none of {', '.join(OWN_NAMES)}, "
                                 f"got {name!r}")
        _ = self.depth.pattern  # refused at the start, not at the first scan

    @property
    def model(self) -> Path | None:
        """Weights file or export folder; None for the weights in the package."""
        return Path(self.weights).expanduser() if self.weights else None

    @property
    def engine_folder(self) -> Path | None:
        """None for the folder beside the export."""
        return Path(self.engines).expanduser() if self.engines else None


@dataclass(frozen=True)
class DetokenizerParameters(ModelParameters):
    """Of the node `detokenizer`."""


@dataclass(frozen=True)
class TokenizerParameters(ModelParameters):
    """Of the node `tokenizer`."""

    input_topic: str = parameter("", "Topic of the clouds; empty: `~/input/points`; auto: the only PointCloud2 topic that somebody else publishes.")
    max_points: int = parameter(1_000_000, "A larger cloud is thinned evenly to so many points, with a warning.", 1, 10_000_000, live=True)
    min_range_m: float = parameter(0.0, "Points nearer to the sensor are left out, such as returns from the vehicle itself.", 0, 100, live=True)
    on_empty: str = parameter("skip", "A cloud without a point in the region: count it as dropped (skip), or publish the tokens of empty space "
                              "(encode).", choices=("skip", "encode"), live=True)
    surprise_period_s: float = parameter(0.0, "Seconds between two looks at how badly the tokens explain a scan; a look costs one decoding where "
                                         "nothing is rendered anyway. 0: never.", 0, 3600, live=True)
    surprise_warn_m: float = parameter(0.58, "Warn when that is worse: scans unlike the training data (fits the weights in the package).", 0, 1,
                                       live=True)


def optical_frame(node_name: str, camera_name: str, camera: CameraParameters) -> str:
    """Frame of a camera's images."""
    return camera.frame_id or f"{node_name}_{camera_name}_optical"
