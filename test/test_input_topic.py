# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Where the node's clouds come from: silence is told with what is there instead, and the only cloud topic is found. On a graph with nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient  # noqa: E402
from sensor_msgs.msg import PointCloud2  # noqa: E402
from test_node import FAST_DIAGNOSTICS, node_process  # noqa: E402

from copilot4d_ros import qos  # noqa: E402

WARN, STALE = b"\x01", b"\x03"


def test_silence_is_stale_and_says_where_clouds_are(graph: None, tmp_path: Path) -> None:
    with node_process("silent", tmp_path / "log.txt", *FAST_DIAGNOSTICS, "-p", "diagnostics.stale_s:=0.3"):
        client = NodeClient("silent")
        elsewhere = client.create_publisher(PointCloud2, "/silent/roof/points", qos.PLAYBACK)
        client.wait(lambda: client.level == WARN and "no scans have arrived yet" in client.text and "/silent/roof/points" in client.text, "a warning")
        client.connect()
        client.wait(lambda: client.level == STALE and "1 publisher on" in client.text, "silence")
        client.destroy_publisher(client.clouds)
        client.wait(lambda: client.level == STALE and "0 publishers on" in client.text and "/silent/roof/points" in client.text, "no publisher")
        client.destroy_publisher(elsewhere)
        client.wait(lambda: "no other PointCloud2 topic is published" in client.text, "no other topic")
        client.destroy_node()


def test_the_only_cloud_topic_is_found_and_two_are_named(graph: None, tmp_path: Path) -> None:
    with node_process("auto", tmp_path / "log.txt", *FAST_DIAGNOSTICS, "-p", "input_topic:=auto"):
        client = NodeClient("auto")
        client.destroy_publisher(client.clouds)
        watched = client.watch_renderings()  # the node's own cloud is no input
        client.wait(lambda: client.level == STALE and "because input_topic is auto" in client.text, "waiting for a topic")
        left, right = (client.create_publisher(PointCloud2, f"/auto/{side}/points", qos.PLAYBACK) for side in ("left", "right"))
        client.wait(lambda: "/auto/left/points, /auto/right/points" in client.text, "both topics named")
        client.destroy_publisher(right)
        client.clouds = left
        client.connect()
        assert client.diagnostics["input_topic"] == "/auto/left/points"
        client.destroy_publisher(left)
        client.clouds = client.create_publisher(PointCloud2, "/auto/roof/points", qos.PLAYBACK)
        client.tokens.clear()
        client.send_until(lambda: client.tokens, "tokens from the topic that took its place")
        assert len(watched) == 2
        client.destroy_node()
