"""The node's entry on /diagnostics: one status whose key/values are the counts, the rate and the time of each stage."""

from __future__ import annotations

import enum
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from copilot4d_ros.frame_statistics import DropReason, Snapshot

LOSS_ADVICE = ("the middleware loses clouds; start the publisher with FASTDDS_DEFAULT_PROFILES_FILE (Jazzy and earlier: "
               "FASTRTPS_DEFAULT_PROFILES_FILE) set to config/fastdds_large_data.xml of this package")

_BAD = (DropReason.INVALID, DropReason.EMPTY, DropReason.OUTSIDE, DropReason.FAILED)
"""Drops that mean something is wrong; being replaced by a newer scan is how the node keeps up."""


class NodeState(str, enum.Enum):
    """What the node is doing."""

    UNCONFIGURED = "unconfigured"
    LOADING = "loading"
    INACTIVE = "inactive"
    RUNNING = "running"


def diagnostics_message(node_name: str, stamp: Any, state: NodeState, model_id: str | None, now: Snapshot, before: Snapshot | None) -> Any:
    """One diagnostic_msgs/DiagnosticArray.

    Args:
        node_name: full name of the node.
        stamp: builtin_interfaces/Time of the report.
        model_id: None while there is no model.
        now: the counts to report.
        before: the counts of the previous report, or None; what grew since then sets the level.
    """
    level, text = _judged(state, now, before)
    values = [KeyValue(key=key, value=value) for key, value in key_values(state, model_id, now).items()]
    status = DiagnosticStatus(level=level, name=f"{node_name}: scans", message=text, hardware_id=model_id or "", values=values)
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def key_values(state: NodeState, model_id: str | None, now: Snapshot) -> dict[str, str]:
    """The reported keys; counts are totals since the start, times milliseconds (last scan, and median of the last 100)."""
    values = {"state": state.value, "model_id": model_id or "", "received": str(now.received),
              "processed": str(now.processed), "rate_hz": f"{now.rate_hz:.3f}", "lost_in_transport": str(now.lost_in_transport)}
    values |= {f"dropped_{reason.value}": str(count) for reason, count in now.dropped.items()}
    if now.last is not None:
        values |= {"last_stamp_ns": str(now.last.stamp_ns), "points": str(now.last.points),
                   "points_in_region": str(now.last.points_in_region), "points_dropped": str(now.last.points_dropped)}
        values |= {f"{stage}_ms": f"{ms:.3f}" for stage, ms in now.last.stage_ms.items()}
        values |= {f"{stage}_median_ms": f"{ms:.3f}" for stage, ms in now.median_ms.items()}
    return values


def _judged(state: NodeState, now: Snapshot, before: Snapshot | None) -> tuple[bytes, str]:
    if state is not NodeState.RUNNING:
        return DiagnosticStatus.OK, {NodeState.LOADING: "loading the model"}.get(state, f"{state.value}; a lifecycle manager starts it")
    if now.received == 0:
        return DiagnosticStatus.WARN, "no cloud has arrived yet; check the remapping of ~/input/points and the publisher"
    bad = {reason.value: now.dropped[reason] - (before.dropped[reason] if before else 0) for reason in _BAD}
    if any(bad.values()):
        return DiagnosticStatus.WARN, "scans dropped: " + ", ".join(f"{count} {name}" for name, count in bad.items() if count)
    if now.lost_in_transport > (before.lost_in_transport if before else 0):
        return DiagnosticStatus.WARN, LOSS_ADVICE
    return DiagnosticStatus.OK, "running"
