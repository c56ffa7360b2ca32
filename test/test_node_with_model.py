# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node as it is installed, with a real (tiny, untrained) model: the topics carry what the runner gives in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from tiny_model import write_tiny_weights  # noqa: E402

from copilot4d_core.data.rays import Rays  # noqa: E402
from copilot4d_core.data.sensors import SphericalPattern  # noqa: E402
from copilot4d_core.deploy.open_runner import open_runner  # noqa: E402
from copilot4d_ros.messages import array_from_image, stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402

FIRST_SCAN_S = 90.0
"""The first start on a machine compiles the kernels."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model whose rays meet something."""
    return write_tiny_weights(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@contextmanager
def connected_node(namespace: str, log: Path, settings: dict[str, object]) -> Iterator[NodeClient]:
    """A client connected to a node of its own; the node must leave with 0 and without a traceback."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    assigned = [part for name, value in settings.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "copilot4d_ros.tokenizer_node", "--ros-args", "-r", f"__ns:=/{namespace}", *assigned]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path})
    try:
        client = NodeClient(namespace)
        client.wait(lambda: client.info or process.poll() is not None, "the model", FIRST_SCAN_S)
        assert process.poll() is None, log.read_text()
        client.connect()
        yield client
        client.destroy_node()
        assert stop(process) == 0
        assert "Traceback" not in log.read_text()
    finally:
        stop(process)


@pytest.fixture(scope="module")
def client(graph: None, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeClient]:
    """A client of one node for all tests that leave it as it was."""
    settings = {"weights": str(weights), "depth.rows": 16, "depth.columns": 64, "diagnostics.period_s": 0.1}
    with connected_node("model", tmp_path_factory.mktemp("node") / "log.txt", settings) as client:
        yield client


def nearest_return(points_m: np.ndarray, directions: np.ndarray, half_width_m: float) -> np.ndarray:
    """Distance of the nearest point of a 16 x 64 turn's pixel, point by point, the plain way; NaN for none."""
    elevation = np.rad2deg(np.arctan2(directions[:, 2], np.hypot(directions[:, 0], directions[:, 1]))).reshape(16, 64)[:, 0]
    found = np.full((16, 64), np.nan)
    for x, y, z in points_m.astype(np.float64):
        row = int(np.argmin(np.abs(elevation - np.rad2deg(np.arctan2(z, np.hypot(x, y))))))
        beyond = abs(elevation[row] - np.rad2deg(np.arctan2(z, np.hypot(x, y)))) > 26.8 / 15 / 2
        if beyond or max(abs(x), abs(y)) >= half_width_m:
            continue
        column = round((180 - np.rad2deg(np.arctan2(y, x))) / 360 * 64) % 64
        found[row, column] = np.fmin(found[row, column], np.sqrt(x * x + y * y + z * z))
    return found.ravel()


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
    points, found_m = np.split(np.frombuffer(client.reconstruction[stamp].data, dtype="<f4").reshape(-1, 4), [3], axis=1)
    np.testing.assert_allclose(points, rays.directions * depth_m[:, None], rtol=1e-6)
    error_m = depth_m - nearest_return(points_m, rays.directions, 10.0)
    assert np.isfinite(error_m).sum() > 100
    np.testing.assert_allclose(found_m[:, 0], error_m, atol=1e-4)


def test_diagnostics_hold_the_time_of_every_stage(client: NodeClient) -> None:
    stamp = client.send([[1.0, 2.0, 0.0], [30.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics of the scan")
    assert all(float(client.diagnostics[f"{stage}_ms"]) > 0 for stage in ("unpack", "voxelize", "encode", "total"))
    assert [client.diagnostics[key] for key in ("points", "points_in_region", "points_dropped")] == ["2", "1", "1"]


def test_virtual_camera_and_turn_come_from_one_decoding_and_mean_what_camera_info_says(client: NodeClient, weights: Path) -> None:
    images: dict[int, Any] = {}
    infos: dict[int, Any] = {}
    turn = client.watch_renderings()
    camera = [client.create_subscription(Image, f"{client.target}/camera/depth", lambda m: images.setdefault(stamp_ns(m.header), m), 10),
              client.create_subscription(CameraInfo, f"{client.target}/camera/camera_info", lambda m: infos.setdefault(stamp_ns(m.header), m), 10)]
    client.send_until(lambda: images and infos and client.depth, "a picture of the camera")
    points_m = np.random.default_rng(4).uniform([-10, -10, -2], [10, 10, 2], (5000, 3)).astype(np.float32)
    stamp = client.send(points_m)
    client.wait(lambda: stamp in images and stamp in infos and stamp in client.depth and stamp in client.tokens, "the frame")
    for subscription in turn + camera:
        client.destroy_subscription(subscription)
    info, image = infos[stamp], images[stamp]
    assert info.header == image.header
    assert (info.header.frame_id, info.width, info.height) == ("tokenizer_camera_optical", image.width, image.height)
    assert list(info.k) == [160.0, 0.0, 159.5, 0.0, 160.0, 119.5, 0.0, 0.0, 1.0]
    depth_m = array_from_image(image)
    with open_runner(weights) as runner:
        tokens = array_from_image(client.tokens[stamp])
        # Pixels by hand: at the optical axis's nearest pixel, and in a corner. REP-103: x right is -y, y down is -z.
        for row, column in ((119, 159), (0, 0), (239, 319)):
            x, y = (column - info.k[2]) / info.k[0], (row - info.k[5]) / info.k[4]
            ray = np.array([1.0, -x, -y]) / np.sqrt(1 + x * x + y * y)
            distance_m = runner.decode(tokens, Rays(np.zeros((1, 3), np.float32), ray[None].astype(np.float32))).depth_m[0]
            assert np.isfinite(distance_m)
            assert depth_m[row, column] == pytest.approx(distance_m * ray[0], abs=1e-4)
        rays = SphericalPattern(16, 64).rays(np.zeros(3, dtype=np.float32))
        np.testing.assert_array_equal(array_from_image(client.depth[stamp]).ravel(), runner.decode(tokens, rays).depth_m)


def test_a_sensor_file_sets_the_rays_and_the_info_says_which(graph: None, tmp_path: Path, weights: Path) -> None:
    settings = {"weights": str(weights), "depth.sensor": "vlp16", "diagnostics.period_s": 0.1}
    with connected_node("sensor", tmp_path / "log.txt", settings) as client:
        subscriptions = client.watch_renderings()
        client.send_until(lambda: client.depth, "renderings")
        for subscription in subscriptions:
            client.destroy_subscription(subscription)
    image = next(iter(client.depth.values()))
    assert (image.height, image.width) == (16, 1808)
    assert client.info is not None
    assert client.info["depth_image"]["elevations_deg"] == [15.0 - 2.0 * row for row in range(16)]  # VLP-16: +15 to -15 in steps of 2
    assert client.info["depth_image"]["sensor"] == "Velodyne VLP-16 (Puck)"
