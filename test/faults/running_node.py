# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node with the fake model as a process of its own, the client that talks to it, and what its tokens must be."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faults.outcome import expect
from node_client import NodeClient
from test_node import FAST_DIAGNOSTICS, node_process

from copilot4d_ros.messages import array_from_image

USUAL = np.random.default_rng(5).uniform([-9.9, -9.9, -2.0], [9.9, 9.9, 2.0], (6000, 3)).astype(np.float32)
"""A usual cloud; inside the region of the fake model."""


class RunningNode(NamedTuple):
    """A node, and a client connected to it."""

    client: NodeClient
    process: subprocess.Popen[bytes]
    log: Path

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def answers_right(self, points_m: Any = USUAL) -> None:
        """A cloud comes back as the tokens it must give."""
        stamp = self.client.send(points_m)
        self.client.wait(lambda: stamp in self.client.tokens or not self.is_alive(), "tokens")
        assert self.is_alive(), "the node ended"
        check_tokens(self.client.tokens[stamp], points_m)


@contextmanager
def running_node(namespace: str, folder: Path, *parameters: str, encode_ms: float = 0.0, input_qos: str = "reliable") -> Iterator[RunningNode]:
    """The node and a client; `rclpy.init` was called."""
    log = folder / f"{namespace}.txt"
    with node_process(namespace, log, *FAST_DIAGNOSTICS, "-p", f"input_qos:={input_qos}", *parameters, encode_ms=encode_ms) as process:
        client = NodeClient(namespace)
        client.connect()
        yield RunningNode(client, process, log)
        client.destroy_node()


def expected_tokens(points_m: Any) -> Any:
    """Points in each cell of 1.25 m, at most 63, counted one by one; as the fake model's docstring says."""
    counts = np.zeros((16, 16), dtype=np.uint16)
    for x, y, z in np.asarray(points_m, dtype=np.float64):
        if abs(x) < 10 and abs(y) < 10 and abs(z) < 2.25:
            counts[int((y + 10) // 1.25), int((x + 10) // 1.25)] += 1
    return np.minimum(counts, 63)


def check_tokens(message: Any, points_m: Any) -> None:
    """Raises WrongResultError unless a token image is that of these points."""
    expect(bool((array_from_image(message) == expected_tokens(points_m)).all()), "tokens other than the points in each cell")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def open_files(pid: int) -> int:
    """File descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
