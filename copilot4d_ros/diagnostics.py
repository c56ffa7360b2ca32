# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What both nodes say on /diagnostics: counts, rates and times as keys and values, and what of them is worth a warning."""

from __future__ import annotations

import enum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from copilot4d_ros.frame_statistics import PERCENTILES, DropReason, Snapshot
from copilot4d_ros.health import Finding, Kind
from copilot4d_ros.parameters import DiagnosticsParameters

LOSS_ADVICE = ("the middleware loses messages; start the publisher with FASTDDS_DEFAULT_PROFILES_FILE (Jazzy and earlier: "
               "FASTRTPS_DEFAULT_PROFILES_FILE) set to config/fastdds_large_data.xml of this package")
_BAD = (DropReason.INVALID, DropReason.EMPTY, DropReason.OUTSIDE, DropReason.FAILED)
"""Drops that mean something is wrong; being replaced by a newer scan is how the node keeps up."""
OTHER_CLOCK_MS = 10_000.0
"""A stamp that far from the node's clock is of another clock, and tells no latency."""


class NodeState(str, enum.Enum):
    """What the node is doing."""

    UNCONFIGURED = "unconfigured"
    LOADING = "loading"
    INACTIVE = "inactive"
    RUNNING = "running"


STATE_TEXTS = {NodeState.UNCONFIGURED: "unconfigured; a lifecycle manager starts it", NodeState.LOADING: "loading the model",
               NodeState.INACTIVE: "inactive; a lifecycle manager starts it", NodeState.RUNNING: "running"}


def diagnostics_message(name: str, stamp: Any, level: bytes, text: str, model_id: str, values: dict[str, str]) -> Any:
    """One diagnostic_msgs/DiagnosticArray with one status.

    Args:
        stamp: builtin_interfaces/Time of the report.
        model_id: empty while there is no model.
    """
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    message = DiagnosticArray(status=[DiagnosticStatus(level=level, name=name, message=text, hardware_id=model_id, values=pairs)])
    message.header.stamp = stamp
    return message


def frame_values(now: Snapshot, parameters: DiagnosticsParameters) -> dict[str, str]:
    """The reported keys; counts are totals since the start, times milliseconds (last scan, and of the last 100 the median of each stage and the
    50th, 95th and 99th percentile of the total)."""
    values = {"received": str(now.received), "processed": str(now.processed), "input_rate_hz": f"{now.input_rate_hz:.3f}",
              "rate_hz": f"{now.rate_hz:.3f}", "lost_in_transport": str(now.lost_in_transport), "time_jumps": str(now.time_jumps),
              "clock_jumps": str(now.clock_jumps), "stamps_odd": str(now.stamps_odd), "input_age_ms": _age(now.age_ms)}
    values |= {f"dropped_{reason.value}": str(count) for reason, count in now.dropped.items()}
    if now.last is not None:
        values |= {"last_stamp_ns": str(now.last.stamp_ns)} | {f"{stage}_ms": f"{ms:.3f}" for stage, ms in now.last.stage_ms.items()}
        values |= {f"{stage}_median_ms": f"{times[0]:.3f}" for stage, times in now.percentiles_ms.items()}
        values |= {f"total_p{share}_ms": f"{ms:.3f}" for share, ms in zip(PERCENTILES, now.percentiles_ms["total"], strict=True)}
    return values | {"budget_ms": f"{parameters.budget_ms:g}"}


def _age(age_ms: float | None) -> str:
    if age_ms is None:
        return ""
    if abs(age_ms) < OTHER_CLOCK_MS:
        return f"{age_ms:.3f}"
    return f"{age_ms:.3f} (stamps of another clock: with a bag use use_sim_time:=true and play it with --clock)"


def frame_findings(now: Snapshot, before: Snapshot | None, parameters: DiagnosticsParameters, what: str) -> list[Finding]:
    """What is wrong with the scans or tokens of a running node.

    Args:
        before: the counts of the previous report, or None; what grew since then is an event.
        what: what arrives, such as "scans".
    """
    findings = []
    grown = {reason.value: now.dropped[reason] - (before.dropped[reason] if before else 0) for reason in DropReason}
    bad = {reason.value: grown[reason.value] for reason in _BAD if grown[reason.value]}
    if bad:
        findings.append(Finding("dropped", DiagnosticStatus.WARN, f"{what} dropped: " + ", ".join(f"{count} {name}" for name, count in bad.items())))
    if now.failing is not None:
        findings.append(Finding("failing", DiagnosticStatus.ERROR, f"the last of the {what} was dropped as {now.failing.value}; see last_refusal and "
                                "the log", Kind.CONDITION))
    if now.lost_in_transport > (before.lost_in_transport if before else 0):
        findings.append(Finding("lost", DiagnosticStatus.WARN, LOSS_ADVICE))
    if before and now.time_jumps > before.time_jumps:
        findings.append(Finding("jump", DiagnosticStatus.WARN, "stamps went back by more than a second: a bag that starts again, or two publishers"))
    elif before and now.stamps_odd > before.stamps_odd:
        findings.append(Finding("stamps", DiagnosticStatus.WARN, "stamps are zero, repeated or out of order"))
    return findings + _measures(now, parameters, what)


def _measures(now: Snapshot, parameters: DiagnosticsParameters, what: str) -> list[Finding]:
    findings = []
    p95_ms = now.percentiles_ms["total"][1] if "total" in now.percentiles_ms else 0.0
    if p95_ms > parameters.budget_ms:
        findings.append(Finding("slow", DiagnosticStatus.WARN, f"5 % of the {what} take longer than {p95_ms:.0f} ms, budget_ms is "
                                f"{parameters.budget_ms:g}; when they come faster, the newest wins", Kind.MEASURE))
    if now.received > 1 and now.input_rate_hz < parameters.min_rate_hz:
        findings.append(Finding("rate", DiagnosticStatus.WARN, f"{what} arrive at {now.input_rate_hz:.2f} Hz, min_rate_hz is "
                                f"{parameters.min_rate_hz:g}", Kind.MEASURE))
    return findings
