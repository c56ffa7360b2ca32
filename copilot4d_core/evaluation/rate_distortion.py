# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion: how near a cloud comes back from how many bytes, of tokens and of two codecs, on the same scans.

What goes in: runners and scans. What comes out: one `Row` for every scan, codec and setting, and their means.
Unusual: every codec gets the returns inside the region and is held against them by the same metrics. A receiver of tokens knows its sensor
but not which of its rays returned: `tokens, sensor's rays` is what it has. The tokens along the true rays, as papers
show them, are given part of the answer that no byte pays for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.data.rays import rays_from_points
from copilot4d_core.data.scan import Rays, Scan
from copilot4d_core.data.sensors import SensorPattern, SphericalPattern
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.deploy.token_stream import tokens_to_bytes
from copilot4d_core.evaluation import draco_codec, octree_codec
from copilot4d_core.evaluation.evaluate import points_on_rays
from copilot4d_core.evaluation.metrics import chamfer_m, cloud_distances, fscore
from copilot4d_core.evaluation.report import DataSet
from copilot4d_core.grid import FloatArray, Grid

TOKENS, TRUE_RAYS, OCTREE, DRACO = "tokens, sensor's rays", "tokens, true rays", "octree", "Draco"
FIXED_RATE, ENTROPY_CODED = "fixed rate", "entropy-coded"
STEPS_M = (2.0, 1.5, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
"""Edges of the octree's cells."""
BITS = (5, 6, 7, 8, 9, 10, 11, 12)
"""Of Draco, a coordinate; over 80 m, steps of 2.6 m to 2 cm."""
MEAN = "mean"
"""Stands in place of a scan's name."""


class Row(NamedTuple):
    """One scan, or the mean of all, with one codec at one setting."""

    data_set: str
    scan: str
    codec: str
    setting: str
    bytes: float
    """Of the whole stream, header included."""
    chamfer_m: float
    fscore_0p1m: float
    fscore_0p2m: float
    points_in: float
    points_out: float


class Case(NamedTuple):
    """What every codec is given of one scan."""

    data_set: str
    scan: Scan
    truth_m: FloatArray
    """(N, 3) float32, metres: the returns inside the region."""
    grid: Grid

    def row(self, codec: str, setting: str, size: int, cloud_m: FloatArray) -> Row:
        """What a codec made of it."""
        distances = cloud_distances(cloud_m, self.truth_m)
        return Row(self.data_set, self.scan.name, codec, setting, size, chamfer_m(distances), fscore(distances, 0.1), fscore(distances, 0.2),
                   len(self.truth_m), len(cloud_m))


def measure(runners: list[Runner], data_sets: list[DataSet], sensor: SensorPattern | None) -> list[Row]:
    """Rows of all scans, with a progress bar on stderr.

    Args:
        runners: models of one region, at least one.
        data_sets: what to measure on.
        sensor: where it looks; None: 64 x 1024 rays, fitted to the first scan of each data set.
    Raises:
        ValueError: models of different regions, a data set without a return inside the region, or no DracoPy.
    """
    draco_codec.check_draco()
    _check_regions(runners)
    result = []
    for data_set in data_sets:
        pattern = sensor or _fitted(data_set)
        indices = range(0, len(data_set.source), data_set.every)
        shown = track(indices, description=data_set.name, console=Console(stderr=True), transient=True)
        rows = [row for index in shown for row in scan_rows(runners, data_set.name, data_set.source[index], pattern)]
        if not rows:
            raise ValueError(f"{data_set.name}: expected at least one scan with returns inside the region, got none in {len(indices)} scans; "
                             "check the frame and unit of the points")
        result += rows
    return result


def _fitted(data_set: DataSet) -> SphericalPattern:
    scan = data_set.source[0]
    return SphericalPattern.fit(scan.points_m, scan.origin_m)


def scan_rows(runners: list[Runner], data_set: str, scan: Scan, pattern: SensorPattern) -> list[Row]:
    """Rows of one scan; none where no return lies inside the region.

    Args:
        runners: models of one region, at least one.
        pattern: where the sensor looks.
    """
    grid = Grid(runners[0].config)
    case = Case(data_set, scan, scan.points_m[grid.inside(scan.points_m)], grid)
    if not len(case.truth_m):
        return []
    return [row for runner in runners for row in _token_rows(runner, case, pattern)] + [*_octree_rows(case), *_draco_rows(case)]


def _check_regions(runners: list[Runner]) -> None:
    """Refuse models that do not see the same returns.

    Raises:
        ValueError: models of different regions.
    """
    regions = {runner.model_id: (*Grid(runner.config).minimum_m.tolist(), *Grid(runner.config).maximum_m.tolist()) for runner in runners}
    if len(set(regions.values())) > 1:
        raise ValueError("rate-distortion: expected weights of one region, because all codecs get the same points, got "
                         + "; ".join(f"{name}: {region[:3]} to {region[3:]} m" for name, region in regions.items()))


def _token_rows(runner: Runner, case: Case, pattern: SensorPattern) -> Iterator[Row]:
    tokens = runner.encode(case.scan.points_m)
    sizes = {FIXED_RATE: len(tokens_to_bytes(tokens, runner.model_id, runner.config))}
    if runner.prior is not None:
        sizes[ENTROPY_CODED] = len(tokens_to_bytes(tokens, runner.model_id, runner.config, runner.prior))
    true_rays, _ = rays_from_points(case.truth_m, case.scan.point_origins_m[case.grid.inside(case.scan.points_m)])
    bundles: dict[str, Rays] = {TOKENS: pattern.rays(case.scan.origin_m), TRUE_RAYS: true_rays}
    for codec, rays in bundles.items():
        cloud_m = points_on_rays(rays, runner.depth(tokens, rays))
        row = case.row(codec, "", 0, cloud_m)
        yield from (row._replace(setting=f"{runner.model_id}, {way}", bytes=size) for way, size in sizes.items())


def _octree_rows(case: Case) -> Iterator[Row]:
    for step_m in STEPS_M:
        data = octree_codec.encode(case.truth_m, step_m, case.grid.minimum_m)
        yield case.row(OCTREE, f"{step_m:g} m", len(data), octree_codec.decode(data))


def _draco_rows(case: Case) -> Iterator[Row]:
    edge_m = float((case.grid.maximum_m - case.grid.minimum_m).max())
    for bits in BITS:
        data = draco_codec.encode(case.truth_m, bits, case.grid.minimum_m, edge_m)
        yield case.row(DRACO, f"{bits} bits", len(data), draco_codec.decode(data))


def means(rows: list[Row]) -> list[Row]:
    """One row for every data set, codec and setting: means over the scans, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.data_set, row.codec, row.setting), []).append(row)
    return [Row(data_set, MEAN, codec, setting, *(float(value) for value in np.mean([row[4:] for row in group], axis=0)))
            for (data_set, codec, setting), group in groups.items()]


def write_rows(rows: list[Row], path: Path) -> None:
    """Write rows as CSV, bytes and counts to a whole number or a tenth; an existing file is replaced at once or left as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows([*row[:4], f"{row.bytes:.10g}", *(f"{value:.6g}" for value in row[5:8]), *(f"{value:.10g}" for value in row[8:])]
                     for row in rows)
    with replacing_file(path) as file:
        file.write(text.getvalue().encode())
