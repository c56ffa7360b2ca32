# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node `token_recorder`: writes `~/tokens/compressed` and `~/model_info` of the tokenizer into an MCAP file that a kill cannot take away.

What goes in: the topics of the node `tokenizer`. What comes out: one file a start, named by the time, in the folder of the parameter
`folder`. Unusual: `ros2 bag record` keeps a chunk in memory until it is full, which takes the few bytes of tokens long; here what was
heard reaches the disk within a second. What a kill leaves is finished at the next start, or by `copilot4d finish FILE`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from copilot4d_core.data.recording import LONGEST_CHUNK_S, Recording, finish
from copilot4d_ros import qos
from copilot4d_ros.node_process import run_node
from copilot4d_ros.parameter_table import declare, parameter

QUEUE = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
"""Two seconds of tokens while the disk is slow."""


@dataclass(frozen=True)
class RecorderParameters:
    """Of the node `token_recorder`."""

    folder: str = parameter(".", "Where the recordings go; made if it is not there.")
    tokenizer: str = parameter("/tokenizer", "The node whose tokens are recorded, with its namespace.")


class TokenRecorder(Node):
    """Subscribes from its start and writes until its end."""

    def __init__(self) -> None:
        """Begin a recording, after those that a kill left in the folder were finished.

        Raises:
            ValueError, OSError: the folder takes no file.
        """
        super().__init__("token_recorder")
        self.failure: str | None = None
        settings = declare(self, RecorderParameters)
        folder = Path(settings.folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        self._finish_others(folder)
        self._recording = Recording(folder / f"tokens_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{time.time_ns() % 1_000_000:06d}.mcap")
        self.get_logger().info(f"recording to {self._recording.path}")
        self._record(CompressedImage, "sensor_msgs/msg/CompressedImage", f"{settings.tokenizer}/tokens/compressed", QUEUE)
        self._record(String, "std_msgs/msg/String", f"{settings.tokenizer}/model_info", qos.LATCHED)
        self.create_timer(LONGEST_CHUNK_S / 4, self._flush, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _record(self, kind: Any, name: str, topic: str, profile: QoSProfile) -> None:
        definition, _ = get_typestore(Stores.ROS2_HUMBLE).generate_msgdef(name, ros_version=2)
        channel = self._recording.channel(topic, name, definition)
        self.create_subscription(kind, topic, lambda data: self._take(channel, data), profile, raw=True)

    def start(self) -> bool:
        """It runs from the first moment."""
        return True

    def release(self) -> bool:
        """Finish the recording."""
        self._safely(self._recording.close)
        return True

    def _finish_others(self, folder: Path) -> None:
        for path in sorted(folder.glob("tokens_*.mcap")):
            try:
                finish(path)
            except ValueError as error:  # of another recorder that runs, or none of ours
                self.get_logger().warning(str(error))

    def _take(self, channel: int, data: bytes) -> None:
        self._safely(lambda: self._recording.write(channel, self.get_clock().now().nanoseconds, bytes(data)))

    def _flush(self) -> None:
        self._safely(self._recording.flush_due)

    def _safely(self, work: Any) -> None:
        """A disk that takes no more ends the node; what was written before stays and can be finished."""
        try:
            work()
        except OSError as error:
            self.failure = f"{self._recording.path}: cannot be written any more: {error}; what is in it can be read after `copilot4d finish`"
            self.get_logger().error(self.failure)
            self.context.try_shutdown()


def main(args: Sequence[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal or a full disk."""
    run_node("token_recorder", _made, args)


def _made() -> TokenRecorder:
    try:
        return TokenRecorder()
    except OSError as error:
        raise ValueError(f"folder: expected one that takes a recording, got: {error}") from error


if __name__ == "__main__":
    main()
