# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Tokens that one node recorded into a bag become the depth that it published, in another node, bit for bit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from detokenizer_client import VOLATILE, DetokenizerClient, detokenizer_process  # noqa: E402
from node_client import cloud  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from copilot4d_core.data.simulator import simulate_drive  # noqa: E402
from copilot4d_ros import qos  # noqa: E402
from copilot4d_ros.messages import array_from_image, stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import running_module, stop  # noqa: E402

DEADLINE_S = 60.0
FIRST_SCAN_S = 90.0
"""The first start on a machine compiles the kernels."""


def points_of(message: Any) -> tuple[Any, bytes]:
    """Header, and the bytes of x, y and z: the first node also knows how far off each point is."""
    return message.header, np.frombuffer(message.data, dtype=np.uint8).reshape(-1, message.point_step)[:, :12].tobytes()


def test_recorded_tokens_become_the_first_nodes_depth_bit_for_bit(graph: None, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="tiny weights are written with torch: pip install '.[train]'")
    from tiny_model import write_tiny_weights

    weights, bag = write_tiny_weights(tmp_path / "tiny.safetensors"), tmp_path / "bag"
    bytes_per_scan = record(weights, bag, tmp_path / "tokenizer.txt", num_scans=3)
    depths, clouds = replayed(weights, bag, tmp_path / "detokenizer.txt")
    with AnyReader([bag]) as reader:
        recorded = {c.topic: [data for d, _, data in reader.messages() if d.topic == c.topic] for c in reader.connections}
    expected = [deserialize_message(data, Image) for data in recorded["/first/tokenizer/depth"]]
    assert len(expected) == 3 and all(np.isfinite(array_from_image(m)).any() for m in expected), "a model that meets nothing would prove nothing"
    # The messages are equal in every field; their serialised bytes are not, because padding is whatever lay in memory.
    assert [depths[stamp_ns(m.header)] for m in expected] == expected
    expected_clouds = [deserialize_message(data, PointCloud2) for data in recorded["/first/tokenizer/reconstruction"]]
    assert [points_of(clouds[stamp_ns(m.header)]) for m in expected] == [points_of(m) for m in expected_clouds]
    print("bytes per scan on the wire:", bytes_per_scan)
    # 16 x 16 cells of 2 bytes, and less than 100 bytes of header; a cloud has 16 bytes a point.
    assert 512 < bytes_per_scan["tokens"] < 612 and bytes_per_scan["cloud"] > 16 * 50_000


def record(weights: Path, bag: Path, log: Path, num_scans: int) -> dict[str, int]:
    """Run the node `tokenizer` on simulated scans and write what it publishes into an MCAP bag; bytes per scan of cloud and tokens."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = {"tokens": Image, "model_info": String, "depth": Image, "reconstruction": PointCloud2}
    heard: dict[str, list[bytes]] = {name: [] for name in types}
    node = rclpy.create_node("recorder")
    for name, kind in types.items():
        node.create_subscription(kind, f"/first/tokenizer/{name}", heard[name].append, qos.LATCHED if name == "model_info" else 10, raw=True)
    clouds = node.create_publisher(PointCloud2, "/first/tokenizer/input/points", qos.PLAYBACK)
    with tokenizer_process(weights, log) as process:
        spin(node, lambda: heard["model_info"] or process.poll() is not None, FIRST_SCAN_S)
        assert process.poll() is None, log.read_text()
        sent = [cloud(np.column_stack([s.points_m, s.intensity]), s.stamp_ns, "xyzi") for s in simulate_drive(5, num_scans, "hdl64")]
        while not (heard["depth"] and heard["reconstruction"]):  # Connections are still being made.
            clouds.publish(sent[0])
            spin(node, lambda: False, 0.5)
        spin(node, lambda: False, 1.0)
        for name in ("tokens", "depth", "reconstruction"):
            heard[name].clear()
        for index, message in enumerate(sent):
            clouds.publish(message)
            spin(node, lambda index=index: all(len(heard[name]) == index + 1 for name in types if name != "model_info"), DEADLINE_S)
    node.destroy_node()
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for name, kind in types.items():
            connection = writer.add_connection(f"/first/tokenizer/{name}", f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}", typestore=store)
            for index, data in enumerate(heard[name]):
                writer.write(connection, 10**9 * (index + 1) - (name == "model_info"), data)
    return {"cloud": len(serialize_message(sent[-1])), "tokens": len(heard["tokens"][-1]), "points": sent[-1].width}


def tokenizer_process(weights: Path, log: Path) -> Any:
    """The node `tokenizer` as it is installed."""
    return running_module("copilot4d_ros.tokenizer_node", ["-r", "__ns:=/first", *assigned(weights)], log)


def assigned(weights: Path) -> list[str]:
    """Parameters of both nodes."""
    settings = {"weights": str(weights), "depth.rows": 16, "depth.columns": 64}
    return [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]


def spin(node: Any, condition: Any, seconds: float) -> bool:
    """Spin until a condition holds or time is up; whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.05)
    return bool(condition())


def replayed(weights: Path, bag: Path, log: Path) -> tuple[dict[int, Any], dict[int, Any]]:
    """Play the recorded record and tokens, volatile, to the node `detokenizer` in a process of its own; its depths and clouds by stamp."""
    with AnyReader([bag]) as reader:
        messages = [(c.topic.rsplit("/", 1)[1], data) for c, _, data in reader.messages() if c.topic.endswith(("tokens", "model_info"))]
    remapped = [part for name in ("tokens", "model_info") for part in ("-r", f"~/input/{name}:=/replay/{name}")]
    with detokenizer_process("second", log, *remapped, *assigned(weights), module="copilot4d_ros.detokenizer_node") as process:
        client = DetokenizerClient("second")
        tokens = client.create_publisher(Image, "/replay/tokens", qos.PLAYBACK)
        info = client.create_publisher(String, "/replay/model_info", VOLATILE)
        ready = spin(client, lambda: (tokens.get_subscription_count() and info.get_subscription_count()) or process.poll() is not None, FIRST_SCAN_S)
        assert ready and process.poll() is None, log.read_text()
        for name, data in messages:
            if name == "model_info":
                info.publish(deserialize_message(data, String))
                continue
            message = deserialize_message(data, Image)
            for _ in range(20):  # The first time, connections are still being made.
                tokens.publish(message)
                stamp = stamp_ns(message.header)
                if spin(client, lambda stamp=stamp: stamp in client.depth and stamp in client.reconstruction, 1.0):
                    break
        client.destroy_node()
        assert stop(process) == 0
    assert "Traceback" not in log.read_text()
    return client.depth, client.reconstruction
