# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Findings of a node and the level that they add up to, with hysteresis, so that a level does not flicker.

What goes in: what each report finds. What comes out: one level and one text for /diagnostics.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus

REPORTS = 3
"""In a row, before a measure raises the level and before anything lowers it."""
_SEVERITY = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.STALE, DiagnosticStatus.ERROR)


class Kind(enum.Enum):
    """How a finding comes and goes."""

    CONDITION = "condition"
    """Holds while it is found."""
    EVENT = "event"
    """Something that happened since the last report: counts at once, and is shown for some reports more."""
    MEASURE = "measure"
    """A rate or a time: counts when it was bad in several reports in a row, until it was good in as many."""


class Finding(NamedTuple):
    """Something that is not as it should be."""

    name: str
    """The same in every report that finds it."""
    level: bytes
    text: str
    """What is wrong and what to do."""
    kind: Kind = Kind.EVENT


@dataclass
class _Record:
    finding: Finding
    bad: int = 0
    good: int = 0
    is_raised: bool = False


class Health:
    """Remembers findings from report to report."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def judge(self, findings: Sequence[Finding]) -> tuple[bytes, str]:
        """Level and text after one more report; OK and an empty text when there is nothing to say."""
        for finding in findings:
            record = self._records.setdefault(finding.name, _Record(finding))
            record.finding, record.bad, record.good = finding, record.bad + 1, 0
            record.is_raised |= finding.kind is not Kind.MEASURE or record.bad >= REPORTS
        for name in self._records.keys() - {finding.name for finding in findings}:
            self._records[name].bad, self._records[name].good = 0, self._records[name].good + 1
        self._records = {name: record for name, record in self._records.items() if record.good < _lasts(record.finding)}
        raised = sorted((record.finding for record in self._records.values() if record.is_raised),
                        key=lambda finding: -_SEVERITY.index(finding.level))
        return (raised[0].level, "; ".join(finding.text for finding in raised)) if raised else (DiagnosticStatus.OK, "")

    def start_over(self) -> None:
        """Forget everything: another state has begun."""
        self._records.clear()


def _lasts(finding: Finding) -> int:
    return 1 if finding.kind is Kind.CONDITION else REPORTS
