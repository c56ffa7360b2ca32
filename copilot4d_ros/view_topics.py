"""The topics of what is rendered: `~/depth`, `~/reconstruction`, `~/camera/depth` and `~/camera/camera_info`.

What goes in: rendered views. What comes out: messages, for those who subscribe.
"""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from copilot4d_ros import qos
from copilot4d_ros.messages import camera_info, cloud_from_points, image_from_depth
from copilot4d_ros.parameters import NodeSettings
from copilot4d_ros.views import DepthMode, Rendered, Wanted


class ViewTopics:
    """Publishers of a node's views."""

    def __init__(self, node: Node, settings: NodeSettings) -> None:
        self._node, self._settings = node, settings
        self._depth = node.create_publisher(Image, "~/depth", qos.OUTPUT)
        self._reconstruction = node.create_publisher(PointCloud2, "~/reconstruction", qos.OUTPUT)
        self._camera_depth = node.create_publisher(Image, "~/camera/depth", qos.OUTPUT)
        self._camera_info = node.create_publisher(CameraInfo, "~/camera/camera_info", qos.OUTPUT)
        self.publishers: list[Any] = [self._depth, self._reconstruction, self._camera_depth, self._camera_info]

    def wanted(self) -> Wanted:
        """What somebody subscribes to; fails when the context closes, which is an exit and no fault of a model."""
        turn = self._depth.get_subscription_count() + self._reconstruction.get_subscription_count() > 0
        return Wanted(DepthMode(self._node.get_parameter("depth.mode").value), turn, self._camera_depth.get_subscription_count() > 0)

    def publish(self, rendered: Rendered, header: Any) -> None:
        """Send what was rendered.

        Args:
            header: of the scan; kept whole, but for the frame of the camera.
        """
        if rendered.depth_m is not None and self._depth.get_subscription_count():
            self._depth.publish(image_from_depth(rendered.depth_m, header))
        if rendered.points_m is not None and self._reconstruction.get_subscription_count():
            self._reconstruction.publish(cloud_from_points(rendered.points_m, header))
        if rendered.camera_depth_m is not None:
            camera_header = Header(stamp=header.stamp, frame_id=self._settings.camera_frame_id)
            self._camera_info.publish(camera_info(self._settings.camera, camera_header))
            self._camera_depth.publish(image_from_depth(rendered.camera_depth_m, camera_header))
