# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the node `detokenizer` talk to it with: a node that publishes tokens and their record and keeps every answer.

`python detokenizer_client.py` runs the real node with a stand-in for the model whose depth tells which tokens it got.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from fake_runner import MODEL_ID, OPEN_MS_VARIABLE, FakeRunner
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header, String

from copilot4d_core.config import preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.runner import Rendering, TokenArray
from copilot4d_ros import qos
from copilot4d_ros.messages import byte_array, stamp_ns
from copilot4d_ros.model_info import model_info
from copilot4d_ros.own_graph import stop

HERE = Path(__file__).parent
DEADLINE_S = 60.0
SLOW_MS_VARIABLE = "FAKE_RUNNER_DECODE_MS"
BAD_CODE, FATAL_CODE = 13, 14
VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class DecodingFakeRunner(FakeRunner):
    """Median depth in metres: 1 + the token of row 0, column 1, for every ray. Token 13 in row 0, column 0 makes it fail, 14 its GPU."""

    def decode(self, tokens: TokenArray, rays: Rays) -> Rendering:
        """Depths that tell which tokens came."""
        if tokens[0, 0] == BAD_CODE:
            raise RuntimeError("fake model: code 13")
        if self.is_broken or tokens[0, 0] == FATAL_CODE:
            self.is_broken = True
            raise GpuError("GPU: fake fault; close this runner and open a new one")
        time.sleep(float(os.environ.get(SLOW_MS_VARIABLE, "0")) / 1e3)
        self.stage_ms = {"decode": 4.0, "render": 5.0}
        depth_m = np.full(len(rays.directions), 1.0 + tokens[0, 1], dtype=np.float32)
        return Rendering(depth_m + 100, np.ones_like(depth_m), depth_m, depth_m + 200)


def open_decoding_fake_runner(*_: Any) -> DecodingFakeRunner:
    """As `open_runner`, whatever is asked for."""
    time.sleep(float(os.environ.get(OPEN_MS_VARIABLE, "0")) / 1e3)
    return DecodingFakeRunner()


def token_image(tokens: Any, stamp: int, **changes: Any) -> Any:
    """Image of tokens, written with nothing of the package but the byte copy; `changes` replace what the message says.

    Args:
        tokens: (H, W), written as little-endian uint16.
        stamp: nanoseconds; makes the image findable.
    """
    values = np.asarray(tokens).astype("<u2")
    header = Header(frame_id="roof/lidar")
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 1_000_000_000)
    message = Image(header=header, height=values.shape[0], width=values.shape[1], encoding="16UC1", is_bigendian=0, step=2 * values.shape[1])
    message.data = byte_array(values)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def info_text(model_id: str = MODEL_ID, **changes: Any) -> str:
    """The record of the fake model as JSON; `changes` replace entries."""
    return json.dumps(model_info(preset("tiny"), model_id, SphericalPattern()) | changes)


class DetokenizerClient(Node):
    """Publishes to the inputs of the node `detokenizer` in a namespace and keeps what that node publishes."""

    def __init__(self, namespace: str, tokens_qos: QoSProfile = qos.OUTPUT, watch: bool = True) -> None:
        super().__init__("client", namespace=namespace)
        self.target = f"/{namespace}/detokenizer"
        self.tokens = self.create_publisher(Image, f"{self.target}/input/tokens", tokens_qos)
        self.depth: dict[int, Any] = {}
        self.reconstruction: dict[int, Any] = {}
        self.diagnostics: dict[str, str] = {}
        self.level, self.text = b"", ""
        self._stamp = 1_700_000_000_123_456_789
        self.create_subscription(DiagnosticArray, "/diagnostics", self._keep_diagnostics, 10)
        if watch:
            self.watch()

    def watch(self) -> list[Any]:
        """Subscribe to depth and reconstruction; the subscriptions, to be destroyed."""
        return [self.create_subscription(Image, f"{self.target}/depth", lambda m: self._keep(self.depth, m), 10),
                self.create_subscription(PointCloud2, f"{self.target}/reconstruction", lambda m: self._keep(self.reconstruction, m), 10)]

    def tell_info(self, text: str, latched: bool = True, until_heard: bool = True) -> Any:
        """Publish a record; the publisher, which a latched record lives as long as. `until_heard`: wait until the node reports it."""
        publisher = self.create_publisher(String, f"{self.target}/input/model_info", qos.LATCHED if latched else VOLATILE)
        self.wait(lambda: publisher.get_subscription_count() == (2 if latched else 1), "the subscriptions of the record")
        publisher.publish(String(data=text))
        if until_heard:
            self.wait(lambda: self.diagnostics.get("tokens_model_id") == json.loads(text)["model_id"], "the record in the diagnostics")
        return publisher

    def send(self, code: int = 0, first: int = 0, **changes: Any) -> int:
        """Publish 16 x 16 tokens: `first` in row 0, column 0, `code` in column 1, 0 elsewhere. Returns the new stamp."""
        tokens = np.zeros((16, 16), dtype=np.uint16)
        tokens[0, :2] = first, code
        return self.send_grid(tokens, **changes)

    def send_grid(self, tokens: Any, **changes: Any) -> int:
        """Publish a token image with a new stamp, which is returned."""
        self.tokens.publish(token_image(tokens, self.new_stamp(), **changes))
        return self._stamp

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> None:
        """Spin until a condition holds; fails with what was awaited."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s; last diagnostics {self.text} {self.diagnostics}"
            rclpy.spin_once(self, timeout_sec=0.05)

    def count(self, key: str) -> int:
        """A count in the latest diagnostics; -1 before the first."""
        return int(self.diagnostics.get(key, "-1"))

    def connect(self) -> None:
        """Wait until all directions work: tokens are sent until renderings come back and nothing is under way. Needs a record."""

        def sent() -> Any:
            self.send()
            rclpy.spin_once(self, timeout_sec=0.2)
            return self.depth and self.reconstruction

        self.wait(sent, "first renderings")
        self.wait(self.is_settled, "quiet")

    def is_settled(self) -> bool:
        """Whether the newest token grid was rendered, and every other that arrived has become a rendering or a count."""
        if self.diagnostics.get("last_stamp_ns") != str(self._stamp):
            return False
        dropped = sum(int(value) for key, value in self.diagnostics.items() if key.startswith("dropped_"))
        return self.count("received") == self.count("processed") + self.count("not_watched") + dropped

    @property
    def last_stamp(self) -> int:
        """The newest stamp that was given out."""
        return self._stamp

    def new_stamp(self) -> int:
        """A stamp that no message has."""
        self._stamp += 100_000_001
        return self._stamp

    def refused(self, reason: str, send: Callable[[], int]) -> int:
        """Send tokens and wait until they are counted as dropped for a reason; the stamp that `send` returned."""
        return self.refused_of(self.tokens, reason, send)

    def refused_of(self, publisher: Any, reason: str, send: Callable[[], int]) -> int:
        """The same with another publisher than that of token images."""
        key = f"dropped_{reason}"
        self.wait(lambda: self.diagnostics and publisher.get_subscription_count(), "the node")
        before = self.count(key)
        stamp = send()
        self.wait(lambda: self.count(key) == before + 1, key)
        assert stamp not in self.depth
        return stamp

    def depth_of(self, stamp: int) -> float:
        """The one value of a depth image, once it has come."""
        self.wait(lambda: stamp in self.depth, "depth")
        values = set(np.frombuffer(self.depth[stamp].data, dtype="<f4").tolist())
        assert len(values) == 1
        return float(values.pop())

    def _keep(self, where: dict[int, Any], message: Any) -> None:
        where[stamp_ns(message.header)] = message

    def _keep_diagnostics(self, message: Any) -> None:
        status = message.status[0]
        if status.name == f"{self.target}: tokens":
            self.level, self.text = status.level, status.message
            self.diagnostics = {pair.key: pair.value for pair in status.values}


@contextmanager
def detokenizer_process(namespace: str, log: Path, *parameters: str, module: str = "", decode_ms: float = 0.0,
                        open_ms: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """The node as its own process, with the fake model unless `module` is named; killed at the end if it still runs."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    program = ["-m", module] if module else [str(HERE / "detokenizer_client.py")]
    command = [sys.executable, *program, "--ros-args", "-r", f"__ns:=/{namespace}", "-p", "diagnostics.period_s:=0.1", *parameters]
    environment = os.environ | {SLOW_MS_VARIABLE: str(decode_ms), OPEN_MS_VARIABLE: str(open_ms), "PYTHONPATH": path}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process
        finally:
            stop(process)


if __name__ == "__main__":
    from copilot4d_ros.detokenizer_node import main

    main(open_model=open_decoding_fake_runner)
