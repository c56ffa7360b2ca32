# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the node's tests talk to it with: a node that publishes clouds and keeps every answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import String

from copilot4d_ros import qos
from copilot4d_ros.messages import byte_array, stamp_ns

DEADLINE_S = 60.0
ASK_AGAIN_S = 5.0
MESSAGES_A_FRAME = 16  # a node with every view watched answers a cloud with a dozen


def cloud(points: Any, stamp: int, names: str = "xyz", frame: str = "lidar_top") -> Any:
    """Cloud of packed float32 fields, written with nothing of the package but the byte copy.

    Args:
        points: (N, len(names)).
        stamp: nanoseconds; makes the cloud findable.
    """
    values = np.asarray(points, dtype="<f4").reshape(-1, len(names))
    message = PointCloud2(height=1, width=len(values), point_step=4 * len(names), row_step=4 * values.size, is_dense=False)
    message.fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)]
    message.header.frame_id = frame
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
    message.data = byte_array(values)
    return message


class NodeClient(Node):
    """Publishes to the input of the node `tokenizer` in a namespace and keeps what that node publishes."""

    def __init__(self, namespace: str, name: str = "client") -> None:
        super().__init__(name, namespace=namespace)
        self.target = f"/{namespace}/tokenizer"
        self.clouds = self.create_publisher(PointCloud2, f"{self.target}/input/points", qos.PLAYBACK)
        self.tokens: dict[int, Any] = {}
        self.depth: dict[int, Any] = {}
        self.reconstruction: dict[int, Any] = {}
        self.info: dict[str, Any] | None = None
        self.diagnostics: dict[str, str] = {}
        self.level, self.text, self.stamp = b"", "", Time()
        self._stamp, self._is_live = 1_700_000_000_123_456_789, False
        self.create_subscription(Image, f"{self.target}/tokens", lambda m: self._keep(self.tokens, m), 10)
        self.create_subscription(String, f"{self.target}/model_info", self._keep_info, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep_diagnostics, 10)

    def watch_renderings(self) -> list[Any]:
        """Subscribe to depth and reconstruction; the subscriptions, to be destroyed."""
        points = f"{self.target}/reconstruction"
        return [self.create_subscription(Image, f"{self.target}/depth", lambda m: self._keep(self.depth, m), 10),
                self.create_subscription(PointCloud2, points, lambda m: self._keep(self.reconstruction, m), 10)]

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> None:
        """Spin until a condition holds; fails with what was awaited."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s; last diagnostics {self.diagnostics}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def send_until(self, condition: Callable[[], Any], what: str) -> None:
        """Publish good clouds until a condition holds, for connections that are still being made."""

        def sent() -> Any:
            self.send([[1.0, 1.0, 0.0]])
            rclpy.spin_once(self, timeout_sec=0.2)
            for _ in range(MESSAGES_A_FRAME):  # a client that sends faster than it listens hears only what is old
                rclpy.spin_once(self, timeout_sec=0.0)
            return condition()

        self.wait(sent, what)

    def send(self, points: Any, **how: Any) -> int:
        """Publish a cloud with a new stamp, which is returned."""
        self._stamp = time.time_ns() if self._is_live else self._stamp + 100_000_001
        self.clouds.publish(cloud(points, self._stamp, **how))
        return self._stamp

    def stamp_now(self) -> None:
        """From here on, clouds are stamped with the time of this machine."""
        self._is_live = True

    def send_message(self, message: Any, stamp: int | None = None) -> int:
        """Publish a cloud as it is, but for its header; with a new stamp unless one is given. Returns the stamp."""
        if stamp is None:
            self._stamp += 100_000_001
            stamp = self._stamp
        message.header.frame_id = "lidar_top"
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        self.clouds.publish(message)
        return stamp

    def count(self, key: str) -> int:
        """A count in the latest diagnostics; -1 before the first."""
        return int(self.diagnostics.get(key, "-1"))

    def connect(self) -> None:
        """Wait until both directions work: clouds are sent until tokens come back and nothing is under way."""
        self.wait(lambda: self.info, "model info")
        self.send_until(lambda: self.tokens, "first tokens")
        # The last cloud's stamp too: diagnostics from before it can say that all is done while it is still under way.
        self.wait(lambda: self.diagnostics.get("last_stamp_ns") == str(self._stamp)
                  and self.count("received") == self.count("processed") + self.count("dropped_replaced"), "quiet")

    def set_parameter(self, name: str, value: Any) -> Any:
        """Ask the node to change a parameter; rcl_interfaces/SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.ask(SetParameters, "set_parameters", request).results[0]

    def parameter_names(self) -> list[str]:
        """Names of all parameters of the node."""
        return list(self.ask(ListParameters, "list_parameters", ListParameters.Request()).result.names)

    def get_parameter_of(self, name: str) -> int:
        """Value of a whole-number parameter of the node."""
        (value,) = self.ask(GetParameters, "get_parameters", GetParameters.Request(names=[name])).values
        return int(value.integer_value)

    def describe(self, names: list[str]) -> list[Any]:
        """rcl_interfaces/ParameterDescriptor of each."""
        return list(self.ask(DescribeParameters, "describe_parameters", DescribeParameters.Request(names=names)).descriptors)

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """Answer of a service of the node, which may be asked twice: a server that has not found our reader yet drops its answer."""
        asked = self.create_client(kind, f"{self.target}/{service}")
        assert asked.wait_for_service(DEADLINE_S)
        futures: list[Any] = []
        due_s = 0.0

        def answered() -> bool:
            nonlocal due_s
            if time.monotonic() >= due_s:
                futures.append(asked.call_async(request))
                due_s = time.monotonic() + ASK_AGAIN_S
            return any(future.done() for future in futures)

        self.wait(answered, f"an answer of {service}")
        self.destroy_client(asked)
        return next(future for future in futures if future.done()).result()

    def _keep(self, where: dict[int, Any], message: Any) -> None:
        where[stamp_ns(message.header)] = message

    def _keep_info(self, message: Any) -> None:
        self.info = json.loads(message.data)

    def _keep_diagnostics(self, message: Any) -> None:
        status = message.status[0]
        if status.name.startswith(f"{self.target}:"):
            self.level, self.text, self.stamp = status.level, status.message, message.header.stamp
            self.diagnostics = {pair.key: pair.value for pair in status.values}
