# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which topics of the graph carry clouds that somebody else publishes."""

from __future__ import annotations

from rclpy.node import Node

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
RECONSTRUCTION = "/reconstruction"
"""What this package calls the clouds that it makes: no input of it."""


def cloud_topics(node: Node) -> list[str]:
    """Names of the PointCloud2 topics with a publisher other than this node, in the order of the alphabet."""
    return sorted(topic for topic, types in node.get_topic_names_and_types()
                  if CLOUD_TYPE in types and not topic.endswith(RECONSTRUCTION) and _others_publish(node, topic))


def _others_publish(node: Node, topic: str) -> bool:
    own = node.get_name(), node.get_namespace()
    return any((info.node_name, info.node_namespace) != own for info in node.get_publishers_info_by_topic(topic))
