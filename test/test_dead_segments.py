# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Shared memory of a real process that was killed goes, that of one that lives stays."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from copilot4d_ros.dds_profile import large_data_environment
from copilot4d_ros.dead_segments import remove_dead_segments
from copilot4d_ros.own_graph import own_graph

SHARED_MEMORY = Path("/dev/shm")
NODE = "import rclpy; rclpy.init(); node = rclpy.create_node('node'); print('ready', flush=True); rclpy.spin(node)"


def segments() -> set[str]:
    return {path.name for path in SHARED_MEMORY.glob("fast*_????????????????")}


def segments_of(process: subprocess.Popen[str]) -> set[str]:
    """Those it holds the lock file of: other tests' nodes come and go meanwhile, so what is new since a moment ago need not be its own."""
    opened = {Path(os.readlink(handle)).name.removesuffix("_el") for handle in Path(f"/proc/{process.pid}/fd").iterdir()}
    return opened & segments()


def started() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", NODE], stdout=subprocess.PIPE, text=True, env={**os.environ, **large_data_environment()})
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def settle(lock_file: Path) -> None:
    old_s = time.time() - 11
    os.utime(lock_file, (old_s, old_s))


def test_what_a_killed_node_left_goes_and_what_a_live_one_has_stays() -> None:
    with own_graph():
        dead, alive = started(), started()
        of_the_dead, of_the_living = segments_of(dead), segments_of(alive)
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait(30)
        assert of_the_dead and of_the_dead <= segments(), "this middleware leaves nothing; the whole module is not needed then"
        size = sum((SHARED_MEMORY / name).stat().st_size for name in of_the_dead)
        assert size > 64 * 2**20
        for name in of_the_dead:
            settle(SHARED_MEMORY / f"{name}_el")
        assert remove_dead_segments() >= size
        assert not of_the_dead & segments() and not any((SHARED_MEMORY / f"{name}_el").exists() for name in of_the_dead)
        assert of_the_living and of_the_living <= segments()
    finally:
        alive.send_signal(signal.SIGINT)
        alive.wait(30)


def test_only_settled_unlocked_segments_of_fast_dds_go(tmp_path: Path) -> None:
    names = ["fastdds_0123456789abcdef", "fastrtps_0123456789abcdef", "fastdds_00000000000000aa", "fastdds_port7400", "other_0123456789abcdef"]
    for name in names:
        (tmp_path / name).write_bytes(b"12345")
        (tmp_path / f"{name}_el").touch()
        settle(tmp_path / f"{name}_el")
    (tmp_path / "fastdds_00000000000000bb_el").touch()  # of a process that is just about to lock it
    with (tmp_path / "fastdds_00000000000000aa_el").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == 10
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{name}{end}" for name in names[2:] for end in ("", "_el")} | {"fastdds_00000000000000bb_el"}
    assert remove_dead_segments(tmp_path) == 5
    assert remove_dead_segments(tmp_path / "none") == 0
