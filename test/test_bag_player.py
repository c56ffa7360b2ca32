"""The bag player as its own process: what arrives on the topic is what lies in the bag."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import PointCloud2  # noqa: E402

from copilot4d_ros.messages import stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import own_graph, stop  # noqa: E402

DEADLINE_S = 20.0
FIRST_NS = 1_584_000_000_250_000_000
STORE = get_typestore(Stores.ROS2_HUMBLE)
CLOUD = "sensor_msgs/msg/PointCloud2"


def write_bag(path: Path, data: Sequence[bytes], topics: Sequence[str] = ("/roof/points",), step_ns: int = 100_000_000) -> Path:
    """Bag of clouds with a point of 22 bytes, as Velodyne's XYZIRT; recorded 7 s later than their stamps."""
    types = STORE.types
    fields = [types["sensor_msgs/msg/PointField"](n, o, d, 1)
              for n, o, d in (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7), ("ring", 16, 4), ("time", 18, 7))]
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, CLOUD, typestore=STORE)
            for i, chunk in enumerate(data):
                stamp = FIRST_NS + i * step_ns
                header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), "roof")
                values = np.frombuffer(chunk, np.uint8)
                message = types[CLOUD](header, 1, len(chunk) // 22, fields, False, 22, len(chunk), values, True)
                writer.write(connection, stamp + 7 * 10**9, STORE.serialize_cdr(message, CLOUD))
    return path


@pytest.fixture(scope="module")
def listener() -> Iterator[Any]:
    """A node on a domain of our own."""
    with own_graph():
        rclpy.init()
        node = rclpy.create_node("listener")
        yield node
        node.destroy_node()
        rclpy.try_shutdown()


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


@pytest.mark.parametrize(("parameters", "expected"), [
    ((), "bag: expected the path of a bag"),
    (("bag:=/nowhere/at/all",), "/nowhere/at/all"),
    (("bag:={two}",), "/left, /right"),
    (("bag:={two}", "topic:=/middle"), "/middle"),
    (("bag:={two}", "topic:=/left", "rate:=0.0"), "rate out of range"),
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
    clouds = listen(listener, PointCloud2, "/large", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
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
