# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The topics of what is rendered: `~/depth`, `~/depth/color`, `~/reconstruction`, and `~/CAMERA/depth` with `~/CAMERA/camera_info`.

What goes in: rendered views. What comes out: messages, for those who subscribe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from copilot4d_core.data.camera import PinholeCamera
from copilot4d_core.grid import FloatArray
from copilot4d_ros import qos
from copilot4d_ros.camera_poses import CameraPoses
from copilot4d_ros.depth_colours import depth_colours
from copilot4d_ros.messages import camera_info, cloud_from_points, image_from_colours, image_from_depth
from copilot4d_ros.parameters import CameraParameters, ModelParameters, optical_frame
from copilot4d_ros.views import DepthMode, Rendered, Wanted


class ViewTopics:
    """Publishers of a node's views."""

    def __init__(self, node: Node, parameters: Callable[[], ModelParameters], cameras: Callable[[], Mapping[str, CameraParameters]],
                 mismatch: Callable[[str], None]) -> None:
        """Advertise them.

        Args:
            parameters: gives the parameters that hold at the moment.
            cameras: gives those of the cameras, by name.
            mismatch: told the topic when a subscriber asks for more than is offered.
        Raises:
            ValueError: a camera needs TF, and tf2_ros is not installed.
        """
        self._parameters, self._cameras = parameters, cameras
        self.poses = CameraPoses(node, cameras)
        self._frames = {name: optical_frame(node.get_name(), name, camera) for name, camera in cameras().items()}

        def advertise(kind: Any, topic: str) -> Any:
            return qos.publisher(node, kind, topic, qos.OUTPUT, mismatch)

        self._depth, self._colours = advertise(Image, "~/depth"), advertise(Image, "~/depth/color")
        self._reconstruction = advertise(PointCloud2, "~/reconstruction")
        self._camera_depths = {name: advertise(Image, f"~/{name}/depth") for name in self._frames}
        self._camera_infos = {name: advertise(CameraInfo, f"~/{name}/camera_info") for name in self._frames}
        self._node = node
        self._publishers = [self._depth, self._colours, self._reconstruction, *self._camera_depths.values(), *self._camera_infos.values()]

    def withdraw(self) -> None:
        """Take the topics off the graph."""
        self.poses.close()
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def wanted(self, scan_frame: str) -> Wanted:
        """What somebody subscribes to; fails when the context closes, which is an exit and no fault of a model."""
        turn = _watched(self._depth) or _watched(self._colours)
        found = {name: self.poses.camera(name, scan_frame) for name, publisher in self._camera_depths.items() if _watched(publisher)}
        cameras: dict[str, PinholeCamera] = {name: camera for name, camera in found.items() if camera is not None}
        return Wanted(DepthMode(self._parameters().depth.mode), turn, _watched(self._reconstruction), cameras)

    def publish(self, rendered: Rendered, wanted: Wanted, header: Any, error_m: FloatArray | None = None) -> None:
        """Send what was rendered.

        Args:
            wanted: what it was rendered for.
            header: of the scan; kept whole, but for the frame of a camera.
            error_m: (rows, columns) reconstruction minus input, NaN where either has nothing; None without an input.
        """
        if rendered.depth_m is not None and _watched(self._depth):
            self._depth.publish(image_from_depth(rendered.depth_m, header))
        if rendered.depth_m is not None and _watched(self._colours):
            self._colours.publish(image_from_colours(depth_colours(rendered.depth_m, self._parameters().depth.color_max_m), header))
        if rendered.points_m is not None:
            self._reconstruction.publish(cloud_from_points(rendered.points_m, header, error_m))
        for name, depth_m in rendered.cameras_m.items():
            camera_header = Header(stamp=header.stamp, frame_id=self._frames[name])
            self._camera_infos[name].publish(camera_info(wanted.cameras[name], camera_header))
            self._camera_depths[name].publish(image_from_depth(depth_m, camera_header))


def _watched(publisher: Any) -> bool:
    return bool(publisher.get_subscription_count())
