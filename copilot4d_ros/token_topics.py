# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The topics of the tokens: `~/tokens`, `~/tokens/compressed`, and `~/model_info`, which says what they mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from copilot4d_core.data.sensors import SensorPattern
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.deploy.token_stream import tokens_to_bytes
from copilot4d_ros import qos
from copilot4d_ros.messages import compressed_tokens, image_from_tokens
from copilot4d_ros.model_info import model_info


class TokenTopics:
    """Publishers of a node's tokens; the grid is always sent, its bytes while somebody subscribes."""

    def __init__(self, node: Node, mismatch: Callable[[str], None]) -> None:
        """Args: `mismatch` is told the topic when a subscriber asks for more than is offered."""
        self._tokens = qos.publisher(node, Image, "~/tokens", qos.OUTPUT, mismatch)
        self._compressed = qos.publisher(node, CompressedImage, "~/tokens/compressed", qos.OUTPUT, mismatch)
        self._model_info = qos.publisher(node, String, "~/model_info", qos.LATCHED, mismatch)
        self.publishers: list[Any] = [self._tokens, self._compressed, self._model_info]

    def announce(self, runner: Runner, pattern: SensorPattern) -> dict[str, Any]:
        """Publish and return the record of a model.

        Args:
            pattern: of the depth image.
        """
        info = model_info(runner.config, runner.model_id, pattern)
        self._model_info.publish(String(data=json.dumps(info)))
        return info

    def publish(self, tokens: TokenArray, runner: Runner, header: Any) -> None:
        """Send a grid.

        Args:
            runner: what made it.
            header: of the scan; kept whole.
        """
        self._tokens.publish(image_from_tokens(tokens, header))
        if self._compressed.get_subscription_count():
            data = tokens_to_bytes(tokens, runner.model_id, runner.config, runner.prior)
            self._compressed.publish(compressed_tokens(data, runner.model_id, header))
