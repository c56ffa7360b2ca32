# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Faults of who publishes to the node and of who listens to it, each as a process: killed, too fast, too large, stopped."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from faults.outcome import Budget, Outcome, expect
from faults.running_node import USUAL, RunningNode, check_tokens, resident_mb

HERE = Path(__file__).parent
DRIVER_POINTS = 2000
BURST_POINTS, BURST_HZ, BURST_SCANS = 20_000, 100.0, 100
LARGE = np.random.default_rng(6).uniform([-9.9, -9.9, -2.0], [9.9, 9.9, 2.0], (1_200_000, 3)).astype(np.float32)
"""Ten times a scan of 64 beams; over `max_points`, so that it is thinned, but every cell still holds more than 63."""
MOST_GROWTH_MB = 60.0
"""Resident memory after the first half of the cases and after the last: the clouds alone would be 14 MB each."""


@contextmanager
def driver(node: RunningNode, points: int, count: int, rate_hz: float) -> Iterator[subprocess.Popen[bytes]]:
    """A publisher process, best effort as drivers are; killed at the end."""
    command = [sys.executable, str(HERE.parent / "cloud_publisher.py"), f"{node.client.target}/input/points", str(points), str(count), str(rate_hz)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def driver_points(points: int) -> np.ndarray:
    """What `cloud_publisher.py` sends."""
    return np.random.default_rng(1).uniform(-9, 9, (points, 4)).astype(np.float32)[:, :3]


def of_the_driver(node: RunningNode) -> dict[int, object]:
    """Tokens of the driver's scans, whose stamps count milliseconds from 1; those of the client are of this century."""
    return {stamp: message for stamp, message in node.client.tokens.items() if stamp < 10**15}


def all_accounted_for(node: RunningNode) -> None:
    """Every scan that the node received was processed or counted as dropped."""
    count = node.client.count
    ends = ("processed", *(f"dropped_{reason}" for reason in ("replaced", "invalid", "empty", "outside", "failed")))
    node.client.wait(lambda: count("received") == sum(map(count, ends)), "every scan accounted for")


def publisher_dies(node: RunningNode, budget: Budget) -> Outcome:
    """A driver is killed with SIGKILL at a random moment; the node says that its input is silent, and the next driver is heard."""
    outcome, moments = Outcome("publisher killed with SIGKILL at a random moment, and another started"), random.Random(1)
    points_m, client = driver_points(DRIVER_POINTS), node.client
    for _ in budget:
        client.tokens.clear()
        with outcome.case(node.is_alive), driver(node, DRIVER_POINTS, 10_000, 20.0) as process:
            client.wait(lambda: of_the_driver(node), "tokens of a new driver")
            rest_s = time.monotonic() + moments.uniform(0.0, 1.0)
            while time.monotonic() < rest_s:
                rclpy.spin_once(client, timeout_sec=0.05)
            process.kill()
            client.wait(lambda: "no scans for" in client.text or client.level == b"\x03", "silence in the diagnostics")
            for message in of_the_driver(node).values():
                check_tokens(message, points_m)
            all_accounted_for(node)
    return outcome


def rate_burst(node: RunningNode, budget: Budget) -> Outcome:
    """100 Hz where 10 Hz is usual: the newest scans win, all are counted, nothing queues up."""
    outcome, client = Outcome(f"{BURST_SCANS} scans at {BURST_HZ:.0f} Hz, ten times the usual rate"), node.client
    points_m = driver_points(BURST_POINTS)
    for _ in budget:
        client.tokens.clear()
        with outcome.case(node.is_alive), driver(node, BURST_POINTS, BURST_SCANS, BURST_HZ):
            client.wait(lambda: any(stamp >= (BURST_SCANS - 10) * 10**6 for stamp in of_the_driver(node)), "tokens of the last scans")
            all_accounted_for(node)
            for message in of_the_driver(node).values():
                check_tokens(message, points_m)
            node.answers_right()
    return outcome


def large_cloud(node: RunningNode, budget: Budget) -> Outcome:
    """A cloud of ten times the usual size among usual ones: both come out right, and the memory is given back."""
    outcome = Outcome(f"cloud of {len(LARGE):,} points among usual ones")
    resident: list[float] = []
    for _ in budget:
        with outcome.case(node.is_alive):
            node.answers_right(LARGE)
            node.answers_right()
            resident.append(resident_mb(node.process.pid))
    with outcome.case(node.is_alive, counts=0):
        growth_mb = resident[-1] - resident[len(resident) // 2]
        outcome.figures["growth_mb"] = round(growth_mb, 1)
        expect(growth_mb < MOST_GROWTH_MB, f"resident memory grew by {growth_mb:.0f} MB")
    return outcome


def subscriber_stops(node: RunningNode, budget: Budget, scans: int = 20) -> Outcome:
    """A reliable subscriber is stopped (SIGSTOP): everybody else is served on, and it hears the newest when it goes on."""
    outcome = Outcome(f"reliable subscriber to tokens, depth and reconstruction stopped with SIGSTOP for {scans} scans")
    command = [sys.executable, str(HERE / "stalled_subscriber.py"), node.client.target]
    subscriber = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert subscriber.stdout is not None
    try:
        with outcome.case(node.is_alive, counts=0):
            node.client.wait(lambda: node.client.count_subscribers(f"{node.client.target}/reconstruction") == 1, "the subscriber")
            node.client.send_until(lambda: node.client.diagnostics.get("render_ms"), "its renderings")
        for _ in budget:
            with outcome.case(node.is_alive):
                subscriber.send_signal(signal.SIGSTOP)
                for _ in range(scans):
                    node.answers_right()
                subscriber.send_signal(signal.SIGCONT)
                stamp = node.client.send(USUAL)
                node.client.wait(lambda stamp=stamp: stamp in node.client.tokens, "tokens")  # type: ignore[misc]
                while int(subscriber.stdout.readline()) != stamp:
                    pass
    finally:
        subscriber.kill()
        subscriber.communicate()
    return outcome
