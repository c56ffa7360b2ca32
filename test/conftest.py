# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What several test files share: the folder of real recordings, a secret and a ROS graph of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Threads of torch wait for each other by spinning: those of one worker would take the cores from the other, and from its nodes.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // WORKERS)))


LONGEST = ("test_transport.py", "test_readme.py", "test_agreement.py", "test_detokenizer_node.py")
"""Files that come first: a worker that begins one of them last leaves the other idle for more than a minute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the others keep their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def lidar_data() -> Path:
    """Folder of real LiDAR recordings, beside the repository; a test that needs it is skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "lidar"
    if not folder.is_dir():
        pytest.skip(f"needs the real recordings, which are not at {folder}")
    return folder


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of this test's own secret, with which engines and their timings are sealed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "copilot4d"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nodes that tests kill leave their shared memory behind: 1.2 GB a run, and a machine that runs many has none left."""
    with suppress(ImportError):
        from copilot4d_ros.dead_segments import remove_dead_segments

        remove_dead_segments()


@pytest.fixture(scope="module")
def graph() -> Iterator[None]:
    """A ROS domain of our own with rclpy ready."""
    rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")
    from copilot4d_ros.own_graph import own_graph

    with own_graph():
        rclpy.init()
        yield
        rclpy.try_shutdown()
