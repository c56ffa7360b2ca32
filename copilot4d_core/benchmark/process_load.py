# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a process costs while it is watched: processor time, and memory with its slope.

What goes in: a process id and calls of `sample`. What comes out: per cent of one core, MiB. Reads /proc, so Linux only.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

SLOPE_S = 20.0
_MIB = 2.0**20


class Load(NamedTuple):
    """Of one process between its first and its last sample."""

    cpu_percent: float
    """Processor time over wall time; 100 is one core. User and system, all threads."""
    rss_mib: float
    """Resident memory at the end."""
    rss_max_mib: float
    """Largest sample."""
    rss_slope_mib_per_min: float | None
    """Of a line through the samples; None where they span less than `SLOPE_S`, which says nothing about leaks."""


class ProcessLoad:
    """Samples of one process; call `sample` now and then."""

    def __init__(self, pid: int) -> None:
        """Take the first sample.

        Raises:
            OSError: there is no such process, or no /proc.
        """
        self._folder = Path("/proc") / str(pid)
        self._samples: list[tuple[float, float, float]] = []
        self.sample()

    def sample(self) -> None:
        """Note wall time, processor time and resident memory."""
        # The name in brackets may hold spaces; the fields behind it are numbers.
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        self._samples.append((time.monotonic(), cpu_s, _rss_mib(self._folder)))

    def load(self) -> Load:
        """What the samples say; takes another one."""
        self.sample()
        wall_s, cpu_s, rss_mib = np.array(self._samples).T
        spent_s = wall_s[-1] - wall_s[0]
        slope = float(np.polyfit(wall_s - wall_s[0], rss_mib, 1)[0]) * 60 if spent_s >= SLOPE_S else None
        return Load(100 * float(cpu_s[-1] - cpu_s[0]) / max(spent_s, 1e-9), float(rss_mib[-1]), float(rss_mib.max()), slope)


def current_rss_mib() -> float:
    """Resident memory of this process."""
    return _rss_mib(Path("/proc/self"))


def _rss_mib(folder: Path) -> float:
    return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


def peak_rss_mib() -> float:
    """Most memory that this process ever held, as the kernel counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: expected a line VmHWM, there is none")
