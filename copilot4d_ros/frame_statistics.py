"""What became of every scan: received, processed, or dropped for a named reason, and the time of each stage."""

from __future__ import annotations

import enum
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

_WINDOW = 100
"""Frames over which medians and the rate are taken."""


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


class FrameRecord(NamedTuple):
    """One processed scan."""

    stamp_ns: int
    points: int
    points_in_region: int
    points_dropped: int
    stage_ms: Mapping[str, float]


class Snapshot(NamedTuple):
    """The state of the statistics at one moment."""

    received: int
    processed: int
    dropped: Mapping[DropReason, int]
    lost_in_transport: int
    rate_hz: float
    """Processed scans per second over the window; 0 before the second one."""
    last: FrameRecord | None
    median_ms: Mapping[str, float]


class FrameStatistics:
    """Counts scans; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received = 0
        self._processed = 0
        self._lost = 0
        self._dropped: Counter[DropReason] = Counter()
        self._records: deque[FrameRecord] = deque(maxlen=_WINDOW)
        self._finished_s: deque[float] = deque(maxlen=_WINDOW)

    def received(self) -> None:
        """A scan arrived."""
        with self._lock:
            self._received += 1

    def dropped(self, reason: DropReason) -> None:
        """A scan gave no tokens."""
        with self._lock:
            self._dropped[reason] += 1

    def lost_in_transport(self, total: int) -> None:
        """The middleware says how many scans it has lost so far."""
        with self._lock:
            self._lost = total

    def processed(self, record: FrameRecord) -> None:
        """The tokens of a scan were published."""
        with self._lock:
            self._processed += 1
            self._records.append(record)
            self._finished_s.append(time.monotonic())

    def snapshot(self) -> Snapshot:
        """All counts at one moment."""
        with self._lock:
            stages = {stage for record in self._records for stage in record.stage_ms}
            medians = {s: statistics.median(r.stage_ms[s] for r in self._records if s in r.stage_ms) for s in sorted(stages)}
            return Snapshot(self._received, self._processed, {r: self._dropped[r] for r in DropReason}, self._lost,
                            self._rate_hz(), self._records[-1] if self._records else None, medians)

    def _rate_hz(self) -> float:
        if len(self._finished_s) < 2:
            return 0.0
        return (len(self._finished_s) - 1) / max(self._finished_s[-1] - self._finished_s[0], 1e-9)
