"""The node as it is installed, with a real (tiny, untrained) model: the topics carry what the runner gives in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")
pytest.importorskip("torch", reason="the torch runner needs torch: pip install '.[train]'")

from node_client import NodeClient  # noqa: E402
from tiny_model import write_tiny_weights  # noqa: E402

from copilot4d_core.data.sensors import SphericalPattern  # noqa: E402
from copilot4d_core.deploy.open_runner import open_runner  # noqa: E402
from copilot4d_ros.messages import array_from_image  # noqa: E402
from copilot4d_ros.own_graph import own_graph, stop  # noqa: E402

FIRST_SCAN_S = 90.0
"""The first start on a machine compiles the kernels."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model whose rays meet something."""
    return write_tiny_weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def client(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeClient]:
    """A client connected to the node; the node must leave with 0 and without a traceback."""
    log = tmp_path_factory.mktemp("node") / "log.txt"
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    settings = {"weights": str(weights), "depth.rows": 16, "depth.columns": 64, "diagnostics.period_s": 0.1}
    assigned = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "copilot4d_ros.tokenizer_node", "--ros-args", "-r", "__ns:=/model", *assigned]
    with own_graph(), log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path})
        try:
            rclpy.init()
            client = NodeClient("model")
            client.wait(lambda: client.info or process.poll() is not None, "the model", FIRST_SCAN_S)
            assert process.poll() is None, log.read_text()
            client.connect()
            yield client
            client.destroy_node()
            assert stop(process) == 0
            assert "Traceback" not in log.read_text()
        finally:
            stop(process)
            rclpy.try_shutdown()


def test_topics_carry_what_the_runner_gives_bit_for_bit(client: NodeClient, weights: Path) -> None:
    points_m = np.random.default_rng(3).uniform([-10, -10, -2], [10, 10, 2], (5000, 3)).astype(np.float32)
    subscriptions = client.watch_renderings()
    client.send_until(lambda: client.depth and client.reconstruction, "renderings")
    stamp = client.send(points_m)
    client.wait(lambda: stamp in client.tokens and stamp in client.depth and stamp in client.reconstruction, "the frame")
    for subscription in subscriptions:
        client.destroy_subscription(subscription)
    with open_runner(weights) as runner:
        assert client.info is not None and client.info["model_id"] == runner.model_id
        tokens = runner.encode(points_m)
        rays = SphericalPattern(16, 64).rays(np.zeros(3, dtype=np.float32))
        depth_m = runner.decode(tokens, rays).depth_m
    np.testing.assert_array_equal(array_from_image(client.tokens[stamp]), tokens)
    assert np.isfinite(depth_m).any(), "a model that meets nothing would prove nothing"
    np.testing.assert_array_equal(array_from_image(client.depth[stamp]), depth_m.reshape(16, 64))
    points = np.frombuffer(client.reconstruction[stamp].data, dtype="<f4").reshape(-1, 3)
    np.testing.assert_allclose(points, rays.directions * depth_m[:, None], rtol=1e-6)


def test_diagnostics_hold_the_time_of_every_stage(client: NodeClient) -> None:
    stamp = client.send([[1.0, 2.0, 0.0], [30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics of the scan")
    assert all(float(client.diagnostics[f"{stage}_ms"]) > 0 for stage in ("unpack", "voxelize", "encode", "total"))
    assert [client.diagnostics[key] for key in ("points", "points_in_region", "points_dropped")] == ["2", "1", "1"]
