# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own node: when each token grid and depth image arrived, and the times that the tokenizer publishes of itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

from copilot4d_ros.debug_times import STAGES
from copilot4d_ros.messages import stamp_ns

TARGET = "/tokenizer"
_KEEP_ALL = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
RUNNER_STAGES = ("voxelize", "encode", "decode", "render")


class BenchmarkSubscriber(Node):
    """Spin it to fill the records; `start_over` forgets them."""

    def __init__(self) -> None:
        super().__init__("benchmark")
        self.tokens_ns: dict[int, int] = {}
        """Arrival of each token grid by the cloud's stamp, nanoseconds of this machine's clock."""
        self.depth_ns: dict[int, int] = {}
        self.times_ms: dict[str, list[float]] = {}
        """What the node says of each frame, by the name of the topic."""
        self.diagnostics: dict[str, str] = {}
        self.create_subscription(Image, f"{TARGET}/tokens", lambda message: self._arrived(self.tokens_ns, message), _KEEP_ALL)
        topics = {**{stage: f"processing_time/{stage}_ms" for stage in STAGES}, "latency": "pipeline_latency_ms"}
        for name, topic in topics.items():
            self.create_subscription(Float64, f"{TARGET}/debug/{topic}", self._keeper(name), _KEEP_ALL)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self._depth: Any = None

    def watch_depth(self, is_watched: bool) -> None:
        """Subscribe to the depth image, or leave it; the node renders only while somebody subscribes."""
        if self._depth is not None:
            self.destroy_subscription(self._depth)
        self._depth = self.create_subscription(Image, f"{TARGET}/depth", lambda message: self._arrived(self.depth_ns, message),
                                               _KEEP_ALL) if is_watched else None

    def start_over(self) -> None:
        """Forget every frame so far."""
        for record in (self.tokens_ns, self.depth_ns, self.times_ms):
            record.clear()

    def count(self, key: str) -> int:
        """A count of the latest diagnostics; 0 before the first."""
        return int(self.diagnostics.get(key, "0"))

    def _arrived(self, record: dict[int, int], message: Any) -> None:
        record[stamp_ns(message.header)] = time.time_ns()

    def _keeper(self, name: str) -> Any:
        return lambda message: self.times_ms.setdefault(name, []).append(float(message.data))

    def _diagnosed(self, message: Any) -> None:
        for status in message.status:
            if status.name.startswith(f"{TARGET}:"):
                self.diagnostics = {pair.key: pair.value for pair in status.values}


def stages_of_frames(times_ms: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Stages of each frame in the order in which they run, from the times that the node publishes.

    receive is from the cloud's stamp to the start of the work: transport, the message's conversion by the middleware, and waiting; convert is
    the cloud's message to points; publish is all that the node does beside the runner and that: messages, statistics, code use.

    Args:
        times_ms: by `debug_times.STAGES` and `latency`, a value a frame; a stage that never ran is missing.
    Returns:
        By stage, a value a frame; empty when frames cannot be told apart, because a topic lost some.
    """
    frames = len(times_ms.get("total", []))
    if not frames or any(len(values) != frames for values in times_ms.values()):
        return {}
    arrays = {name: np.array(values) for name, values in times_ms.items()}
    runner = {stage: arrays[stage] for stage in RUNNER_STAGES if stage in arrays}
    publishing = arrays["total"] - arrays["unpack"] - sum(runner.values())
    found = {"receive": arrays["latency"] - arrays["total"]} if "latency" in arrays else {}
    found |= {"convert": arrays["unpack"], **runner, "publish": publishing}
    return {stage: values.tolist() for stage, values in found.items()}
