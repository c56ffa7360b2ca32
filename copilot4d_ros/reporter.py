# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A node's reports on /diagnostics, and what the middleware tells: losses, and peers whose quality of service does not match.

What goes in: counts and findings. What comes out: one status a report, and lines in the log, each with its remedy.
"""

from __future__ import annotations

from collections import Counter

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from copilot4d_ros import qos
from copilot4d_ros.diagnostics import LOSS_ADVICE, STATE_TEXTS, NodeState, diagnostics_message, frame_findings, frame_values
from copilot4d_ros.frame_statistics import Snapshot
from copilot4d_ros.health import Finding, Health, Kind
from copilot4d_ros.parameters import DiagnosticsParameters

_LOSS_WARN_EVERY_S = 30.0


class Reporter:
    """Publishes what a node is doing and what is wrong with it."""

    def __init__(self, node: Node, what: str) -> None:
        """Args: `what` arrives at the node, in the plural; it is part of the status's name."""
        self._node, self._what = node, what
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        self._health = Health()
        self._before: Snapshot | None = None
        self._mismatches: Counter[str] = Counter()
        self._mismatches_before: Counter[str] = Counter()

    def start_over(self) -> None:
        """The node was activated: what was wrong before is forgotten."""
        self._health.start_over()

    def tell_loss(self, more: int) -> None:
        """The middleware has lost so many more messages."""
        self._node.get_logger().warning(f"{more} {self._what} lost on the way: {LOSS_ADVICE}", throttle_duration_sec=_LOSS_WARN_EVERY_S)

    def input_mismatch(self, topic: str) -> None:
        """A publisher offers less than the node asks for."""
        self._mismatch(f"{topic}: a publisher offers less than is asked for, and nothing comes from it; set input_qos:=best_effort, or publish "
                       "reliable")

    def output_mismatch(self, topic: str) -> None:
        """A subscriber asks for more than the node offers."""
        self._mismatch(f"{topic}: a subscriber asks for more than is offered, and nothing reaches it; subscribe volatile, or change the publisher "
                       f"with the parameters qos_overrides.{self._node.resolve_topic_name(topic)}.publisher.*")

    def _mismatch(self, text: str) -> None:
        self._mismatches[text] += 1
        self._node.get_logger().warning(text)

    def publish(self, about: dict[str, str], now: Snapshot, parameters: DiagnosticsParameters, values: dict[str, str],
                findings: list[Finding] | None) -> None:
        """One report.

        Args:
            about: the keys that come first: state, model_id and runner.
            values: further keys of this node.
            findings: what this node finds wrong beside what every node does; None while it is not running.
        """
        if findings is not None:
            new = self._mismatches - self._mismatches_before
            findings = findings + frame_findings(now, self._before, parameters, self._what)
            findings += [Finding(text, DiagnosticStatus.WARN, text) for text in new]
        level, text = self._health.judge(findings or [])
        every = {**about, **frame_values(now, parameters), "qos_mismatches": str(sum(self._mismatches.values())), **values}
        name = f"{self._node.get_fully_qualified_name()}: {self._what}"
        stamp = self._node.get_clock().now().to_msg()
        text = text or STATE_TEXTS[NodeState(about["state"])]
        self._publisher.publish(diagnostics_message(name, stamp, level, text, about["model_id"], every))
        self._before, self._mismatches_before = now, Counter(self._mismatches)


def silence(now: Snapshot, what: str, topic: str, publishers: int, elsewhere: str, stale_s: float) -> list[Finding]:
    """Nothing has arrived yet, or nothing any more.

    Args:
        what: what should arrive, in the plural.
        publishers: how many there are on the topic.
        elsewhere: where it may be instead, for the end of the text.
    """
    if now.idle_s is not None and now.idle_s <= stale_s:
        return []
    there = f"{publishers} publisher{'s' * (publishers != 1)} on {topic}{elsewhere}"
    if now.idle_s is None:
        return [Finding("silent", DiagnosticStatus.WARN, f"no {what} have arrived yet; {there}", Kind.CONDITION)]
    return [Finding("silent", DiagnosticStatus.STALE, f"no {what} for {now.idle_s:.0f} s; {there}", Kind.CONDITION)]
