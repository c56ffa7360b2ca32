# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The bag player as its own process: what arrives on the topic is what lies in the bag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rosbags.highlevel import AnyReader

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from lifecycle_manager import Manager  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from recorded_bag import FIRST_NS, write_bag  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import PointCloud2  # noqa: E402

from copilot4d_ros.messages import stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402

DEADLINE_S = 60.0


@pytest.fixture
def listener(graph: None) -> Iterator[Any]:
    """A node on a domain of our own, with no subscriptions but those of one test."""
    node = rclpy.create_node("listener")
    yield node
    node.destroy_node()


@contextmanager
def player(log: Path, *parameters: str) -> Iterator[subprocess.Popen[bytes]]:
    """The player as its own process; killed at the end if it still runs."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "copilot4d_ros.bag_player", "--ros-args", *(a for p in parameters for a in ("-p", p))]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path})
        try:
            yield process
        finally:
            stop(process)


def listen(node: Any, kind: Any, topic: str, qos: Any = 20) -> list[Any]:
    """A list that grows with every message."""
    heard: list[Any] = []
    node.create_subscription(kind, topic, lambda m: heard.append((time.monotonic(), m)), qos)
    return heard


def spin_until(node: Any, condition: Any, what: str) -> None:
    """Spin until a condition holds, or fail."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        rclpy.spin_once(node, timeout_sec=0.05)


def spin_for(node: Any, seconds: float) -> None:
    """Spin for a time in which nothing is expected."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        rclpy.spin_once(node, timeout_sec=0.05)


def test_every_byte_and_stamp_arrives_in_the_recorded_rhythm(listener: Any, tmp_path: Path) -> None:
    data = [bytes([i]) * 22 * (i + 1) for i in range(5)]
    bag = write_bag(tmp_path / "bag", data)
    log = tmp_path / "log.txt"
    # The player starts first: it must wait for the subscriber.
    with player(log, f"bag:={bag}", "rate:=0.25", "publish_clock:=true") as process:
        clouds = listen(listener, PointCloud2, "/roof/points")
        clocks = listen(listener, Clock, "/clock", 100)
        spin_until(listener, lambda: len(clouds) == 5 and process.poll() is not None, "five clouds and the end")
        assert process.returncode == 0, log.read_text()
    assert [bytes(m.data) for _, m in clouds] == data
    assert [stamp_ns(m.header) for _, m in clouds] == [FIRST_NS + i * 100_000_000 for i in range(5)]
    last = clouds[-1][1]
    assert (last.header.frame_id, last.width, last.height, last.point_step, last.is_dense) == ("roof", 5, 1, 22, True)
    assert [(f.name, f.offset, f.datatype) for f in last.fields][-2:] == [("ring", 16, 4), ("time", 18, 7)]
    # A quarter of the speed: 0.4 s between clouds, 0.1 s as recorded. The machine may be busy, which moves either end.
    assert 0.8 < clouds[-1][0] - clouds[0][0] < 6.0
    times = [m.clock.sec * 10**9 + m.clock.nanosec for _, m in clocks]
    assert times == sorted(times) and len(times) > 5
    assert times[-1] == FIRST_NS + 400_000_000, "the clock shows the stamps, not the time of recording"


def test_a_loop_starts_again_until_a_signal_ends_it(listener: Any, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [b"a" * 22, b"b" * 22], step_ns=10_000_000)
    clouds = listen(listener, PointCloud2, "/loop")
    log = tmp_path / "log.txt"
    with player(log, f"bag:={bag}", "loop:=true", "output_topic:=/loop") as process:
        spin_until(listener, lambda: len(clouds) >= 6, "three rounds")
        assert stop(process) == 0
    assert "Traceback" not in log.read_text()
    assert [bytes(m.data)[:1] for _, m in clouds][:4] == [b"a", b"b", b"a", b"b"]


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_subscriber(listener: Any, tmp_path: Path, with_signal: signal.Signals) -> None:
    bag = write_bag(tmp_path / "bag", [b"a" * 22])
    log = tmp_path / "log.txt"
    with player(log, f"bag:={bag}", "output_topic:=/nobody") as process:
        spin_until(listener, lambda: "played on /nobody" in log.read_text(), "player ready")
        assert stop(process, with_signal) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_the_next_cloud(listener: Any, tmp_path: Path, with_signal: signal.Signals) -> None:
    bag = write_bag(tmp_path / "bag", [b"a" * 22, b"b" * 22], step_ns=9_000_000_000)
    clouds = listen(listener, PointCloud2, "/cut")
    log = tmp_path / "log.txt"
    with player(log, f"bag:={bag}", "output_topic:=/cut", "publish_clock:=true") as process:
        spin_until(listener, lambda: clouds, "the first of two clouds, 9 s apart")
        started_s = time.monotonic()
        assert stop(process, with_signal) == 0
        assert time.monotonic() - started_s < 4.0, "the next cloud is 9 s away"
    assert "Traceback" not in log.read_text()


def test_a_manager_pauses_the_player_and_lets_it_go_on(listener: Any, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [bytes([i]) * 22 for i in range(200)])
    clouds = listen(listener, PointCloud2, "/managed")
    with player(tmp_path / "log.txt", f"bag:={bag}", "output_topic:=/managed", "autostart:=false") as process:
        manager = Manager(listener, "/bag_player")
        assert manager.state() == "unconfigured" and listener.count_publishers("/managed") == 0
        assert manager(Transition.TRANSITION_CONFIGURE) and manager(Transition.TRANSITION_ACTIVATE)
        spin_until(listener, lambda: len(clouds) >= 3, "three clouds")
        assert manager.state() == "active", "services are answered while it plays"
        assert manager(Transition.TRANSITION_DEACTIVATE)
        assert manager.state() == "inactive"
        spin_for(listener, 0.2)  # What was on the way is here now.
        played = len(clouds)
        spin_for(listener, 0.5)
        assert len(clouds) == played, "a paused player publishes nothing"
        assert manager(Transition.TRANSITION_ACTIVATE)
        spin_until(listener, lambda: len(clouds) >= played + 3, "three more")
        assert [m.data[0] for _, m in clouds] == list(range(len(clouds))), "it goes on where it was"
        assert clouds[played + 1][0] - clouds[played][0] > 0.05, "it does not catch up"
        assert manager(Transition.TRANSITION_DEACTIVATE) and manager(Transition.TRANSITION_CLEANUP)
        spin_until(listener, lambda: listener.count_publishers("/managed") == 0, "no topic")
        clouds.clear()
        assert manager(Transition.TRANSITION_CONFIGURE) and manager(Transition.TRANSITION_ACTIVATE)
        spin_until(listener, lambda: clouds, "a cloud of the next play")
        assert clouds[0][1].data[0] == 0, "after cleanup it starts anew"
        assert stop(process) == 0


def test_a_configure_that_fails_leaves_the_player_waiting(listener: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with player(log, "bag:=/nowhere/at/all", "autostart:=false") as process:
        manager = Manager(listener, "/bag_player")
        assert not manager(Transition.TRANSITION_CONFIGURE)
        assert manager.state() == "unconfigured" and "/nowhere/at/all" in log.read_text()
        stop(process)


def test_the_first_seconds_are_left_out(listener: Any, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [bytes([i]) * 22 for i in range(8)])
    clouds = listen(listener, PointCloud2, "/late")
    with player(tmp_path / "log.txt", f"bag:={bag}", "output_topic:=/late", "start_offset_s:=0.45") as process:
        spin_until(listener, lambda: process.poll() is not None, "the end of the bag")
    assert process.returncode == 0
    assert [m.data[0] for _, m in clouds] == [5, 6, 7], "clouds of 0.5, 0.6 and 0.7 s"


@pytest.mark.parametrize(("parameters", "expected"), [
    ((), "bag: expected the path of a bag"),
    (("bag:=/nowhere/at/all",), "/nowhere/at/all"),
    (("bag:={two}",), "/left, /right"),
    (("bag:={two}", "topic:=/middle"), "/middle"),
    (("bag:={two}", "topic:=/left", "rate:=0.0"), "rate out of range"),
    (("bag:={two}", "topic:=/left", "start_offset_s:=3.0"), "start_offset_s: expected a time at which"),
])
def test_what_cannot_be_played_is_refused(listener: Any, tmp_path: Path, parameters: tuple[str, ...], expected: str) -> None:
    two = write_bag(tmp_path / "two", [b"a" * 22], topics=("/left", "/right"))
    log = tmp_path / "log.txt"
    with player(log, *(p.format(two=two) for p in parameters)) as process:
        assert process.wait(DEADLINE_S) == 1
    assert expected in log.read_text()
    assert "Traceback" not in log.read_text()


def test_large_clouds_arrive_whole_without_reliability(listener: Any, tmp_path: Path) -> None:
    # 1.9 MB: on the defaults of Fast DDS a best-effort subscriber in another process gets none or a few of them.
    bag = write_bag(tmp_path / "bag", [bytes([i]) * (22 * 86_400) for i in range(20)])
    clouds = listen(listener, PointCloud2, "/large", QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT))
    with player(tmp_path / "log.txt", f"bag:={bag}", "output_topic:=/large") as process:
        spin_until(listener, lambda: process.poll() is not None, "the end of the bag")
    assert process.returncode == 0
    assert [m.data[0] for _, m in clouds] == list(range(20))


def test_a_ros_1_recording_is_played(listener: Any, lidar_data: Path, tmp_path: Path) -> None:
    bag = lidar_data / "bags" / "luminar_truck_ros1.bag"
    with AnyReader([bag]) as reader:
        connections = [c for c in reader.connections if c.topic == "/luminar_pointcloud"]
        recorded: list[Any] = [reader.deserialize(d, c.msgtype) for c, _, d in reader.messages(connections)]
    clouds = listen(listener, PointCloud2, "/luminar_pointcloud")
    with player(tmp_path / "log.txt", f"bag:={bag}", "rate:=2.0") as process:
        spin_until(listener, lambda: process.poll() is not None and len(clouds) == 5, "five clouds")
    assert [(m.width, m.point_step) for _, m in clouds] == [(r.width, r.point_step) for r in recorded]
    assert {m.header.frame_id for _, m in clouds} == {"luminar_lidar"}
    assert all(bytes(m.data) == r.data.tobytes() for (_, m), r in zip(clouds, recorded, strict=True))
