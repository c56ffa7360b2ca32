# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The real node with `runner:=tensorrt` on a real ROS graph; only the GPU is simulated (see simulated_robot.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient  # noqa: E402
from test_tensorrt_runner import cloud  # noqa: E402
from tiny_model import half_filled_model  # noqa: E402

from copilot4d_core.data.sensors import SphericalPattern  # noqa: E402
from copilot4d_core.deploy.export import export  # noqa: E402
from copilot4d_core.deploy.open_runner import open_runner  # noqa: E402
from copilot4d_ros.messages import array_from_image  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402

HERE = Path(__file__).parent


def test_one_parameter_brings_the_node_to_the_gpu_with_the_same_tokens_and_depths(graph: None, tmp_path: Path) -> None:
    folder, log = tmp_path / "robot", tmp_path / "log.txt"
    export(half_filled_model(), folder)
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"),
                                "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    parameters = [f"weights:={folder}", "runner:=tensorrt", "depth.rows:=16", "depth.columns:=64", "diagnostics.period_s:=0.1"]
    command = [sys.executable, str(HERE / "simulated_robot.py"), "--ros-args", "-r", "__ns:=/gpu", *(word for p in parameters for word in ("-p", p))]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            client = NodeClient("gpu")
            client.connect()
            subscriptions = client.watch_renderings()
            client.send_until(lambda: client.depth, "renderings")
            points = cloud(2000)
            stamp = client.send(points)
            client.wait(lambda: stamp in client.tokens and stamp in client.depth, "the frame")
            for subscription in subscriptions:
                client.destroy_subscription(subscription)
            client.destroy_node()
        finally:
            code = stop(process)
    text = log.read_text()
    assert code == 0, text
    assert "runner tensorrt: as asked" in text
    assert "simulated GPU: clean, 2 engines built" in text
    with open_runner(folder, "onnx") as runner:
        tokens = runner.encode(points)
        depth_m = runner.decode(tokens, SphericalPattern(16, 64).rays(np.zeros(3, dtype=np.float32))).depth_m
    np.testing.assert_array_equal(array_from_image(client.tokens[stamp]), tokens)
    assert np.isfinite(depth_m).any()
    np.testing.assert_array_equal(array_from_image(client.depth[stamp]), depth_m.reshape(16, 64))
