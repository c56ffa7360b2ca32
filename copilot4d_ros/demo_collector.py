# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The demo's own node: it keeps what the tokenizer publishes, by stamp."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from copilot4d_core.data.point_cloud2 import points_from_message
from copilot4d_core.grid import FloatArray
from copilot4d_ros import qos
from copilot4d_ros.frame_statistics import DropReason
from copilot4d_ros.messages import array_from_image, stamp_ns

_KEEP_ALL = QoSProfile(depth=50)


class DemoCollector(Node):
    """Subscribes to every output of `/tokenizer`; spin it to fill the records, whose keys are stamps in nanoseconds."""

    def __init__(self) -> None:
        super().__init__("demo")
        self.tokens: dict[int, npt.NDArray[np.uint16]] = {}
        self.depth_m: dict[int, FloatArray] = {}
        """(rows, columns) float32, metres; NaN for nothing."""
        self.points_m: dict[int, FloatArray] = {}
        """(N, 3) float32, metres: the reconstructed points without the gaps."""
        self.info: dict[str, Any] | None = None
        self.diagnostics: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self.create_subscription(Image, "/tokenizer/tokens", self._keep_tokens, _KEEP_ALL)
        self.create_subscription(Image, "/tokenizer/depth", self._keep_depth, _KEEP_ALL)
        self.create_subscription(PointCloud2, "/tokenizer/reconstruction", self._keep_points, _KEEP_ALL)
        self.create_subscription(String, "/tokenizer/model_info", self._keep_info, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep_diagnostics, _KEEP_ALL)

    @property
    def complete(self) -> list[int]:
        """Stamps of the frames of which everything has arrived, in order."""
        return sorted(self.tokens.keys() & self.depth_m.keys() & self.points_m.keys())

    def start_over(self) -> None:
        """Forget the frames and count from here."""
        for record in (self.tokens, self.depth_m, self.points_m):
            record.clear()
        self._before = dict(self.diagnostics)

    def count(self, key: str) -> int:
        """What a count of the node's diagnostics has grown by since `start_over`; 0 before the first diagnostics."""
        return int(self.diagnostics.get(key, "0")) - int(self._before.get(key, "0"))

    @property
    def settled(self) -> int:
        """Scans of which the node has said what became of them."""
        return self.count("processed") + sum(self.count(f"dropped_{reason.value}") for reason in DropReason)

    def _keep_tokens(self, message: Any) -> None:
        self.tokens[stamp_ns(message.header)] = array_from_image(message)

    def _keep_depth(self, message: Any) -> None:
        self.depth_m[stamp_ns(message.header)] = array_from_image(message)

    def _keep_points(self, message: Any) -> None:
        self.points_m[stamp_ns(message.header)] = points_from_message(message)[0]

    def _keep_info(self, message: Any) -> None:
        self.info = json.loads(message.data)

    def _keep_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name.startswith("/tokenizer:"):
                self.diagnostics = {pair.key: pair.value for pair in status.values}
