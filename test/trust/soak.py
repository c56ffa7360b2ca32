# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`make soak`: the node at a steady rate on real clouds for as long as `--seconds` says, then the recorder, killed again and again.

What comes out: a record with frames in and out, the slope of the node's resident memory, open files, threads, and the latency from publishing a
cloud to its tokens. Unusual: growth and slowing down are judged in runs of ten minutes or more only; in a shorter one they are told.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from node_client import DEADLINE_S, cloud
from scipy.stats import theilslopes
from sensor_msgs.msg import Image

from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.data.sources import open_scans
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.own_graph import own_graph, running_module
from trust import recordings
from trust.record import ROOT, Record, write_record
from trust.table import write_table

RECORDING = ROOT.parent / "shared" / "data" / "lidar" / "bags" / "kitti_raw_154_10hz"
START_S, LAST_S = 180.0, 10.0
WARM_UP_SHARE, JUDGED_S = 0.1, 600.0
MOST_SLOPE_MB_PER_H, MOST_SLOWER = 1.0, 1.1
MOST_SAMPLES = 1000
"""Of the memory, for the fit: it looks at every pair."""
KILLS = 50
"""Of the token recorder, after the soak, in at most five minutes and at most as long as the soak."""


@dataclass
class Samples:
    """What was seen of a process, once a second."""

    times_s: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self, process_id: int) -> None:
        """One look."""
        place = Path("/proc") / str(process_id)
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
        self.times_s.append(time.monotonic())
        self.rss_bytes.append(int(status["VmRSS"].split()[0]) * 1024)
        self.threads.append(int(status["Threads"]))
        self.files.append(sum(1 for _ in (place / "fd").iterdir()))


def slope_mb_per_h(times_s: Sequence[float], sizes_bytes: Sequence[int]) -> float:
    """Median of the slopes of all pairs (Theil and Sen): single jumps do not move it. 0 for fewer than two samples."""
    if len(times_s) < 2:
        return 0.0
    step = -(-len(times_s) // MOST_SAMPLES)
    return float(theilslopes(np.array(sizes_bytes[::step]) / 1e6, np.array(times_s[::step]) / 3600.0).slope)


class Driver:
    """Publishes clouds in turn at a steady rate from a thread of its own, and hears the tokens."""

    def __init__(self, node: Any, clouds: list[Any], rate_hz: float, frames: int) -> None:
        self._node, self._clouds, self._rate_hz, self._frames = node, clouds, rate_hz, frames
        self._publisher = node.create_publisher(type(clouds[0]), "/soak/tokenizer/input/points", 5)
        node.create_subscription(Image, "/soak/tokenizer/tokens", self._hear, 10)
        self._sent_s: dict[int, float] = {}
        self.latency_ms: list[float] = []
        """In the order in which tokens came."""
        self.sent = self.twice = 0
        self.thread = threading.Thread(target=self._send, daemon=True)

    def warm(self) -> None:
        """Send clouds until tokens come back, and forget them."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not self.latency_ms:
            assert time.monotonic() < deadline_s, "no tokens came back"
            self._publish(0)
            for _ in range(20):
                rclpy.spin_once(self._node, timeout_sec=0.05)
        self.sent, self._sent_s, self.latency_ms = 0, {}, []

    def _send(self) -> None:
        start_s = time.monotonic()
        for index in range(self._frames):
            time.sleep(max(0.0, start_s + index / self._rate_hz - time.monotonic()))
            self._publish(index)

    def _publish(self, index: int) -> None:
        message = self._clouds[index % len(self._clouds)]
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        self._sent_s[stamp] = time.monotonic()
        self._publisher.publish(message)
        self.sent += 1

    def _hear(self, message: Any) -> None:
        sent_s = self._sent_s.pop(stamp_ns(message.header), None)
        if sent_s is None:
            self.twice += 1
        else:
            self.latency_ms.append((time.monotonic() - sent_s) * 1e3)


def run(seconds: float, rate_hz: float, clouds: list[Any], command: str, parameters: Sequence[str] = (), judged_s: float = JUDGED_S) -> Record:
    """The node for so long. The first tenth warms up and is not fitted; every frame counts."""
    frames = max(20, round(seconds * rate_hz))
    with own_graph(), tempfile.TemporaryDirectory() as folder:
        rclpy.init()
        try:
            arguments = ["-r", "__ns:=/soak", *parameters]
            with running_module("copilot4d_ros.tokenizer_node", arguments, Path(folder) / "log.txt") as process:
                node = rclpy.create_node("driver")
                driver, samples = Driver(node, clouds, rate_hz, frames), Samples()
                _wait_for(node, lambda: node.count_subscribers("/soak/tokenizer/input/points"))
                driver.warm()
                started_s = time.monotonic()
                _drive(node, driver, samples, process)
                seconds, code = time.monotonic() - started_s, process.poll()
                node.destroy_node()
        finally:
            rclpy.try_shutdown()
    return _record(driver, samples, code, seconds, rate_hz, len(clouds), command, judged_s)


def _wait_for(node: Any, condition: Any) -> None:
    deadline_s = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline_s, "the node did not start"
        rclpy.spin_once(node, timeout_sec=0.2)


def _drive(node: Any, driver: Driver, samples: Samples, process: Any) -> None:
    driver.thread.start()
    last_s, spoken_s = 0.0, time.monotonic()
    while process.poll() is None and (driver.thread.is_alive() or (len(driver.latency_ms) < driver.sent and time.monotonic() - last_s < LAST_S)):
        rclpy.spin_once(node, timeout_sec=0.05)
        now_s = time.monotonic()
        last_s = now_s if driver.thread.is_alive() else last_s
        if not samples.times_s or now_s - samples.times_s[-1] >= 1.0:
            samples.take(process.pid)
        if now_s - spoken_s > 10.0:
            spoken_s = now_s
            print(f"soak: {driver.sent:,} frames in, {len(driver.latency_ms):,} out, {samples.rss_bytes[-1] / 1e6:.1f} MB", flush=True)


def _record(driver: Driver, samples: Samples, code: int | None, seconds: float, rate_hz: float, clouds: int, command: str, judged_s: float) -> Record:
    warm = int(len(samples.times_s) * WARM_UP_SHARE)
    slope = slope_mb_per_h(samples.times_s[warm:], samples.rss_bytes[warm:])
    tenth = max(1, len(driver.latency_ms) // 10)
    first_ms, last_ms = (float(np.percentile(some, 99)) if some else float("nan") for some in (driver.latency_ms[:tenth], driver.latency_ms[-tenth:]))
    files, threads = ((values[warm], values[-1]) if values else (0, 0) for values in (samples.files, samples.threads))
    judged = seconds >= judged_s
    lost = driver.sent - len(driver.latency_ms)
    failures = {"crashes": int(code is not None), "frames lost": lost, "frames twice": driver.twice,
                "growth of memory": int(judged and slope >= MOST_SLOPE_MB_PER_H), "slowing down": int(judged and last_ms > MOST_SLOWER * first_ms),
                "growth of files or threads": int(judged and (files[1] > files[0] or threads[1] > threads[0]))}
    found = (f"{driver.sent:,} frames in, {len(driver.latency_ms):,} out; memory {slope:+.2f} MB an hour after the first tenth"
             f"{'' if judged else ' (too short a run to judge)'}; p99 of first and last tenth {first_ms:.0f} and {last_ms:.0f} ms; open files "
             f"{files[0]} and {files[1]}, threads {threads[0]} and {threads[1]}")
    details = {"slope_mb_per_h": slope, "p99_first_ms": first_ms, "p99_last_ms": last_ms, "rss_mb": [round(v / 1e6, 1) for v in samples.rss_bytes],
               "median_ms": float(np.median(driver.latency_ms)) if driver.latency_ms else None}
    return Record("soak", "node", f"the node at {rate_hz:g} Hz on {clouds} clouds in turn, tokens subscribed", driver.sent, "frames", failures, found,
                  command, seconds, details)


def real_clouds() -> list[Any]:
    """The clouds of the recorded drive; simulated ones where there are no recordings."""
    scans = open_scans(RECORDING) if RECORDING.exists() else simulate_drive(5, 20, "hdl64e")
    return [cloud(np.column_stack([scan.points_m, np.zeros(len(scan.points_m)) if scan.intensity is None else scan.intensity]), 0, names="xyzi")
            for scan in scans]


def main() -> int:
    """Run it and write the row."""
    parser = argparse.ArgumentParser(description="the node at a steady rate for a long time")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate-hz", type=float, default=10.0)
    parser.add_argument("parameters", nargs="*", help="of the node, as NAME:=VALUE")
    parsed = parser.parse_args()
    clouds = real_clouds()
    print(f"soak: {parsed.seconds:g} s at {parsed.rate_hz:g} Hz, {len(clouds)} clouds of {clouds[0].width:,} points and more or less", flush=True)
    parameters = [part for assigned in parsed.parameters for part in ("-p", assigned)]
    command = f"make soak TIME={parsed.seconds:.0f}"
    records = [run(parsed.seconds, parsed.rate_hz, clouds, command, parameters), recordings.run(KILLS, min(300.0, parsed.seconds), command)]
    for record in records:
        write_record(record)
        print(f"{record.area}/{record.name}: {record.tried:,} {record.unit}; {dict(record.failures)}; {record.found}", flush=True)
    write_table()
    return 0 if all(record.passed for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())
