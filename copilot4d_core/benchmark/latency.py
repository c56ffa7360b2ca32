# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Frames through a function: as fast as they go, then at the fixed rate of a sensor.

What goes in: what processes frame number i. What comes out: times, and how many frames were missed.
Unusual: at the fixed rate a frame that comes while another is processed waits, and is missed when a newer one comes: the node's rule.
Its latency counts from the moment at which it was due, so a late start is part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Process = Callable[[int], Mapping[str, float]]
"""Processes a frame by its number; returns the milliseconds of its stages."""
Clock = Callable[[], float]


class Timed(NamedTuple):
    """Frames at a fixed rate."""

    sent: int
    done_s: list[float]
    """When each processed frame was finished, in seconds since the first was due."""
    end_to_end_ms: list[float]
    """From when a frame was due to when it was finished."""
    stage_ms: dict[str, list[float]]

    @property
    def missed(self) -> int:
        """Frames that were replaced by a newer one before their turn."""
        return self.sent - len(self.done_s)


def peak_hz(process: Process, frames: int, clock: Clock = time.perf_counter) -> float:
    """Frames a second when each begins as the one before ends."""
    start_s = clock()
    for number in range(frames):
        process(number)
    return frames / max(clock() - start_s, 1e-9)


def at_rate(process: Process, rate_hz: float, frames: int, clock: Clock = time.perf_counter, sleep: Callable[[float], None] = time.sleep,
            between: Callable[[], None] = lambda: None) -> Timed:
    """Process the newest of the frames that are due, until the last.

    Args:
        frames: how many become due.
        between: called after every processed frame, outside the times.
    """
    result = Timed(frames, [], [], {})
    start_s, number = clock(), 0
    while number < frames:
        due_s = start_s + number / rate_hz
        wait_s = due_s - clock()
        if wait_s > 0:
            sleep(wait_s)
        stages = process(number)
        done_s = clock()
        result.done_s.append(done_s - start_s)
        result.end_to_end_ms.append((done_s - due_s) * 1e3)
        for stage, spent_ms in stages.items():
            result.stage_ms.setdefault(stage, []).append(spent_ms)
        between()
        newest = min(int((clock() - start_s) * rate_hz), frames - 1)
        number = max(number + 1, newest)
    return result


def jitter_ms(done_s: list[float], rate_hz: float) -> dict[str, float]:
    """How far the times from one result to the next are from the period: standard deviation and largest difference, milliseconds."""
    if len(done_s) < 2:
        return {"std": 0.0, "max": 0.0}
    difference_ms = (np.diff(done_s) - 1.0 / rate_hz) * 1e3
    return {"std": float(np.sqrt(np.mean(difference_ms**2))), "max": float(np.abs(difference_ms).max())}


def percentiles(values_ms: list[float], *which: int) -> dict[str, float]:
    """Percentiles by the names `p50`, ..., and the largest value as `max`."""
    if not values_ms:
        return {}
    return {**{f"p{rank}": float(np.percentile(values_ms, rank)) for rank in which}, "max": float(np.max(values_ms))}
