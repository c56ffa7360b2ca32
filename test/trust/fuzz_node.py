# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Generated PointCloud2 messages to the live node over DDS, and after each a good scan: `run` is the check.

What goes in: seconds. What comes out: a record. Each message must end in tokens or in a count with a refusal that names a field; the node stays
up, warns at most every five seconds, and gives the good scan the same tokens every time.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from hypothesis import HealthCheck, Phase, given, seed, settings
from node_client import NodeClient
from tiny_model import write_tiny_weights

from copilot4d_core.grid import FloatArray
from copilot4d_ros.messages import array_from_image
from copilot4d_ros.model_node import WARN_EVERY_S
from copilot4d_ros.own_graph import own_graph, running_module
from trust.cloud_oracle import read
from trust.clouds import clouds, points_cloud
from trust.intake import is_inside
from trust.record import ROOT, Record

BATCH = 50
LARGE = (1_000_000, 5_000_000)
START_S, ANSWER_S = 180.0, 60.0
DROPPED = ("dropped_invalid", "dropped_empty", "dropped_outside")
GOOD = np.random.default_rng(8).uniform([-9.9, -9.9, -2.0], [9.9, 9.9, 2.0], (500, 3)).astype("<f4")


class LiveNode:
    """The node in its own process with a tiny untrained model, and a client."""

    def __init__(self, client: NodeClient, process: Any, log: Path) -> None:
        self._client, self._process, self._log = client, process, log
        self._started_s = time.monotonic()
        self.good_tokens = self._tokens_of_good()

    def take(self, message: Any) -> str:
        """Send a message and then the good scan; what became of the first, as a word.

        Raises:
            AssertionError: the node did not do what it should.
        """
        reading, before = read(message), self._counts()
        self._client.clouds.publish(message)
        self._client.wait(lambda: self._counts() != before, "a count or tokens", ANSWER_S)
        grown = {name: count - before[name] for name, count in self._counts().items() if count != before[name]}
        expected = "dropped_invalid" if reading.problems else "processed" if any(map(is_inside, reading.points)) else \
            "dropped_outside" if reading.points else "dropped_empty"
        assert grown == {expected: 1}, f"expected {expected}, got {grown}"
        if reading.problems:
            text = self._client.diagnostics["last_refusal"]
            assert any(re.search(problem, text) for problem in reading.problems), f"expected a refusal of {reading.problems}, got {text}"
        again = self._tokens_of_good()
        assert np.array_equal(again, self.good_tokens), "the good scan gave other tokens"
        assert not self.has_ended, "the node ended"
        return expected

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def check_log(self) -> None:
        """No traceback, and no more warnings than one in `WARN_EVERY_S`."""
        text = self._log.read_text(errors="replace")
        assert "Traceback" not in text, text[-2000:]
        most = (time.monotonic() - self._started_s) / WARN_EVERY_S + 2
        assert text.count("cloud dropped") <= most, f"{text.count('cloud dropped')} warnings, expected at most {most:.0f}"

    def _counts(self) -> dict[str, int]:
        return {name: self._client.count(name) for name in ("processed", "dropped_failed", "dropped_replaced", *DROPPED)}

    def _tokens_of_good(self) -> FloatArray:
        processed = self._client.count("processed")
        self._client.tokens.clear()
        stamp = self._client.send_message(points_cloud(GOOD))
        client = self._client
        client.wait(lambda: stamp in client.tokens and client.count("processed") == processed + 1, "tokens of the good scan", ANSWER_S)
        return array_from_image(client.tokens[stamp])


@contextmanager
def live_node() -> Iterator[LiveNode]:
    """A graph of its own with the node; rclpy must not be initialised."""
    with own_graph(), tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        rclpy.init()
        log = Path(folder) / "log.txt"
        weights = write_tiny_weights(Path(folder) / "tiny.safetensors")
        # Reliable, so that none is lost on the way: what the middleware loses has a check of its own.
        parameters = ["-r", "__ns:=/fuzz", "-p", f"weights:={weights}", "-p", "input_qos:=reliable", "-p", "diagnostics.period_s:=0.05",
                      "-p", "max_points:=10000000"]
        try:
            with running_module("copilot4d_ros.tokenizer_node", parameters, log) as process:
                client = NodeClient("fuzz")
                client.wait(lambda: client.info, "the model", START_S)
                client.connect()
                yield LiveNode(client, process, log)
                client.destroy_node()
        finally:
            rclpy.try_shutdown()


def run(seconds: float, most: int, command: str, large: tuple[int, ...] = LARGE) -> Record:
    """Messages until the time is up or so many were tried."""
    told: Counter[str] = Counter()
    failed: list[str] = []
    with live_node() as node:
        started_s = time.monotonic()
        for number in range(most // BATCH):
            if time.monotonic() - started_s > seconds or len(failed) >= 5:
                break
            _try(lambda number=number: _batch(node, number, told, started_s + seconds), failed)
            print(f"live node: {told['tried']:,} tried, {len(failed)} failures, {time.monotonic() - started_s:.0f} s", flush=True)
        for count in large:  # last, because they take a while each
            points = np.random.default_rng(count).uniform([-9, -9, -2], [9, 9, 2], (count, 3)).astype("<f4")
            _try(lambda points=points: told.update(["tried", node.take(points_cloud(points))]), failed)
        _try(node.check_log, failed)
        ended = node.has_ended
    found = (f"{told['processed']:,} gave tokens, {told['dropped_invalid']:,} were refused by the name of a field that is wrong, "
             f"{told['dropped_empty'] + told['dropped_outside']:,} counted as empty or outside; the good scan after each gave the same tokens")
    return Record("messages", "live-node", "generated PointCloud2 messages, and clouds of 1 and 5 million points, to the running node over DDS, "
                  "after each a good scan", told["tried"], "messages",
                  {"crashes": int(ended), "wrong results, refusals or silences": len(failed)}, found, command, time.monotonic() - started_s,
                  {"told": dict(told), "failed": failed[:20]})


def _try(check: Any, failed: list[str]) -> None:
    try:
        check()
    except AssertionError as error:
        failed.append(str(error)[:600])
        print(failed[-1], flush=True)


def _batch(node: LiveNode, number: int, told: Counter[str], until_s: float) -> None:
    @seed(number)
    @settings(max_examples=BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate,))
    @given(clouds())
    def check(drawn: tuple[Any, list[str]]) -> None:
        if time.monotonic() < until_s:
            told.update(["tried", node.take(drawn[0])])

    check()
