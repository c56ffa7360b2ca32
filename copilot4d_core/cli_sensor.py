# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The subcommand that finds out which sensor recorded some scans: fit-sensor. Dispatch only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copilot4d_core.data.sensor_fit import FittedSensor


def add_sensor_command(commands: Any) -> None:
    """Add it to the parser's subcommands."""
    parser = commands.add_parser("fit-sensor", help="write the sensor file of the sensor that recorded some scans")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="bag, folders or files, all of one sensor and in its frame")
    parser.add_argument("--topic", help="PointCloud2 topic of the bag")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="sensor file to write (.yaml), for --sensor and depth.sensor")
    parser.add_argument("--name", metavar="NAME", help="of the sensor (default: the name of the file)")
    parser.set_defaults(run=_fit_sensor)


def _fit_sensor(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.data.sensor_file import ENDING, write_sensor_file
    from copilot4d_core.data.sensor_fit import fit_sensor, some_scans
    from copilot4d_core.data.sources import open_scans

    check_writable(parsed.out, ENDING)
    scans = some_scans([open_scans(path, parsed.topic) for path in parsed.paths])
    fitted = fit_sensor(scans, parsed.name or parsed.out.stem)
    write_sensor_file(fitted.pattern, parsed.out)
    print(_told(parsed.out, fitted))


def _told(out: Path, fitted: FittedSensor) -> str:
    pattern = fitted.pattern
    heights = pattern.origin_heights_m
    start = f", which start {min(heights):g} to {max(heights):g} m above the origin" if heights else ""
    offsets = "with an azimuth offset for each beam" if pattern.azimuth_offsets_deg else "beside each other in no fixed way"
    return (f"{out}: {pattern.rows} beams from {pattern.elevations_deg[0]:+.2f} to {pattern.elevations_deg[-1]:+.2f} degrees{start}; "
            f"{pattern.columns} columns, {offsets}; returns from {pattern.min_range_m:g} to {pattern.max_range_m:g} m\n"
            f"{fitted.explained:.1%} of {fitted.returns:,} returns in {fitted.scans} scans lie within a quarter of the gap to the next beam "
            f"(50% would mean nothing), half of them within {fitted.off_deg:.4f} degrees")
