# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node as a lifecycle node, driven by its services from another process, and its times on topics."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from fake_runner import OPEN_MS_VARIABLE  # noqa: E402
from lifecycle_manager import Manager  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from node_client import DEADLINE_S, NodeClient  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402
from test_node import FAST_DIAGNOSTICS, node_process  # noqa: E402

from copilot4d_ros.own_graph import stop  # noqa: E402

pytestmark = pytest.mark.usefixtures("graph")


def test_a_manager_takes_the_node_through_its_states_and_back(tmp_path: Path) -> None:
    with node_process("managed", tmp_path / "log.txt", "-p", "autostart:=false", *FAST_DIAGNOSTICS) as process:
        client = NodeClient("managed")
        manager = Manager(client, client.target)
        assert manager.state() == "unconfigured"
        client.wait(lambda: client.diagnostics.get("state") == "unconfigured", "its state in the diagnostics")
        for _ in range(2):  # what was given back can be had again
            client.info = None
            assert manager(Transition.TRANSITION_CONFIGURE)
            assert manager.state() == "inactive"
            client.wait(lambda: client.info, "model info of a configured node")
            assert client.count_subscribers(f"{client.target}/input/points") == 0, "an inactive node takes no scans"
            client.wait(lambda: client.diagnostics.get("state") == "inactive", "its state in the diagnostics")
            assert manager(Transition.TRANSITION_ACTIVATE)
            client.tokens.clear()
            client.send_until(lambda: client.tokens, "tokens")
            client.wait(lambda: client.diagnostics.get("state") == "running", "its state in the diagnostics")
            assert manager(Transition.TRANSITION_DEACTIVATE)
            client.wait(lambda: client.clouds.get_subscription_count() == 0, "no subscription")
            assert manager(Transition.TRANSITION_CLEANUP)
            assert manager.state() == "unconfigured"
            client.wait(lambda: client.count_publishers(f"{client.target}/tokens") == 0, "no token topic")
        for _ in range(2):
            assert not manager(Transition.TRANSITION_ACTIVATE), "an unconfigured node cannot be activated"
            assert manager.state() == "unconfigured", "and a request that is refused does not end it"
        client.destroy_node()
        assert stop(process) == 0


def test_a_configure_that_fails_says_why_and_can_be_tried_again(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with node_process("failing", log, "-p", "autostart:=false", "-p", "weights:=/nowhere/w.safetensors") as process:
        client = NodeClient("failing")
        manager = Manager(client, client.target)
        for _ in range(2):
            assert not manager(Transition.TRANSITION_CONFIGURE)
            assert manager.state() == "unconfigured"
        client.destroy_node()
        stop(process)
    assert log.read_text().count("/nowhere/w.safetensors: expected a weights file") >= 2


def test_build_only_ends_with_0_or_with_the_reason(tmp_path: Path) -> None:
    for name, parameters, code in (("good", (), 0), ("bad", ("-p", "weights:=/nowhere/w.safetensors"), 1)):
        log = tmp_path / f"{name}.txt"
        with node_process(f"build_{name}", log, "-p", "build_only:=true", *parameters) as process:
            assert process.wait(DEADLINE_S) == code
        assert ("are built (build_only)" if code == 0 else "/nowhere/w.safetensors") in log.read_text()


def test_a_signal_while_the_model_loads_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPEN_MS_VARIABLE, "60000")
    with node_process("loading", tmp_path / "log.txt", *FAST_DIAGNOSTICS) as process:
        client = NodeClient("loading")
        client.wait(lambda: client.diagnostics.get("state") == "loading", "diagnostics while the model loads")
        client.destroy_node()
        started_s = time.monotonic()
        assert stop(process, signal.SIGINT) == 0
        assert time.monotonic() - started_s < 2  # one second on a machine that does nothing else
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_times_of_a_frame_are_on_their_topics(tmp_path: Path) -> None:
    with node_process("times", tmp_path / "log.txt", *FAST_DIAGNOSTICS):
        client = NodeClient("times")
        client.connect()
        client.stamp_now()
        found: dict[str, list[float]] = {}
        names = ("processing_time/voxelize_ms", "processing_time/encode_ms", "processing_time/total_ms", "cyclic_time_ms", "pipeline_latency_ms")
        for name in names:
            client.create_subscription(Float64, f"{client.target}/debug/{name}", lambda m, name=name: found.setdefault(name, []).append(m.data), 10)
        client.send_until(lambda: len(found) == len(names), "all times")
        client.destroy_node()
    assert (set(found["processing_time/voxelize_ms"]), set(found["processing_time/encode_ms"])) == ({1.0}, {2.0})  # the fake runner's
    assert all(value > 0 for value in found["processing_time/total_ms"] + found["cyclic_time_ms"])
    assert all(0 < value < 10_000 for value in found["pipeline_latency_ms"])
