# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Large clouds between processes, best effort at 10 Hz: with the shipped profile none is lost, without it nearly all are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient  # noqa: E402
from test_node import FAST_DIAGNOSTICS, node_process  # noqa: E402

POINTS, RATE_HZ = 120_000, 10.0
PROFILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
HERE = Path(__file__).parent


@contextmanager
def driver(topic: str, count: int, without_profile: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process that publishes clouds; it ends when the block does."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {name: value for name, value in os.environ.items() if not (without_profile and name in PROFILES)} | {"PYTHONPATH": path}
    command = [sys.executable, str(HERE / "cloud_publisher.py"), topic, str(POINTS), str(count), str(RATE_HZ), "heard"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def heard(process: subprocess.Popen[bytes], client: NodeClient) -> int:
    """Let the driver begin once the node hears it; how many clouds the node had received by then."""
    assert process.stdin is not None and process.stdout is not None
    client.wait(lambda: client.count("received") > 0, "the driver heard")
    process.stdin.write(b"\n")
    process.stdin.flush()
    last = process.stdout.readline().decode().strip()
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == last, "the last of its first clouds")
    process.stdin.write(b"\n")
    process.stdin.flush()
    return client.count("received")


def published(process: subprocess.Popen[bytes]) -> bool:
    """Whether all clouds were published; waits for it."""
    assert process.stdout is not None
    return process.stdout.readline() == b"published\n"


def test_none_of_600_clouds_is_lost_with_the_shipped_profile(graph: None, tmp_path: Path) -> None:
    with node_process("profile", tmp_path / "log.txt", *FAST_DIAGNOSTICS):
        client = NodeClient("profile")
        client.wait(lambda: client.info, "the node")
        client.destroy_publisher(client.clouds)
        with driver(f"{client.target}/input/points", 600) as process:
            first = heard(process, client)
            assert published(process)
            client.wait(lambda: client.count("received") + client.count("lost_in_transport") >= first + 600, "all clouds")
            client.wait(lambda: client.count("processed") + client.count("dropped_replaced") == first + 600, "what became of them")
        client.destroy_node()
    assert (client.count("received") - first, client.count("lost_in_transport")) == (600, 0)
    print(f"600 clouds of {POINTS} points: received {client.count('received') - first}, of them and {first} small ones before processed "
          f"{client.count('processed')}, replaced by newer ones {client.count('dropped_replaced')}")


def test_without_the_profile_clouds_are_lost_and_the_diagnostics_say_what_to_do(graph: None, tmp_path: Path) -> None:
    with node_process("default", tmp_path / "log.txt", *FAST_DIAGNOSTICS):
        client = NodeClient("default")
        client.wait(lambda: client.info, "the node")
        client.destroy_publisher(client.clouds)
        with driver(f"{client.target}/input/points", 60, without_profile=True) as process:
            told: list[str] = []
            first = heard(process, client)
            client.wait(lambda: told.append(client.text) or client.count("lost_in_transport") > 0, "a loss", seconds=30.0)
            client.wait(lambda: "fastdds_large_data.xml" in client.text, "the remedy")
            assert published(process)
        client.destroy_node()
    assert client.count("received") - first < 30, "more than half arrived: the profile is not needed here any more"
