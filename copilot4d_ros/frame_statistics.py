# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What became of every scan: received, processed, or dropped for a named reason, and the time of each stage."""

from __future__ import annotations

import enum
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_WINDOW = 100
"""Frames over which percentiles and rates are taken."""
PERCENTILES = (50, 95, 99)


class DropReason(str, enum.Enum):
    """Why a scan gave no tokens."""

    REPLACED = "replaced"
    """A newer scan came before the worker was free."""
    INVALID = "invalid"
    """Its layout cannot be read."""
    EMPTY = "empty"
    """It holds no finite point."""
    OUTSIDE = "outside"
    """None of its points lies in the region of the model."""
    FAILED = "failed"
    """The model failed on it."""


_FATAL = (DropReason.INVALID, DropReason.FAILED)


class FrameRecord(NamedTuple):
    """One processed scan."""

    stamp_ns: int
    points: int
    points_in_region: int
    points_dropped: int
    """Not finite, (0, 0, 0), or nearer than `min_range_m`."""
    points_thinned: int
    """Left out because the cloud held more than `max_points`."""
    stage_ms: Mapping[str, float]


class Snapshot(NamedTuple):
    """The state of the statistics at one moment."""

    received: int
    processed: int
    dropped: Mapping[DropReason, int]
    failing: DropReason | None
    """Why the last scan gave no tokens, if that makes the node useless until it is fixed; None after a good one."""
    lost_in_transport: int
    time_jumps: int
    """Stamps more than a second before the last one: bag loops."""
    clock_jumps: int
    """Jumps back of the node's clock, which a loop of a bag with a clock also makes."""
    stamps_odd: int
    """Stamps of zero, repeated ones, and those up to a second before the last one."""
    input_rate_hz: float
    """Received scans per second over the window; 0 before the second one."""
    rate_hz: float
    """Processed scans per second over the window; 0 before the second one."""
    age_ms: float | None
    """From the stamp of the last scan to its receipt, by the node's clock; None before the first."""
    idle_s: float | None
    """Since the last scan was received; None before the first."""
    last: FrameRecord | None
    percentiles_ms: Mapping[str, tuple[float, ...]]
    """By stage, at `PERCENTILES`."""


class FrameStatistics:
    """Counts scans; every method may be called from any thread."""

    _JUMP_NS = 1_000_000_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = self._processed = self._lost = self._time_jumps = self._clock_jumps = self._stamps_odd = 0
        self._dropped: Counter[DropReason] = Counter()
        self._failing: DropReason | None = None
        self._stamp_ns: int | None = None
        self._age_ms: float | None = None
        self._received_last_s: float | None = None
        self._records: deque[FrameRecord] = deque(maxlen=_WINDOW)
        self._received_s: deque[float] = deque(maxlen=_WINDOW)
        self._finished_s: deque[float] = deque(maxlen=_WINDOW)

    def received(self, stamp_ns: int, now_ns: int) -> None:
        """A scan arrived.

        Args:
            stamp_ns: of its header.
            now_ns: the node's clock.
        """
        with self._lock:
            self._received += 1
            before_ns, self._stamp_ns, self._age_ms = self._stamp_ns, stamp_ns, (now_ns - stamp_ns) / 1e6
            if before_ns is not None and stamp_ns < before_ns - self._JUMP_NS:
                self._time_jumps += 1
                self._start_over()
            elif stamp_ns == 0 or (before_ns is not None and stamp_ns <= before_ns):
                self._stamps_odd += 1
            self._received_last_s = time.monotonic()
            self._received_s.append(self._received_last_s)

    def clock_jumped_back(self) -> None:
        """The node's clock went back: a bag starts again."""
        with self._lock:
            self._clock_jumps += 1
            self._start_over()

    def _start_over(self) -> None:
        """Rates do not go over a jump."""
        self._received_s.clear()
        self._finished_s.clear()

    def dropped(self, reason: DropReason) -> None:
        """A scan gave no tokens."""
        with self._lock:
            self._dropped[reason] += 1
            if reason in _FATAL:
                self._failing = reason

    def lost_in_transport(self, more: int) -> None:
        """The middleware says that it has lost scans."""
        with self._lock:
            self._lost += more

    def processed(self, record: FrameRecord) -> None:
        """The tokens of a scan were published."""
        with self._lock:
            self._processed += 1
            self._failing = None
            self._records.append(record)
            self._finished_s.append(time.monotonic())

    def snapshot(self) -> Snapshot:
        """All counts at one moment."""
        with self._lock:
            stages = sorted({stage for record in self._records for stage in record.stage_ms})
            times = {stage: [r.stage_ms[stage] for r in self._records if stage in r.stage_ms] for stage in stages}
            percentiles = {stage: tuple(np.percentile(values, PERCENTILES).tolist()) for stage, values in times.items()}
            idle_s = None if self._received_last_s is None else time.monotonic() - self._received_last_s
            return Snapshot(self._received, self._processed, {r: self._dropped[r] for r in DropReason}, self._failing, self._lost, self._time_jumps,
                            self._clock_jumps, self._stamps_odd, _rate_hz(self._received_s), _rate_hz(self._finished_s), self._age_ms, idle_s,
                            self._records[-1] if self._records else None, percentiles)


def _rate_hz(times_s: deque[float]) -> float:
    return (len(times_s) - 1) / max(times_s[-1] - times_s[0], 1e-9) if len(times_s) > 1 else 0.0
