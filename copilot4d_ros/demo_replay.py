# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The demo's run: node and bag player as processes, every answer collected over real topics, bounded in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_ros.demo_collector import DemoCollector
from copilot4d_ros.own_graph import own_graph, running_module

_MARGIN = 1.5
"""Wall time from scan to scan over the node's time for one, so that it keeps up when the machine is busy."""
_LONGEST_REPLAY_S = 100.0
_START_S = 90.0
"""Longest start of the node: on a new machine the kernels are compiled first."""
_REST_S = 10.0
"""Longest wait for the last frames after the player has ended."""


class Replay:
    """One run; `run` it and read the collector."""

    def __init__(self, bag: Path, topic: str, scans: list[Scan], pattern: SphericalPattern, weights: Path | None,
                 scratch: Path) -> None:
        self._bag, self._topic, self._scans, self._pattern, self._weights = bag, topic, scans, pattern, weights
        self._node_log, self._player_log = scratch / "node.txt", scratch / "player.txt"

    def run(self, console: Console) -> DemoCollector:
        """Start the node, then the player, and collect until every cloud is answered or given up.

        Raises:
            RuntimeError: a process failed, or nothing came back in time; the text holds what it printed.
        """
        with own_graph():
            # Ctrl-C reaches Python, not rclpy: the processes are stopped on the way out.
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            try:
                collector = DemoCollector()
                self._play(collector, console)
                collector.destroy_node()
            finally:
                rclpy.try_shutdown()
        if not collector.complete:
            raise RuntimeError(f"no cloud was answered; diagnostics {collector.diagnostics}; the node says: "
                               f"{_tail(self._node_log)}")
        return collector

    def _play(self, collector: DemoCollector, console: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with (running_module("copilot4d_ros.tokenizer_node", self._node_parameters(), self._node_log) as node,
              Progress(*columns, console=console) as progress):
            task = progress.add_task("loading the model", total=len(self._scans))
            if not self._spin(collector, lambda: collector.info is not None, node, _START_S):
                raise RuntimeError(f"the node was not ready within {_START_S:.0f} s; it says: {_tail(self._node_log)}")
            progress.update(task, description="timing one scan")
            period_s = self._measured_period_s(collector, node)
            progress.update(task, description=f"replaying {self._bag.name}")

            def show() -> None:
                progress.update(task, completed=len(collector.complete))

            self._play_bag(collector, node, len(self._scans), period_s, show)

    def _measured_period_s(self, collector: DemoCollector, node: Popen[bytes]) -> float:
        """Play the first scan alone, and say how far apart scans must come for the node to keep up."""
        self._play_bag(collector, node, 1, 1.0, lambda: None)
        if not collector.complete:
            raise RuntimeError(f"the first cloud was not answered; the node says: {_tail(self._node_log)}")
        scan_s = float(collector.diagnostics["total_ms"]) / 1e3
        collector.start_over()
        return min(max(_MARGIN * scan_s, self._recorded_period_s()), _LONGEST_REPLAY_S / len(self._scans))

    def _play_bag(self, collector: DemoCollector, node: Popen[bytes], count: int, period_s: float,
                  show: Callable[[], None]) -> None:
        """Play the first scans of the bag and collect the answers."""
        with running_module("copilot4d_ros.bag_player", self._player_parameters(count, period_s), self._player_log) as player:

            def ended() -> bool:
                show()
                return player.poll() is not None

            self._spin(collector, ended, node, 30.0 + 1.2 * period_s * count)
            if player.poll() != 0:
                raise RuntimeError(f"the bag player failed: {_tail(self._player_log)}")
            self._spin(collector, lambda: ended() and self._answered(collector, count), node, _REST_S)

    def _recorded_period_s(self) -> float:
        stamps = [scan.stamp_ns or 0 for scan in self._scans]
        return max(stamps[-1] - stamps[0], 0) / 1e9 / max(len(stamps) - 1, 1)

    def _answered(self, collector: DemoCollector, played: int) -> bool:
        """Whether the node has settled every scan that was played, and its answers have arrived."""
        return collector.settled >= played and len(collector.complete) >= collector.count("processed")

    def _spin(self, collector: DemoCollector, done: Callable[[], bool], node: Popen[bytes], seconds: float) -> bool:
        """Collect until a condition holds; False when it did not in time."""
        deadline_s = time.monotonic() + seconds
        while not done():
            rclpy.spin_once(collector, timeout_sec=0.1)
            if node.poll() is not None:
                raise RuntimeError(f"the node ended with exit code {node.returncode}: {_tail(self._node_log)}")
            if time.monotonic() > deadline_s:
                return False
        return True

    def _node_parameters(self) -> list[str]:
        pattern = self._pattern
        values: dict[str, float | str] = {
            "depth.rows": pattern.rows, "depth.columns": pattern.columns, "depth.elevation_min_deg": pattern.elevation_min_deg,
            "depth.elevation_max_deg": pattern.elevation_max_deg, "diagnostics.period_s": 0.2,
        }
        if self._weights is not None:
            values["weights"] = f"'{self._weights.resolve()}'"
        return _assignments(values)

    def _player_parameters(self, count: int, period_s: float) -> list[str]:
        rate = min(max(self._recorded_period_s() / period_s, 0.01), 100.0)
        return _assignments({"bag": f"'{self._bag.resolve()}'", "topic": self._topic, "output_topic": "/tokenizer/input/points",
                             "rate": rate, "max_messages": count})


def _assignments(values: dict[str, float | str]) -> list[str]:
    return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]


def _tail(log: Path, lines: int = 6) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "nothing"
