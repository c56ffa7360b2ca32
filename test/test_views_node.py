# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Depth images from several viewpoints at once, changed while the node runs, and posed by TF: the real node with the fake model.

The fake model meets something at 6 m on every ray that does not look up, so what a pixel holds follows from its direction alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from fake_runner import FakeRunner  # noqa: E402
from lifecycle_manager import Manager  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_client import DEADLINE_S, NodeClient  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from test_node import FAST_DIAGNOSTICS, node_process  # noqa: E402

from copilot4d_core.data.sensors import BeamPattern  # noqa: E402
from copilot4d_ros.messages import array_from_image, stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402
from copilot4d_ros.views import DepthMode, Views, Wanted  # noqa: E402

SIMULATED_TF2 = Path(__file__).parent / "simulated_tf2"
TWO_CAMERAS = ("-p", "cameras:=[front, down]", "-p", "front.width:=8", "-p", "front.height:=6", "-p", "front.cx:=3.5", "-p", "front.cy:=2.5",
               "-p", "down.frame_id:=belly_optical", "-p", "down.pitch_deg:=90.0", "-p", "down.width:=4", "-p", "down.height:=4",
               "-p", "down.cx:=1.5", "-p", "down.cy:=1.5", "-p", "depth.rows:=8", "-p", "depth.columns:=16")


class Watcher:
    """Subscribes to a topic and keeps every message by stamp."""

    def __init__(self, client: NodeClient, kind: Any, topic: str) -> None:
        self.heard: dict[int, Any] = {}
        client.create_subscription(kind, f"{client.target}/{topic}", lambda m: self.heard.__setitem__(stamp_ns(m.header), m), 10)


@pytest.fixture(scope="module")
def client(graph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeClient]:
    """A client of a node with two cameras."""
    with node_process("views", tmp_path_factory.mktemp("node") / "log.txt", *FAST_DIAGNOSTICS, *TWO_CAMERAS):
        client = NodeClient("views")
        client.connect()
        yield client
        client.destroy_node()


def z_depth_of_six_metres(width: int, height: int, focal: float, cx: float, cy: float) -> np.ndarray:
    """Depth along the axis of a point 6 m away in each pixel: 6 / |((u - cx) / f, (v - cy) / f, 1)|."""
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    return 6 / np.sqrt(((u - cx) / focal) ** 2 + ((v - cy) / focal) ** 2 + 1)


def test_several_views_come_from_one_scan(client: NodeClient) -> None:
    watched = {topic: Watcher(client, Image, topic) for topic in ("front/depth", "down/depth", "depth", "depth/color")}
    infos = {name: Watcher(client, CameraInfo, f"{name}/camera_info") for name in ("front", "down")}
    every = [*watched.values(), *infos.values()]
    client.send_until(lambda: all(each.heard for each in every), "all views")
    stamp = client.send([[1.0, 1.0, 0.0]])
    client.wait(lambda: all(stamp in each.heard for each in every), "all views of one scan")
    front, down, turn, colours = (watched[topic].heard[stamp] for topic in watched)
    assert (front.header.frame_id, down.header.frame_id, turn.header.frame_id) == ("tokenizer_front_optical", "belly_optical", "lidar_top")
    assert {name: (info.heard[stamp].width, info.heard[stamp].height, info.heard[stamp].k[0]) for name, info in infos.items()} == {
        "front": (8, 6, 160.0), "down": (4, 4, 160.0)}
    # Looking ahead, the upper half of the picture looks up, where there is nothing; looking down, every pixel meets something.
    expected = z_depth_of_six_metres(8, 6, 160.0, 3.5, 2.5)
    expected[:3] = np.nan
    np.testing.assert_allclose(array_from_image(front), expected, atol=1e-5)
    np.testing.assert_allclose(array_from_image(down), z_depth_of_six_metres(4, 4, 160.0, 1.5, 1.5), atol=1e-5)
    depth_m = array_from_image(turn)
    assert (colours.encoding, colours.height, colours.width, colours.step) == ("rgb8", 8, 16, 48)
    pixels = np.frombuffer(colours.data, dtype=np.uint8).reshape(8, 16, 3)
    assert not pixels[np.isnan(depth_m)].any() and len(np.unique(pixels[depth_m == 6.0], axis=0)) == 1


def test_a_camera_changes_while_the_node_runs_and_only_within_its_range(client: NodeClient) -> None:
    depth, info = Watcher(client, Image, "front/depth"), Watcher(client, CameraInfo, "front/camera_info")
    for name, value in (("front.width", 2), ("front.cx", 0.5), ("front.fx", 100.0), ("front.pitch_deg", 45.0)):
        assert client.set_parameter(name, value).successful
    client.send_until(lambda: depth.heard and next(reversed(depth.heard.values())).width == 2, "the new picture")
    stamp, image = next(reversed(depth.heard.items()))
    client.wait(lambda: stamp in info.heard, "its info")
    assert (info.heard[stamp].width, info.heard[stamp].k[0], info.heard[stamp].k[2]) == (2, 100.0, 0.5)
    assert array_from_image(image).shape == (6, 2) and np.isfinite(array_from_image(image)).all(), "45 degrees down, nothing is up"
    for name, value, reason in (("front.fx", 0.0, "range"), ("front.width", 5000, "range"), ("front.frame_id", "x", "read-only"),
                                ("front.fx", "wide", "type"), ("depth.color_max_m", 0.5, "range"), ("cameras", ["front"], "read-only")):
        refused = client.set_parameter(name, value)
        assert not refused.successful and reason in refused.reason.lower(), (name, refused.reason)
    assert client.set_parameter("depth.color_max_m", 10.0).successful


def test_a_camera_is_where_tf_says_and_gives_no_picture_while_tf_does_not_know(graph: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "tf.json"
    known.write_text("{}")
    monkeypatch.setenv("SIMULATED_TF2", str(known))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SIMULATED_TF2), os.environ.get("PYTHONPATH", "")]))
    log = tmp_path / "log.txt"
    with node_process("tf", log, *FAST_DIAGNOSTICS, "-p", "cameras:=[camera, other]", "-p", "camera.pose_from:=tf", "-p", "camera.height:=2",
                      "-p", "camera.cy:=0.5", "-p", "other.pose_from:=tf") as process:
        client = NodeClient("tf")
        client.connect()
        depth, other = Watcher(client, Image, "camera/depth"), Watcher(client, Image, "other/depth")
        client.send_until(lambda: "tokenizer_other_optical is in lidar_top" in log.read_text(), "the second camera in the log")
        client.wait(lambda: client.count("camera_poses_missing") > 1, "pictures that are missing")
        assert not depth.heard and "tokenizer_camera_optical is in lidar_top" in log.read_text()
        # tf2 refuses NaN, but an infinite translation in a chain comes out as NaN.
        replace(known, {"tokenizer_camera_optical": [np.nan, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]})
        missing = client.count("camera_poses_missing")
        client.send_until(lambda: client.count("camera_poses_missing") > missing + 4, "a pose that is none is missing, too")
        assert not depth.heard
        for pitched, nothing in ((0.0, 1), (np.pi / 2, 0)):
            # Looking along +x is (-0.5, 0.5, -0.5, 0.5); pitched about y (left) it is that after a turn (0, sin, 0, cos).
            s, c = np.sin(pitched / 2), np.cos(pitched / 2)
            x, y, z, w = -0.5, 0.5, -0.5, 0.5
            q = [c * x + s * z, c * y + s * w, c * z - s * x, c * w - s * y]
            replace(known, {"tokenizer_camera_optical": [0.0, 0.0, 0.0, *q]})
            depth.heard.clear()
            client.send_until(lambda: len(depth.heard) > 2, "pictures")
            image_m = array_from_image(next(reversed(depth.heard.values())))
            assert np.isnan(image_m).all(axis=1).sum() == nothing, "ahead, the upper of two rows looks up; down, none does"
        assert not other.heard
        manager = Manager(client, client.target)
        assert client.count_subscribers("/tf") == 1
        for _ in range(2):
            assert manager(Transition.TRANSITION_DEACTIVATE) and manager(Transition.TRANSITION_CLEANUP)
            client.wait(lambda: client.count_subscribers("/tf") == 0, "no listener of an unconfigured node")
            assert manager(Transition.TRANSITION_CONFIGURE) and manager(Transition.TRANSITION_ACTIVATE)
            client.wait(lambda: client.count_subscribers("/tf") == 1, "one listener again")
        client.destroy_node()
        assert stop(process) == 0


def replace(path: Path, content: dict[str, list[float]]) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


@pytest.mark.skipif(importlib.util.find_spec("tf2_ros") is not None, reason="tf2_ros is installed here")
def test_a_camera_that_needs_tf_is_refused_where_tf2_ros_is_missing(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with node_process("no_tf", log, "-p", "camera.pose_from:=tf") as process:
        assert process.wait(DEADLINE_S) == 1
    assert "camera.pose_from: tf needs tf2_ros" in log.read_text() and "Traceback" not in log.read_text()


def test_the_real_tf2_has_what_the_node_uses() -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is part of a ROS 2 installation; it is not on PyPI")
    assert issubclass(tf2_ros.TransformException, Exception)
    assert all(map(callable, (tf2_ros.Buffer.lookup_transform, tf2_ros.Buffer.clear, tf2_ros.TransformListener.unregister)))


def test_points_of_a_turn_start_where_their_beams_do() -> None:
    sensor = BeamPattern("Test", "by hand", (10.0, -30.0), columns=4, max_range_m=50.0, origin_heights_m=(0.2, 0.1))
    rendered, _ = Views(FakeRunner(), sensor).render(np.zeros((16, 16), dtype=np.uint16), Wanted(DepthMode.MEDIAN, False, True, {}))
    assert rendered.points_m is not None and np.isnan(rendered.points_m[0]).all()
    # Six metres ahead and 30 degrees down, from 0.1 m above the origin.
    assert np.allclose(rendered.points_m[1, 2], [6 * np.sqrt(3) / 2, 0, 0.1 - 3], atol=1e-5)
