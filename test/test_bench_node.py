# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`bench --node`: three processes on a graph of their own, and how the node's times become stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from tiny_model import write_tiny_weights

from copilot4d_core.cli import main
from copilot4d_ros.benchmark_subscriber import stages_of_frames
from copilot4d_ros.node_benchmark import TOKENS, Phase, more_of, timed_of

MS = 1_000_000


def test_stages_add_up_to_the_latency() -> None:
    # Frame 1: 100 ms from stamp to publication, 80 of them worked: 3 to read the cloud, 60 in the runner, 17 for the rest.
    times = {"unpack": [3.0, 4.0], "voxelize": [10.0, 10.0], "encode": [50.0, 50.0], "total": [80.0, 70.0], "latency": [100.0, 75.0]}
    stages = stages_of_frames(times)
    assert stages == {"receive": [20.0, 5.0], "convert": [3.0, 4.0], "voxelize": [10.0, 10.0], "encode": [50.0, 50.0], "publish": [17.0, 6.0]}
    assert [sum(parts) for parts in zip(*stages.values(), strict=True)] == times["latency"]


def test_frames_that_cannot_be_told_apart_have_no_stages() -> None:
    assert stages_of_frames({"unpack": [3.0], "total": [80.0, 70.0]}) == {} and stages_of_frames({}) == {}


def test_latency_is_from_stamp_to_arrival_and_what_never_came_is_missed() -> None:
    stamps = [1000 * MS, 1100 * MS, 1200 * MS]
    arrived = {stamps[0]: 1030 * MS, stamps[2]: 1250 * MS, 7: 8}
    times = {"unpack": [1.0, 2.0], "total": [20.0, 40.0], "latency": [25.0, 45.0], "voxelize": [9.0, 9.0], "encode": [8.0, 8.0]}
    phase = Phase(TOKENS, stamps, arrived, arrived, times, {"dropped_replaced": 1})
    timed = timed_of(phase)
    assert (timed.sent, timed.missed) == (3, 1)
    assert timed.end_to_end_ms == pytest.approx([30.0, 50.0]) and timed.done_s == pytest.approx([0.03, 0.25])
    more = more_of(phase, timed)
    # Beside the runner: 20 - 17 and 40 - 17 ms.
    assert more["overhead_ms"]["p50"] == pytest.approx(13.0) and more["from_receipt_ms"]["max"] == 40.0 and more["tokens_missed"] == 1


def test_three_processes_measure_tokens_and_depth(tmp_path: Path) -> None:
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    words = ["--weights", str(weights), "--frames", "2", "--points", "3000", "--rays", "512", "--rate", "20", "--seconds", "0.75", "--runner", "onnx"]
    assert main(["bench", "--node", *words, "--json", str(tmp_path / "n.json"), "--picture", str(tmp_path / "n.png")]) == 0
    tokens, depth = (json.loads(line) for line in (tmp_path / "n.json").read_text().splitlines())
    assert (tokens["mode"], depth["mode"]) == ("node, tokens", "node, tokens and depth")
    for result, stages in ((tokens, {"voxelize", "encode"}), (depth, {"voxelize", "encode", "decode", "render"})):
        assert result["frames_sent"] == 15 and result["frames_missed"] <= 5 and result["dropped"]["dropped_invalid"] == 0
        assert set(result["stage_ms"]) == {"receive", "convert", "publish"} | stages
        assert 0 < result["end_to_end_ms"]["p50"] < 5000 and result["from_receipt_ms"]["p50"] > 0 and result["rss_mib"] > 50
        assert all(result["stage_ms"][stage]["floor"] > 0 for stage in stages)
    assert (tmp_path / "n.png").stat().st_size > 10_000


def test_a_node_that_does_not_start_is_told_with_what_it_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.safetensors"
    assert main(["bench", "--node", "--weights", str(missing), "--frames", "1", "--points", "100", "--runner", "onnx"]) == 2
    error = capfd.readouterr().err
    assert "ended with exit code 1; it says:" in error and "missing.safetensors" in error
