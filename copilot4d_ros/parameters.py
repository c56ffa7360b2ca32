"""The node's parameters: names, types, ranges, descriptions and defaults, in one table.

What training fixed (region, cells, codebook) travels with the weights and is no parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from copilot4d_core.data.camera import PinholeCamera, camera_pose_from_angles
from copilot4d_core.data.sensor_file import sensor_file
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_core.deploy.open_runner import RUNNERS
from copilot4d_ros.views import DepthMode


class ParameterSpec(NamedTuple):
    """One parameter; `low` and `high` bound a number, `choices` a string."""

    name: str
    default: str | int | float | bool
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = True


SPECS = (
    ParameterSpec("weights", "", "Path of the model's .safetensors file, or of a folder of `copilot4d export`; empty: the weights in the package."),
    ParameterSpec("runner", "auto", "What runs the networks; auto: tensorrt where a GPU and an export are there, else onnx (ONNX Runtime on the "
                  "CPU). One that is named and cannot be had ends the node.", choices=RUNNERS),
    ParameterSpec("int8", False, "Eight-bit layers in ONNX Runtime."),
    ParameterSpec("engines", "", "Folder of the TensorRT engines; empty: `engines` in the export folder."),
    ParameterSpec("autostart", True, "Configure and activate at the start; else wait for a lifecycle manager."),
    ParameterSpec("build_only", False, "Build engines and kernels, and end: exit code 0, or 1 with the reason."),
    ParameterSpec("input_qos", "auto", "Reliability of the input; auto matches every publisher.",
                  choices=("auto", "best_effort", "reliable")),
    ParameterSpec("depth.sensor", "", "Rays of the depth image: a sensor (hdl64e, hdl32e, vlp16, vlp32c, os1_64, os1_128, pandar64) or the path of a "
                  "sensor file; empty: the four parameters below."),
    ParameterSpec("depth.rows", 64, "Rows of the depth image (beams).", 2, 256),
    ParameterSpec("depth.columns", 1024, "Columns of the depth image (steps of a full turn).", 1, 4096),
    ParameterSpec("depth.elevation_min_deg", -24.8, "Elevation of the lowest row in degrees.", -90.0, 90.0),
    ParameterSpec("depth.elevation_max_deg", 2.0, "Elevation of the highest row in degrees.", -90.0, 90.0),
    ParameterSpec("depth.mode", "median", "Which depth of a ray is published: the first distance where the weights reach half "
                  "(median), the expected one, or that of the largest weight (strongest).",
                  choices=tuple(mode.value for mode in DepthMode), read_only=False),
    ParameterSpec("camera.frame_id", "tokenizer_camera_optical", "Frame of the camera's images: its optical frame (z forward, x right, y down)."),
    ParameterSpec("camera.width", 320, "Columns of the virtual camera's depth image.", 1, 4096),
    ParameterSpec("camera.height", 240, "Its rows.", 1, 4096),
    ParameterSpec("camera.fx", 160.0, "Its focal length along a row in pixels.", 1.0, 100000.0),
    ParameterSpec("camera.fy", 160.0, "Its focal length along a column in pixels.", 1.0, 100000.0),
    ParameterSpec("camera.cx", 159.5, "Image column of its optical axis; the middle of the first pixel is 0.", -100000.0, 100000.0),
    ParameterSpec("camera.cy", 119.5, "Image row of its optical axis.", -100000.0, 100000.0),
    ParameterSpec("camera.x_m", 0.0, "Where it is in the sensor's frame, forward.", -1000.0, 1000.0),
    ParameterSpec("camera.y_m", 0.0, "To the left.", -1000.0, 1000.0),
    ParameterSpec("camera.z_m", 0.0, "Up.", -1000.0, 1000.0),
    ParameterSpec("camera.roll_deg", 0.0, "Turn about its viewing axis; positive leans to the right.", -180.0, 180.0),
    ParameterSpec("camera.pitch_deg", 0.0, "Positive looks down.", -180.0, 180.0),
    ParameterSpec("camera.yaw_deg", 0.0, "Positive looks left; 0 looks along +x.", -180.0, 180.0),
    ParameterSpec("diagnostics.period_s", 1.0, "Seconds between two messages on /diagnostics.", 0.05, 60.0),
)


class NodeSettings(NamedTuple):
    """Values that are fixed when the node starts."""

    weights: Path | None
    runner: str
    int8: bool
    engines: Path | None
    autostart: bool
    build_only: bool
    input_qos: str
    pattern: SphericalPattern | BeamPattern
    camera: PinholeCamera
    camera_frame_id: str
    diagnostics_period_s: float


def declare_parameters(node: Node) -> NodeSettings:
    """Declare every parameter and read those that are fixed at the start.

    Raises:
        ValueError: a string is none of its choices, or the elevations are in the wrong order.
        rclpy.exceptions.ParameterException: a number is out of its range, or a value has another type.
    """
    values: dict[str, Any] = {}
    for spec in SPECS:
        values[spec.name] = node.declare_parameter(spec.name, spec.default, _descriptor(spec)).value
        _check_choice(spec, values[spec.name])
    node.add_on_set_parameters_callback(refuse_unknown_choices)
    weights, engines = (Path(values[name]).expanduser() if values[name] else None for name in ("weights", "engines"))
    return NodeSettings(weights, values["runner"], values["int8"], engines, values["autostart"], values["build_only"],
                        values["input_qos"], _pattern(values), _camera(values), values["camera.frame_id"], values["diagnostics.period_s"])


def _pattern(values: dict[str, Any]) -> SphericalPattern | BeamPattern:
    if values["depth.sensor"]:
        return sensor_file(values["depth.sensor"])
    return SphericalPattern(values["depth.rows"], values["depth.columns"], values["depth.elevation_min_deg"], values["depth.elevation_max_deg"])


def _camera(values: dict[str, Any]) -> PinholeCamera:
    pose = camera_pose_from_angles([values[f"camera.{axis}_m"] for axis in "xyz"], values["camera.roll_deg"], values["camera.pitch_deg"],
                                   values["camera.yaw_deg"])
    return PinholeCamera(**{name: values[f"camera.{name}"] for name in ("width", "height", "fx", "fy", "cx", "cy")}, pose=pose)


def refuse_unknown_choices(changes: Sequence[Parameter[Any]]) -> Any:
    """Answer to a request to change parameters: refused, with the choices, when a string is none of them."""
    by_name = {spec.name: spec for spec in SPECS}
    for change in changes:
        if change.name in by_name:
            try:
                _check_choice(by_name[change.name], change.value)
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
    return SetParametersResult(successful=True)


def _check_choice(spec: ParameterSpec, value: Any) -> None:
    if spec.choices and value not in spec.choices:
        raise ValueError(f"{spec.name}: expected one of {', '.join(spec.choices)}, got {value!r}")


def _descriptor(spec: ParameterSpec) -> Any:
    descriptor = ParameterDescriptor(description=spec.description, read_only=spec.read_only)
    if spec.choices:
        descriptor.additional_constraints = f"one of {', '.join(spec.choices)}"
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)]
    return descriptor
