# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Short versions of `make fuzz` and `make soak`: a few hundred messages and files, some seconds of soak, one killed recorder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import cloud
from tiny_model import write_tiny_weights
from trust import fuzz_files, fuzz_messages, fuzz_node, recordings, soak
from trust.cloud_oracle import read
from trust.clouds import points_cloud
from trust.intake import Intake, WrongError
from trust.pool import answers
from trust.record import Record


def check(record: Record, least: int) -> None:
    assert record.passed, f"{dict(record.failures)} {record.details}"
    assert record.tried >= least, record.found


def test_generated_messages_end_in_the_right_tokens_or_in_a_refusal_by_name() -> None:
    record = fuzz_messages.run(60.0, 250, "", large=(1_000_000,))
    check(record, 250)
    told = record.details["told"]
    assert min(told[word] for word in ("tokens", "invalid", "empty", "outside")) >= 10, told


def test_generated_messages_to_the_live_node_leave_it_as_it_was() -> None:
    check(fuzz_node.run(4.0, 50, "", large=()), 1)


def test_damaged_files_are_refused_by_name_or_give_the_same_content() -> None:
    record = fuzz_files.run(60.0, 150, "")
    check(record, 150)
    assert record.details["told"]["refused"] > 100


def test_some_seconds_of_soak_lose_nothing(tmp_path: Path) -> None:
    points = np.random.default_rng(2).uniform([-9, -9, -2, 0], [9, 9, 2, 1], (5000, 4))
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    check(soak.run(3.0, 5.0, [cloud(points, 0, names="xyzi")], "", ["-p", f"weights:={weights}", "-p", "input_qos:=reliable"]), 15)


def test_a_killed_recorder_loses_less_than_a_second() -> None:
    check(recordings.run(1, 60.0, ""), 1)


def test_the_slope_is_that_of_a_line_whatever_single_jumps_do() -> None:
    times_s = [float(second) for second in range(3600)]
    sizes = [100_000_000 + second * 1000 for second in range(3600)]  # 1 kB a second: 3.6 MB an hour
    assert soak.slope_mb_per_h(times_s, sizes) == pytest.approx(3.6)
    sizes[1800] += 500_000_000
    assert soak.slope_mb_per_h(times_s, sizes) == pytest.approx(3.6)
    assert soak.slope_mb_per_h([], []) == 0.0


@pytest.mark.parametrize(("do", "expected"), [("answer", ""), ("crash", "crash (exit code -9)"), ("hang", "hang (exit code None)")])
def test_workers_that_crash_or_hang_are_told_and_replaced(do: str, expected: str) -> None:
    told = [answer.failure for answer in answers("trust.pool_example", [{"do": do}, {"do": "answer"}], 2.0, workers=1)]
    assert told[0].startswith(expected) and bool(told[0]) == bool(expected)
    assert told[1] == ""


@pytest.mark.parametrize("spoil", ["points", "count", "order", "refusal"])
def test_the_check_of_messages_sees_what_is_wrong(monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    """A check that nothing fails proves nothing: each part of it is made to fail."""
    import copilot4d_core.data.point_cloud2 as reader

    intake, message = Intake(), points_cloud(np.random.default_rng(1).uniform(-2, 2, (50, 3)).astype("<f4"))
    assert intake.take(message) == "tokens" and read(message).dropped == 0
    encode_cloud = intake._runner.encode_cloud
    checks: dict[str, Callable[[], object]] = {
        "points": lambda: monkeypatch.setattr(reader, "kept_points", lambda points: points[:, 0] > 0),
        "count": lambda: monkeypatch.setattr(intake._runner, "encode_cloud", lambda *given: encode_cloud(*given)._replace(in_region=49)),
        "order": lambda: monkeypatch.setattr(intake._runner, "encode_cloud", lambda points, near_m: encode_cloud(points[:25], near_m)),
        "refusal": lambda: setattr(message, "point_step", 3)}
    checks[spoil]()
    if spoil == "refusal":
        monkeypatch.setattr("trust.intake.read", lambda message: read(message)._replace(problems=["row_step of at least"]))
    with pytest.raises(WrongError):
        intake.take(message)
