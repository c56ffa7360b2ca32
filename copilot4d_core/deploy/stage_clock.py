# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Milliseconds per stage of the last call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Wall time of named stages; a stage keeps its last value until it runs again."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    @property
    def ms(self) -> dict[str, float]:
        """Milliseconds by stage, a copy."""
        return dict(self._ms)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        self.put(stage, (time.perf_counter() - start) * 1e3)

    def put(self, stage: str, elapsed_ms: float) -> None:
        """Note a time that was measured elsewhere, such as between two events of a GPU."""
        self._ms[stage] = elapsed_ms
