# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`make soak` also kills the token recorder: `run` is the check. Tokens are published, the recorder gets SIGKILL at a random moment, and all but
the last second must be read back by another reader.

Unusual: the next recorder in the folder finishes what the killed one left, as a launch file with respawn does.
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from copilot4d_core.data.recording import finish, recorded
from copilot4d_ros import qos
from copilot4d_ros.own_graph import own_graph, running_module
from trust.record import Record

RATE_HZ = 20.0
LAST_S = 1.0
"""What may be lost."""
START_S = 60.0


class Source:
    """Publishes numbered tokens, and remembers when."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._tokens = node.create_publisher(CompressedImage, "/tokenizer/tokens/compressed", qos.OUTPUT)
        self._info = node.create_publisher(String, "/tokenizer/model_info", qos.LATCHED)
        self._info.publish(String(data='{"model_id": "tiny-0"}'))
        self.sent_s: dict[int, float] = {}

    def publish_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Tokens at a steady rate until a condition holds, and at most so long."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and not condition():
            number = len(self.sent_s)
            message = CompressedImage(format=f"copilot4d; v1; {number}")
            message.data.frombytes(random.Random(number).randbytes(2000))
            self.sent_s[number] = time.monotonic()
            self._tokens.publish(message)
            time.sleep(1.0 / RATE_HZ)


def read_back(path: Path) -> tuple[list[int], int]:
    """Numbers of the tokens in a recording, bytes checked, and how many records of a model."""
    numbers, infos = [], 0
    with AnyReader([path]) as reader:
        for connection, _, data in reader.messages():
            message: Any = reader.deserialize(data, connection.msgtype)
            if connection.topic.endswith("model_info"):
                infos += 1
                continue
            numbers.append(int(message.format.rpartition("; ")[2]))
            assert bytes(message.data) == random.Random(numbers[-1]).randbytes(2000), f"message {numbers[-1]} holds other bytes"
    return numbers, infos


def _has_begun(path: Path) -> bool:
    topics = {message.topic for message in recorded(path)}
    return topics == {"/tokenizer/tokens/compressed", "/tokenizer/model_info"}


def kill_once(source: Source, folder: Path, seconds: float) -> float:
    """Record for some seconds, kill, read back; returns the age of the oldest message that was lost, in seconds.

    Raises:
        AssertionError: a hole in the recording, no record of the model, or other bytes.
    """
    before = set(folder.glob("tokens_*.mcap"))
    with running_module("copilot4d_ros.token_recorder", ["-p", f"folder:={folder}"], folder / "log.txt") as process:
        # A killed subscriber counts for a while, so only its file tells that this one has begun.
        source.publish_until(lambda: any(_has_begun(path) for path in set(folder.glob("tokens_*.mcap")) - before), START_S)
        source.publish_until(lambda: False, seconds)
        process.send_signal(signal.SIGKILL)
        killed_s = time.monotonic()
        assert process.wait() == -signal.SIGKILL
    (path,) = set(folder.glob("tokens_*.mcap")) - before
    finish(path)
    numbers, infos = read_back(path)
    assert infos == 1, f"{infos} records of the model"
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "a hole"
    last = numbers[-1] + 1
    return killed_s - source.sent_s[last] if last in source.sent_s else 0.0


def run(kills: int, seconds: float, command: str) -> Record:
    """Kill recorders until the time is up or so many were killed."""
    started_s, rng = time.monotonic(), random.Random(0)
    lost_s: list[float] = []
    failed: list[str] = []
    with own_graph(), tempfile.TemporaryDirectory() as name:
        rclpy.init()
        try:
            source = Source(rclpy.create_node("source"))
            while len(lost_s) + len(failed) < kills and time.monotonic() - started_s < seconds:
                try:
                    lost_s.append(kill_once(source, Path(name), rng.uniform(1.2, 4.0)))
                except (AssertionError, ValueError, OSError, subprocess.SubprocessError) as error:
                    failed.append(repr(error))
                    print(failed[-1], flush=True)
                print(f"recordings: {len(lost_s)} kills, {len(failed)} failures", flush=True)
        finally:
            rclpy.try_shutdown()
    late = sum(age_s > LAST_S for age_s in lost_s)
    found = (f"all but the last {max(lost_s, default=0.0):.2f} s was read back by the package rosbags" if lost_s else "nothing was tried")
    return Record("recordings", "killed-recorder", f"the node token_recorder killed with SIGKILL while it recorded tokens at {RATE_HZ:g} Hz",
                  len(lost_s) + len(failed), "kills", {"more than a second lost": late, "holes, other bytes or unreadable files": len(failed)}, found,
                  command, time.monotonic() - started_s, {"lost_s": lost_s, "failed": failed[:20]})
