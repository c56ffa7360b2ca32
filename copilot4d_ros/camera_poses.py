# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Where the virtual cameras are: as their parameters say, or as TF says.

What goes in: a node whose cameras are declared. What comes out: cameras with a pose in the frame of a scan.
Unusual: TF is asked for what it knows now and never waited for; a camera without a transform gives no picture and a count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from copilot4d_core.data.camera import PinholeCamera, camera_pose_from_quaternion
from copilot4d_ros.parameters import CameraParameters, optical_frame

_WARN_EVERY_S = 5.0


class CameraPoses:
    """Looks the cameras up; `cameras` gives the parameters that hold at the moment."""

    def __init__(self, node: Node, cameras: Callable[[], Mapping[str, CameraParameters]]) -> None:
        """Listen to TF if a camera needs it.

        Raises:
            ValueError: a camera needs TF, and tf2_ros is not installed.
        """
        self._node, self._cameras = node, cameras
        self.missing = 0
        """Pictures that were not rendered for want of a transform."""
        self._found: dict[str, tuple[Any, PinholeCamera]] = {}
        self._told_s: dict[str, float] = {}
        from_tf = sorted(name for name, camera in cameras().items() if camera.pose_from == "tf")
        self._tf2 = _tf2(from_tf) if from_tf else None
        if self._tf2 is None:
            return
        # Without the node: the buffer's own look at the clock ends the process with tf2_ros 0.36.4, and Humble's has none.
        self._buffer = self._tf2.Buffer()
        self._listener = self._tf2.TransformListener(self._buffer, node)
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        self._jumps = node.get_clock().create_jump_callback(back, post_callback=lambda jump: self._buffer.clear())

    def close(self) -> None:
        """Listen to TF no more."""
        if self._tf2 is not None:
            self._listener.unregister()
            self._jumps.unregister()

    def camera(self, name: str, scan_frame: str) -> PinholeCamera | None:
        """A camera in the frame of a scan, the same object while nothing moves; None while TF does not know where it is."""
        parameters = self._cameras()[name]
        if parameters.pose_from == "parameters":
            return parameters.camera
        assert self._tf2 is not None
        frame = optical_frame(self._node.get_name(), name, parameters)
        try:
            return self._posed(name, parameters, self._buffer.lookup_transform(scan_frame, frame, Time()).transform)
        except (self._tf2.TransformException, ValueError) as error:  # tf2 lets infinite transforms through, which are no pose
            self.missing += 1
            self._tell(name, f"{name}: no picture, because TF does not know where {frame} is in {scan_frame}: {str(error).rstrip(' .')}; publish its "
                             "transform, for instance with static_transform_publisher")
            return None

    def _posed(self, name: str, parameters: CameraParameters, transform: Any) -> PinholeCamera:
        t, q = transform.translation, transform.rotation
        key = parameters, t.x, t.y, t.z, q.x, q.y, q.z, q.w
        if name not in self._found or self._found[name][0] != key:
            pose = camera_pose_from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
            self._found[name] = key, parameters.camera_at(pose)
        return self._found[name][1]

    def _tell(self, name: str, text: str) -> None:
        """Warn, each camera for itself: ROS limits the rate of a line of code, whatever it says."""
        if time.monotonic() - self._told_s.get(name, -_WARN_EVERY_S) >= _WARN_EVERY_S:
            self._told_s[name] = time.monotonic()
            self._node.get_logger().warning(text)


def _tf2(names: list[str]) -> Any:
    try:
        import tf2_ros
    except ImportError as error:
        raise ValueError(f"{names[0]}.pose_from: tf needs tf2_ros, which cannot be imported ({error}); install ros-DISTRO-tf2-ros, or give the pose "
                         "by parameters") from error
    return tf2_ros
