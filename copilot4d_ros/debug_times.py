# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Times of every frame on topics of their own, for tools that plot: the names that Autoware's nodes use.

`~/debug/processing_time/STAGE_ms`, `~/debug/cyclic_time_ms` (from the end of one frame to the end of the next) and
`~/debug/pipeline_latency_ms` (from the scan's stamp to the publication, by the node's clock; none while the stamps are of another
clock); std_msgs/Float64, milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rclpy.node import Node
from std_msgs.msg import Float64

from copilot4d_ros import qos
from copilot4d_ros.diagnostics import OTHER_CLOCK_MS
from copilot4d_ros.messages import stamp_ns

STAGES = ("unpack", "voxelize", "encode", "decode", "render", "total")


class DebugTimes:
    """Publishers of times; what nobody subscribes to is not sent."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()
        names = {**{stage: f"~/debug/processing_time/{stage}_ms" for stage in STAGES},
                 "cyclic": "~/debug/cyclic_time_ms", "latency": "~/debug/pipeline_latency_ms"}
        self._publishers = {name: node.create_publisher(Float64, topic, qos.OUTPUT) for name, topic in names.items()}
        self._ended_s: float | None = None

    @property
    def publishers(self) -> list[Any]:
        """All of them, to be destroyed by the node."""
        return list(self._publishers.values())

    def publish(self, stage_ms: Mapping[str, float], header: Any) -> None:
        """Send the times of a frame that was just published.

        Args:
            stage_ms: milliseconds by stage; stages that did not run are left out.
            header: of the scan.
        """
        now_s = time.monotonic()
        latency_ms = (self._clock.now().nanoseconds - stamp_ns(header)) / 1e6
        values = dict(stage_ms)
        if abs(latency_ms) < OTHER_CLOCK_MS:
            values["latency"] = latency_ms
        if self._ended_s is not None:
            values["cyclic"] = (now_s - self._ended_s) * 1e3
        self._send(values)
        self._ended_s = now_s

    def _send(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if self._publishers[name].get_subscription_count():
                self._publishers[name].publish(Float64(data=float(value)))
