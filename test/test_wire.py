# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a real scan costs on the wire: the cloud, its tokens, and its compressed tokens, as the real node publishes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient, cloud  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from copilot4d_core.data.sources import open_scans  # noqa: E402
from copilot4d_core.deploy.open_runner import open_runner  # noqa: E402
from copilot4d_core.deploy.token_stream import tokens_from_bytes  # noqa: E402
from copilot4d_ros.messages import array_from_image  # noqa: E402
from copilot4d_ros.own_graph import running_module  # noqa: E402

FIRST_SCAN_S = 90.0
"""The first start on a machine compiles the kernels."""


def test_bytes_of_a_real_scan_on_the_wire(graph: None, tmp_path: Path, lidar_data: Path) -> None:
    scan = open_scans(lidar_data / "kitti_odometry_00")[0]
    sent = cloud(np.column_stack([scan.points_m, scan.intensity]), 5, names="xyzi")
    heard: dict[str, list[bytes]] = {"tokens": [], "tokens/compressed": []}
    with running_module("copilot4d_ros.tokenizer_node", ["-r", "__ns:=/wire"], tmp_path / "log.txt"):
        client = NodeClient("wire")
        for (topic, messages), kind in zip(heard.items(), (Image, CompressedImage), strict=True):
            client.create_subscription(kind, f"{client.target}/{topic}", messages.append, 10, raw=True)
        client.wait(lambda: client.info, "the model", FIRST_SCAN_S)

        def answered() -> bool:
            client.clouds.publish(sent)
            client.wait(lambda: client.count("received") >= 0, "diagnostics")
            rclpy.spin_once(client, timeout_sec=0.5)
            return all(heard.values())

        client.wait(answered, "tokens", 60.0)
        client.destroy_node()
    image, stream = (deserialize_message(heard[topic][0], kind) for topic, kind in (("tokens", Image), ("tokens/compressed", CompressedImage)))
    with open_runner() as runner:
        np.testing.assert_array_equal(tokens_from_bytes(bytes(stream.data), runner.model_id, runner.config, runner.prior), array_from_image(image))
    sizes = [len(serialize_message(sent)), *(len(messages[0]) for messages in heard.values())]
    print("bytes on the wire, KITTI odometry 00, scan 0: cloud {:,}, tokens {:,}, compressed tokens {:,}".format(*sizes))
    assert sizes[0] > 16 * 100_000 and 2 * 64 * 64 < sizes[1] < 2 * 64 * 64 + 100
    assert sizes[2] < 64 * 64 * 10 / 8, "not less than ten bits a token: what is the prior for?"
