# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The simulated sensor as its own process: clouds at an even rate, without end, stamped now."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from lifecycle_manager import Manager  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from sensor_msgs.msg import PointCloud2  # noqa: E402

from copilot4d_core.data.point_cloud2 import points_from_message  # noqa: E402
from copilot4d_core.data.simulator import simulate_drive  # noqa: E402
from copilot4d_ros.demo_source import AHEAD_SCANS, cloud_from_scan, next_place  # noqa: E402
from copilot4d_ros.messages import stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import running_module, stop  # noqa: E402
from copilot4d_ros.qos import PLAYBACK  # noqa: E402

pytestmark = pytest.mark.usefixtures("graph")
DEADLINE_S = 40.0


def spin_until(node: Any, condition: Any, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_S} s"
        rclpy.spin_once(node, timeout_sec=0.05)


def test_clouds_come_evenly_and_are_those_of_the_simulator(tmp_path: Path) -> None:
    node = rclpy.create_node("listener")
    heard: list[Any] = []
    node.create_subscription(PointCloud2, "/roof", heard.append, PLAYBACK)
    parameters = ["-p", "sensor:=vlp16", "-p", "seed:=7", "-p", "rate_hz:=5.0", "-p", "frame_id:=roof_lidar", "-r", "~/points:=/roof"]
    with running_module("copilot4d_ros.demo_source", parameters, tmp_path / "log.txt") as process:
        before_ns = time.time_ns()
        spin_until(node, lambda: len(heard) > 3 * AHEAD_SCANS, "more clouds than are simulated at the start")
        manager = Manager(node, "/demo_source")
        assert manager.state() == "active"
        assert manager(Transition.TRANSITION_DEACTIVATE) and manager(Transition.TRANSITION_CLEANUP)
        started_s = time.monotonic()
        assert stop(process) == 0
        assert time.monotonic() - started_s < 8.0
    node.destroy_node()
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    stamps = np.array([stamp_ns(m.header) for m in heard])
    assert before_ns < stamps[0] and stamps[-1] < time.time_ns()
    assert 0.15 < np.median(np.diff(stamps)) / 1e9 < 0.25, "5 a second"
    assert {m.header.frame_id for m in heard} == {"roof_lidar"}
    # The first cloud may be gone before the two have found each other, so each is looked for in the drive.
    scans = [*itertools.islice(simulate_drive(7, 60, "vlp16"), 40)]
    found = []
    for message in heard[:3]:
        points_m, intensity, dropped = points_from_message(message)
        places = [place for place, scan in enumerate(scans) if np.array_equal(points_m, scan.points_m)]
        assert len(places) == 1 and dropped == 0 and intensity is not None
        np.testing.assert_array_equal(intensity, scans[places[0]].intensity)
        found += places
    assert [abs(step) for step in np.diff(found)] == [1, 1], "neighbours on the drive"


def test_the_drive_goes_up_and_down_without_a_jump() -> None:
    position, step, seen = 0, 1, [0]
    for count in [3, 3, 3, 4, 4, 4, 4, 4, 5, 5, 5, 5]:
        position, step = next_place(position, step, count)
        seen.append(position)
    # By hand: up to the last of three, back, and after the street has grown, to its new end.
    assert seen == [0, 1, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_a_scan_keeps_its_points_and_gets_the_frame() -> None:
    scan = next(simulate_drive(3, 1, "vlp16"))
    message = cloud_from_scan(scan, "roof")
    assert (message.header.frame_id, message.point_step, message.width) == ("roof", 16, len(scan.points_m))
    x, y, z = scan.points_m[0]
    assert math.isclose(np.frombuffer(message.data, "<f4", count=3)[2], z) and np.frombuffer(message.data, "<f4", count=2).tolist() == [x, y]


@pytest.mark.parametrize(("parameter", "expected"), [
    ("sensor:=hdl65", "sensor: expected one of hdl64, hdl32, vlp16, os1_64, got 'hdl65'"),
    ("rate_hz:=0.0", "rate_hz out of range"),
    ("frame_id:=''", "frame_id: expected a name"),
])
def test_what_cannot_be_simulated_is_refused(tmp_path: Path, parameter: str, expected: str) -> None:
    log = tmp_path / "log.txt"
    with running_module("copilot4d_ros.demo_source", ["-p", parameter], log) as process:
        assert process.wait(DEADLINE_S) == 1
    assert expected in log.read_text() and "Traceback" not in log.read_text()
