# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench --scaling`: time and memory over the size of one thing at a time, everything else fixed.

What goes in: a model and a cloud. What comes out: a row for each size, and the slopes of the curves in a log-log plot: 1 is linear.
Unusual: each size runs in a process of its own, because a process never gives its peak of memory back.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.benchmark.core_benchmark import WARM_UP, Asked, timed_frames
from copilot4d_core.benchmark.frames import Frames, pattern_rays, resampled
from copilot4d_core.benchmark.model_choice import ModelChoice, random_weights
from copilot4d_core.benchmark.process_load import current_rss_mib, peak_rss_mib
from copilot4d_core.benchmark.work import STAGES
from copilot4d_core.config import Config
from copilot4d_core.grid import FloatArray

TOTAL, MEMORY = "total", "memory"


class Sizes(NamedTuple):
    """What is measured, ascending."""

    points: tuple[int, ...] = (10_000, 30_000, 100_000, 300_000, 1_000_000)
    rays: tuple[int, ...] = (4_096, 16_384, 65_536, 262_144, 1_048_576)
    side_m: tuple[int, ...] = (40, 80, 120, 160)
    """Of the region, at the cell size of the settings."""
    token_side: tuple[int, ...] = (32, 64, 96, 128)
    """Of the token grid, in the region of the settings; a multiple of the attention window."""


AXES = {"points": "points of the cloud", "rays": "rays", "region": "side of the region (m), same cells", "tokens": "tokens of the grid, same region"}
"""What each curve runs over."""


class Case(NamedTuple):
    """One size of one axis."""

    axis: str
    value: int
    points: int
    rays: int
    config: Config | None
    """Random weights of these settings; None takes the model itself."""


class Row(NamedTuple):
    """What one size takes."""

    axis: str
    value: int
    ms: dict[str, float]
    """Median by stage, and their sum as `total`."""
    memory_mib: float
    """Most memory of the process less what it held before the model was opened."""


def scaling_cases(config: Config, points: int, rays: int, sizes: Sizes) -> list[Case]:
    """All sizes of all axes.

    Args:
        config: settings whose region and cells are changed.
        points, rays: of the frame where they are not what changes.
    Raises:
        ValueError: settings that do not go with a size.
    """
    return [*(Case("points", size, size, rays, None) for size in sizes.points), *(Case("rays", size, points, size, None) for size in sizes.rays),
            *(Case("region", side, points, rays, with_region(config, side)) for side in sizes.side_m),
            *(Case("tokens", side**2, points, rays, with_token_grid(config, side)) for side in sizes.token_side)]


def with_region(config: Config, side_m: float) -> Config:
    """The same cells in a square region of this side around the sensor."""
    half = side_m / 2
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, x_min_m=-half, x_max_m=half, y_min_m=-half, y_max_m=half))


def with_token_grid(config: Config, side: int) -> Config:
    """The same region with a square grid of so many tokens a side."""
    grid = config.grid
    cells = side * 2 * grid.patch_voxels
    return dataclasses.replace(config, grid=dataclasses.replace(
        grid, voxel_x_m=(grid.x_max_m - grid.x_min_m) / cells, voxel_y_m=(grid.y_max_m - grid.y_min_m) / cells))


def measure_scaling(chosen: ModelChoice, cases: Sequence[Case], cloud_m: FloatArray, repeats: int) -> Iterator[Row]:
    """Measure each size in a fresh process.

    Args:
        cloud_m: (N, 3) float32, brought to the points of each case.
    """
    for case in cases:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            yield pool.apply(measure_case, (chosen, case, cloud_m, repeats))


def measure_case(chosen: ModelChoice, case: Case, cloud_m: FloatArray, repeats: int) -> Row:
    """Measure one size in this process."""
    with ExitStack() as stack:
        if case.config is not None:
            chosen = ModelChoice(stack.enter_context(random_weights(case.config)), True)
        asked = Asked(chosen, Frames("", [resampled(cloud_m, case.points)]), pattern_rays(case.rays), False, 1.0, 1.0)
        before_mib = current_rss_mib()
        spent = timed_frames(asked, "auto", WARM_UP, repeats)
    ms = {stage: float(np.median(spent[stage])) for stage in STAGES}
    return Row(case.axis, case.value, ms | {TOTAL: float(np.median(np.sum([spent[stage] for stage in STAGES], axis=0)))},
               max(0.0, peak_rss_mib() - before_mib))


class Slope(NamedTuple):
    """Of one curve in a log-log plot."""

    whole: float
    """Of the line through all sizes."""
    end: float
    """From the last size but one to the last, where what is fixed counts least."""


def slopes(rows: Sequence[Row]) -> dict[str, dict[str, Slope]]:
    """Slope of each stage, of the total and of memory, by axis; axes with one size have none."""
    found: dict[str, dict[str, Slope]] = {}
    for axis in dict.fromkeys(row.axis for row in rows):
        mine = [row for row in rows if row.axis == axis]
        if len(mine) > 1:
            found[axis] = {name: _slope([row.value for row in mine], curve(mine, name)) for name in (*STAGES, TOTAL, MEMORY)}
    return found


def curve(rows: Sequence[Row], name: str) -> list[float]:
    """Milliseconds of a stage, or MiB, over the rows."""
    return [row.memory_mib if name == MEMORY else row.ms[name] for row in rows]


def _slope(sizes: Sequence[int], values: Sequence[float]) -> Slope:
    x, y = np.log(sizes), np.log(np.maximum(values, 1e-6))
    return Slope(float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2])))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write a line a size; an existing file is replaced at once or left as it was."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["axis", "value", *(f"{stage}_ms" for stage in (*STAGES, TOTAL)), "memory_mib"])
    for row in rows:
        writer.writerow([row.axis, row.value, *(f"{row.ms[stage]:.4f}" for stage in (*STAGES, TOTAL)), f"{row.memory_mib:.2f}"])
    with replacing_file(path) as file:
        file.write(text.getvalue().encode())
