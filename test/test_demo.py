# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The demo: its numbers against hand-worked ones, and one whole run with a tiny untrained model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from copilot4d_core.config import preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.grid import Grid
from copilot4d_ros import demo
from copilot4d_ros.demo_pictures import spread
from copilot4d_ros.demo_report import DemoFrame, demo_report

START_NS = 1_600_000_000_000_000_000


def scan(points_m: np.ndarray, index: int = 0) -> Scan:
    """A scan of 16 bytes a point, 0.1 s after the one before."""
    points_m = points_m.astype(np.float32)
    intensity = np.ones(len(points_m), dtype=np.float32)
    return scan_from_points(f"#{index}", points_m, intensity, raw_bytes=16 * len(points_m), stamp_ns=START_NS + index * 10**8, frame_id="s")


def test_report_of_one_hand_worked_frame() -> None:
    # Two beams, level and 45 degrees down, two columns: backwards and ahead. tiny: +-10 m, +-2.25 m, 16 x 16 of 64 codes.
    pattern = SphericalPattern(2, 2, -45.0, 0.0)
    grid = Grid(preset("tiny"))
    nan = np.nan
    frame = DemoFrame(
        scan=scan(np.array([[4.0, 0, 0], [1, 0, -1], [-3, 0, 0], [99, 0, 0]])), inside_m=np.array([[4, 0, 0]], dtype=np.float32),
        tokens=np.zeros((16, 16), dtype=np.uint16), input_depth_m=np.array([[3.0, 4.0], [nan, 1.4]], dtype=np.float32),
        # Errors: 0.1 m; missed, so charged to where the level ray ahead leaves the region: 10 - 4 = 6 m; 0.5 m.
        depth_m=np.array([[3.1, nan], [5.0, 1.9]], dtype=np.float32), points_m=np.zeros((3, 3), dtype=np.float32))
    counts = {"received": 5, "processed": 3, "dropped_replaced": 2}
    report = demo_report([frame], 6, pattern, grid, lambda key: counts.get(key, 0), {"encode_median_ms": "7.5", "encode_ms": "9.0"})
    assert report["depth_l1_mean_m"] == pytest.approx((0.1 + 6.0 + 0.5) / 3, abs=1e-6)
    assert report["depth_l1_median_m"] == pytest.approx(0.5, abs=1e-6)
    assert (report["rays_within_0p2m"], report["rays_within_1m"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert report["rays_missed"] == pytest.approx(1 / 3)
    # 256 tokens of 6 bits; 4 points of 16 bytes.
    assert (report["bits_per_scan"], report["raw_bytes_per_scan_mean"], report["compression"]) == (1536, 64.0, 64 * 8 / 1536)
    assert (report["points_in_mean"], report["points_in_region_mean"], report["points_out_mean"]) == (4.0, 1.0, 3.0)
    assert (report["frames_played"], report["frames_received"], report["frames_processed"]) == (6, 5, 3)
    assert report["frames_dropped"]["replaced"] == 2
    assert report["stage_ms_median"] == {"encode": 7.5}


def test_pictures_show_the_first_and_the_last_frame() -> None:
    assert spread(list(range(20))) == [0, 6, 13, 19]  # type: ignore[arg-type]
    assert spread([5, 6]) == [5, 6]  # type: ignore[arg-type,comparison-overlap]


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the torch runner needs torch: pip install '.[train]'")
    from tiny_model import write_tiny_weights

    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    random = np.random.default_rng(1)
    scans = [scan(random.uniform([-12, -12, -2], [12, 12, 1], (4000, 3)), i) for i in range(3)]
    write_cloud_bag(tmp_path / "bag", "/lidar", scans)
    out = tmp_path / "made" / "demo"
    assert demo.main(["--bag", str(tmp_path / "bag"), "--topic", "/lidar", "--weights", str(weights), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"tokens.png", "depth.png", "bev.png", "report.json"}
    assert all((out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for name in ("tokens.png", "depth.png", "bev.png"))
    report = json.loads((out / "report.json").read_text())
    assert (report["topic"], report["bits_per_scan"], report["raw_bytes_per_scan_mean"]) == ("/lidar", 1536, 64_000.0)
    assert report["frames_played"] == 3
    assert report["frames_received"] == report["frames_processed"] + sum(report["frames_dropped"].values())
    assert report["frames_compared"] == report["frames_processed"] >= 1
    assert set(report["stage_ms_median"]) == {"unpack", "voxelize", "encode", "decode", "render", "total"}
    assert math.isfinite(report["depth_l1_mean_m"])
    assert report["model_id"] in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--bag", "{tmp}/nothing"], "nothing: expected a ROS 1 bag"),
    (["--bag", "{tmp}/bag", "--topic", "/other"], "/lidar, got '/other'"),
    (["--bag", "{tmp}/bag", "--frames", "0"], "--frames: expected 1 to 100, got 0"),
    (["--bag", "{tmp}/bag", "--weights", "{tmp}/no.safetensors"], "no.safetensors: expected a weights file"),
])
def test_what_cannot_be_shown_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    write_cloud_bag(tmp_path / "bag", "/lidar", [scan(np.array([[4.0, 0, 0], [1, 0, -1]]))])
    assert demo.main([argument.format(tmp=tmp_path) for argument in arguments] + ["--out", str(tmp_path / "out")]) == 1
    assert expected in capsys.readouterr().err
