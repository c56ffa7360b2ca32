# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Counts, findings and their hysteresis, without a node: the expected levels are worked out by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from builtin_interfaces.msg import Time

from copilot4d_ros import frame_statistics
from copilot4d_ros.diagnostics import diagnostics_message, frame_findings, frame_values
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, FrameStatistics
from copilot4d_ros.health import Finding, Health, Kind
from copilot4d_ros.parameters import DiagnosticsParameters
from copilot4d_ros.reporter import silence

OK, WARN, ERROR, STALE = (bytes([level]) for level in range(4))
DEFAULTS = DiagnosticsParameters()
SECOND_NS = 1_000_000_000


def texts(findings: list[Finding]) -> dict[str, tuple[bytes, str]]:
    return {finding.name: (finding.level, finding.text) for finding in findings}


def test_an_event_counts_at_once_and_lasts_three_reports() -> None:
    health = Health()
    event = Finding("lost", WARN, "lost one")
    assert health.judge([]) == (OK, "")
    levels = [health.judge([event])[0], *(health.judge([])[0] for _ in range(4))]
    assert levels == [WARN, WARN, WARN, OK, OK]


def test_a_measure_needs_three_reports_in_a_row_both_ways() -> None:
    health = Health()
    slow = Finding("slow", WARN, "slow", Kind.MEASURE)
    bad = [health.judge(found)[0] for found in ([slow], [slow], [], [slow], [slow], [slow])]
    assert bad == [OK, OK, OK, OK, OK, WARN], "two, a good one, three"
    good = [health.judge(found)[0] for found in ([], [], [slow], [], [], [])]
    assert good == [WARN, WARN, WARN, WARN, WARN, OK]


def test_a_condition_holds_as_long_as_it_is_found_and_the_worst_comes_first() -> None:
    health = Health()
    silent, lost, broken = Finding("silent", STALE, "silent", Kind.CONDITION), Finding("lost", WARN, "lost"), Finding("dropped", ERROR, "dropped")
    assert health.judge([lost, silent]) == (STALE, "silent; lost")
    assert health.judge([broken]) == (ERROR, "dropped; lost")
    health.start_over()
    assert health.judge([]) == (OK, "")


def test_findings_are_what_grew_since_the_last_report() -> None:
    statistics = FrameStatistics()
    statistics.received(SECOND_NS, SECOND_NS)
    statistics.dropped(DropReason.EMPTY)
    first = statistics.snapshot()
    assert texts(frame_findings(first, None, DEFAULTS, "scans")) == {"dropped": (WARN, "scans dropped: 1 empty")}
    assert frame_findings(first, first, DEFAULTS, "scans") == []
    statistics.dropped(DropReason.INVALID)
    useless = statistics.snapshot()
    failing = (ERROR, "the last of the scans was dropped as invalid; see last_refusal and the log")
    assert texts(frame_findings(useless, first, DEFAULTS, "scans")) == {"dropped": (WARN, "scans dropped: 1 invalid"), "failing": failing}
    statistics.dropped(DropReason.REPLACED)
    assert texts(frame_findings(statistics.snapshot(), useless, DEFAULTS, "scans")) == {"failing": failing}, "until one is good again"
    statistics.processed(FrameRecord(5, 10, 8, 2, 0, {"total": 1.0}))
    assert frame_findings(statistics.snapshot(), useless, DEFAULTS, "scans") == []
    before = statistics.snapshot()
    statistics.dropped(DropReason.REPLACED)
    assert frame_findings(statistics.snapshot(), before, DEFAULTS, "scans") == [], "a newer scan is how the node keeps up"
    statistics.lost_in_transport(3)
    (lost,) = frame_findings(statistics.snapshot(), before, DEFAULTS, "scans")
    assert lost.level == WARN and "FASTDDS_DEFAULT_PROFILES_FILE" in lost.text


def test_stamps_that_go_back_are_a_jump_or_odd() -> None:
    statistics = FrameStatistics()
    for stamp_s in (10.0, 10.1, 10.1, 10.05, 9.05, 7.9, 0.0):
        statistics.received(round(stamp_s * SECOND_NS), 11 * SECOND_NS)
    now = statistics.snapshot()
    # Repeated, half a step back, exactly a second back; then by more than a second, twice.
    assert (now.stamps_odd, now.time_jumps) == (3, 2)
    assert now.age_ms == 11_000.0
    assert "another clock" in frame_values(now, DEFAULTS)["input_age_ms"], "more than ten seconds"
    before = FrameStatistics().snapshot()
    assert set(texts(frame_findings(now, before, DEFAULTS, "scans"))) == {"jump"}
    statistics.clock_jumped_back()
    assert (statistics.snapshot().clock_jumps, statistics.snapshot().input_rate_hz) == (1, 0.0)


def test_rates_do_not_go_over_a_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(frame_statistics.time, "monotonic", lambda: now_s[0])
    statistics = FrameStatistics()

    def receive(stamp_s: int, at_s: float) -> float:
        now_s[0] = at_s
        statistics.received(stamp_s * SECOND_NS, 0)
        return statistics.snapshot().input_rate_hz

    assert [receive(50, 0.0), receive(51, 0.1), receive(52, 0.2)] == pytest.approx([0.0, 10.0, 10.0])
    assert [receive(3, 100.0), receive(4, 100.5)] == pytest.approx([0.0, 2.0]), "the pause before the bag started again is no period"


def test_percentiles_and_what_is_slow() -> None:
    statistics = FrameStatistics()
    for total in range(1, 102):  # the window is 100 frames: 2 to 101
        statistics.processed(FrameRecord(total, 10, 8, 2, 0, {"encode": total / 2, "total": float(total)}))
    now = statistics.snapshot()
    values = frame_values(now, DEFAULTS)
    # Linear percentiles of 2..101: 51.5, 2 + 0.95 * 99, 2 + 0.99 * 99.
    assert [values[f"total_p{p}_ms"] for p in (50, 95, 99)] == ["51.500", "96.050", "100.010"]
    assert (values["total_ms"], values["encode_median_ms"], values["budget_ms"]) == ("101.000", "25.750", "100")
    assert frame_findings(now, now, DEFAULTS, "scans") == []
    (slow,) = frame_findings(now, now, DiagnosticsParameters(budget_ms=96.0), "scans")
    assert (slow.name, slow.kind) == ("slow", Kind.MEASURE) and "96 ms" in slow.text


def test_silence_names_the_topic_and_what_is_there_instead() -> None:
    statistics = FrameStatistics()
    (waiting,) = silence(statistics.snapshot(), "scans", "/a", 0, "; other PointCloud2 topics: /b", 5.0)
    assert (waiting.level, waiting.text) == (WARN, "no scans have arrived yet; 0 publishers on /a; other PointCloud2 topics: /b")
    statistics.received(1, 1)
    now = statistics.snapshot()
    assert silence(now, "scans", "/a", 1, "", 5.0) == []
    (stale,) = silence(now._replace(idle_s=7.2), "scans", "/a", 1, "", 5.0)
    assert (stale.level, stale.text) == (STALE, "no scans for 7 s; 1 publisher on /a")


def test_the_message_is_one_status() -> None:
    message = diagnostics_message("/n: scans", Time(sec=9), WARN, "slow", "m-1", {"received": "2"})
    assert message.header.stamp == Time(sec=9)
    (status,) = message.status
    assert (status.level, status.name, status.message, status.hardware_id) == (WARN, "/n: scans", "slow", "m-1")
    assert [(pair.key, pair.value) for pair in status.values] == [("received", "2")]
