# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The demo: a bag replays through the real node in its own process, and pictures and a report say what came out.

What goes in: a bag. What comes out: tokens.png, depth.png, bev.png and report.json in one folder, and a table.
Unusual: node and player are started as on a robot, with real topics on a domain of their own; nothing is called directly.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.config_file import config_from_dict
from copilot4d_core.data.bag import BagScans
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.simulator import write_demo_bag
from copilot4d_core.grid import Grid
from copilot4d_ros.demo_collector import DemoCollector
from copilot4d_ros.demo_pictures import write_pictures
from copilot4d_ros.demo_replay import Replay
from copilot4d_ros.demo_report import DemoFrame, demo_report

RECORDING = Path(__file__).resolve().parents[2] / "shared" / "data" / "lidar" / "bags" / "kitti_raw_154_10hz"
"""Where a checkout may have real recordings beside it."""
FRAMES = 20
STREET = 1000
"""Seed of the simulated drive; the packaged weights were trained on streets of seeds 0 to 95."""
STAGES = ("unpack", "voxelize", "encode", "decode", "render", "total")
"""In the order in which they run; `total` also holds the publishing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the pictures and the report were written."""
    parsed = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="copilot4d_demo_") as scratch:
            _demo(parsed, Path(scratch), Console())
    except (ValueError, OSError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m copilot4d_ros.demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for pictures and report (made if missing)")
    parser.add_argument("--bag", type=Path, help="ROS 1 or ROS 2 bag; left out: a recording, or a simulated drive")
    parser.add_argument("--topic", help="PointCloud2 topic; left out: the only one in the bag")
    parser.add_argument("--weights", type=Path, help="weights file; left out: the one in the package")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"scans to play, 1 to 100 (default {FRAMES})")
    return parser


def _demo(parsed: argparse.Namespace, scratch: Path, console: Console) -> None:
    if not 1 <= parsed.frames <= 100:
        raise ValueError(f"--frames: expected 1 to 100, got {parsed.frames}")
    parsed.out.mkdir(parents=True, exist_ok=True)
    bag = _chosen_bag(parsed.bag, scratch, console)
    source = BagScans(bag, parsed.topic)
    scans = _first_scans(source, parsed.frames)
    pattern = SphericalPattern.fit(scans[0].points_m, scans[0].origin_m)
    collector = Replay(bag, source.topic, scans, pattern, parsed.weights, scratch).run(console)
    assert collector.info is not None
    grid = Grid(config_from_dict(collector.info["config"]))
    frames = _frames(collector, scans, pattern, grid)
    name = "simulated drive" if bag.parent == scratch else str(bag)
    report = {"bag": name, "topic": source.topic, "model_id": collector.info["model_id"],
              **demo_report(frames, len(scans), pattern, grid, collector.count, collector.diagnostics)}
    with console.status("drawing"):
        write_pictures(parsed.out, frames, grid)
    with replacing_file(parsed.out / "report.json") as file:
        file.write((json.dumps(report, indent=2) + "\n").encode())
    _print(report, parsed.out, console)


def _chosen_bag(bag: Path | None, scratch: Path, console: Console) -> Path:
    if bag is not None:
        return bag
    if RECORDING.is_dir():
        return RECORDING
    with console.status("simulating a drive"):
        write_demo_bag(scratch / "simulated", num_scans=FRAMES, seed=STREET)
    return scratch / "simulated"


def _first_scans(source: BagScans, count: int) -> list[Scan]:
    scans = list(itertools.islice(source, count))
    stamps = [scan.stamp_ns for scan in scans]
    if not scans or len(set(stamps)) < len(stamps):
        raise ValueError(f"{source.path}: expected clouds with a stamp each, by which the demo finds the answers, "
                         f"got {len(scans)} clouds with {len(set(stamps))} different stamps")
    return scans


def _frames(collector: DemoCollector, scans: list[Scan], pattern: SphericalPattern, grid: Grid) -> list[DemoFrame]:
    by_stamp = {scan.stamp_ns: scan for scan in scans}
    frames = []
    for stamp in collector.complete:
        scan = by_stamp[stamp]
        inside_m = scan.points_m[grid.inside(scan.points_m)]
        input_depth_m = pattern.range_image(inside_m, np.zeros(3, dtype=np.float32))
        frames.append(DemoFrame(scan, inside_m, collector.tokens[stamp], input_depth_m, collector.depth_m[stamp],
                                collector.points_m[stamp]))
    return frames


def _print(report: dict[str, Any], folder: Path, console: Console) -> None:
    dropped = {reason: count for reason, count in report["frames_dropped"].items() if count}
    table = Table(title=f"{report['model_id']} on {Path(report['bag']).name}", show_header=False)
    stages = [f"{stage} {report['stage_ms_median'][stage]:.0f}" for stage in STAGES if stage in report["stage_ms_median"]]
    rows = {
        "depth error, mean / median": f"{report['depth_l1_mean_m']:.2f} / {report['depth_l1_median_m']:.2f} m",
        "pixels within 0.2 m / 1 m": f"{report['rays_within_0p2m']:.0%} / {report['rays_within_1m']:.0%}",
        "points in / in region / out": f"{report['points_in_mean']:,.0f} / {report['points_in_region_mean']:,.0f} / "
                                                 f"{report['points_out_mean']:,.0f}",
        "bits per scan, message / tokens": f"{8 * report['raw_bytes_per_scan_mean']:,.0f} / {report['bits_per_scan']:,} "
                                           f"= {report['compression']:,.0f}",
        "scans played / received / dropped": f"{report['frames_played']} / {report['frames_received']} / "
                                              f"{sum(dropped.values())} {dropped or ''}",
        "ms per stage, median": ", ".join(stages),
    }
    for label, value in rows.items():
        table.add_row(label, value)
    console.print(table)
    console.print(f"pictures and report: {folder}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
