# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The result of one measured run: a JSON line and a table.

What goes in: times and counts. What comes out: keys in the form of ros2_benchmark, the same for core and node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.benchmark.latency import Timed, jitter_ms, percentiles
from copilot4d_core.benchmark.process_load import Load

TOTAL = "end to end"


class Measured(NamedTuple):
    """One runner on one machine."""

    mode: str
    """core, or node with what is subscribed to."""
    runner: str
    timed: Timed
    rate_hz: float
    load: Load
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    floors_ms: Mapping[str, float]
    """By stage; empty where none is known, as for a GPU."""
    more: Mapping[str, Any]
    """What this mode measures beside what all do."""


def result_tree(measured: Measured) -> dict[str, Any]:
    """Plain values of a run, for JSON; see docs/benchmark.md for the keys."""
    timed, load = measured.timed, measured.load
    floors = measured.floors_ms
    stages = {stage: {**percentiles(values, 50, 90, 99), "floor": floors.get(stage)} for stage, values in timed.stage_ms.items()}
    return {
        "mode": measured.mode, "runner": measured.runner, "config": dict(measured.config), **measured.identity,
        "rate_hz": measured.rate_hz, "frames_sent": timed.sent, "frames_missed": timed.missed,
        "end_to_end_ms": percentiles(timed.end_to_end_ms, 50, 90, 99), "jitter_ms": jitter_ms(timed.done_s, measured.rate_hz),
        "stage_ms": stages, "cpu_percent": load.cpu_percent, "rss_mib": load.rss_mib, "rss_max_mib": load.rss_max_mib,
        "rss_slope_mib_per_min": load.rss_slope_mib_per_min, **measured.more}


def json_line(tree: Mapping[str, Any]) -> str:
    """One line of JSON, numbers to six digits."""
    return json.dumps(_rounded(tree), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def print_result(tree: Mapping[str, Any], notes: Sequence[str], console: Console | None = None) -> None:
    """Print a run as a table: a row a stage with its percentiles, its floor and the ratio of median and floor."""
    console = console or Console()
    shown = console if console.is_terminal else Console(file=console.file, width=110)
    table = Table(title=f"{tree['mode']}, {tree['runner']}: {tree['frames_sent']} frames at {tree['rate_hz']:g} Hz")
    for heading in ("stage (ms)", "p50", "p90", "p99", "max", "floor", "p50 / floor"):
        table.add_column(heading, justify="left" if heading.startswith("stage") else "right")
    for stage, row in tree["stage_ms"].items():
        table.add_row(stage, *_cells(row))
    table.add_section()
    whole = tree["end_to_end_ms"]
    floors = [row["floor"] for row in tree["stage_ms"].values()]
    complete = {**whole, "floor": sum(floors) if floors and None not in floors else None}
    table.add_row(TOTAL, *_cells(complete))
    shown.print(table)
    jitter = tree["jitter_ms"]
    slope = tree["rss_slope_mib_per_min"]
    lines = [f"frames missed {tree['frames_missed']}; jitter {jitter['std']:.2f} ms, largest {jitter['max']:.2f} ms; CPU {tree['cpu_percent']:.0f} % "
             f"of one core; resident {tree['rss_mib']:.0f} MiB, largest {tree['rss_max_mib']:.0f}, slope "
             + ("not measured in so short a time" if slope is None else f"{slope:+.2f} MiB/min"),
             *notes]
    for line in lines:
        shown.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(row: Mapping[str, Any]) -> list[str]:
    floor = row.get("floor")
    ratio = f"{row['p50'] / floor:.1f}" if floor and "p50" in row else "-"
    return [*(f"{row[name]:.2f}" if name in row else "-" for name in ("p50", "p90", "p99", "max")), "-" if floor is None else f"{floor:.2f}", ratio]


def core_notes(tree: Mapping[str, Any]) -> list[str]:
    """What the table of a core run leaves out: the frame, the throughput, the rates that the floors come from."""
    settings, counts, machine, tokens = tree["config"], tree["counts"], tree["machine"], tree["tokens_ms"]
    lines = [f"{settings['model']} on {settings['source']}, {settings['frames']} frames of {settings['points']:,} points, {settings['rays']:,} rays, "
             f"mask {settings['mask']}" + (" (random weights predict an empty one)" if settings["is_random"] else ""),
             f"peak throughput {tree['throughput_hz']:.1f} frames/s; tokens alone p50 {tokens['p50']:.1f}, p99 {tokens['p99']:.1f} ms",
             f"first frame: {counts['inside']:,} points inside, {counts['voxels']:,} voxels, {counts['pillars']:,} pillars, {counts['patches']:,} "
             f"patch cells, {counts['listed_cells']:,} listed feature cells, {counts['samples']:,} samples"]
    if machine is None:
        return [*lines, "no floors: this runner's memory and arithmetic are those of a GPU; see --estimate"]
    return [*lines, f"floors from {machine['bandwidth_gb_s']:.1f} GB/s (copy) and {machine['matrix_gflop_s']:.0f} GFLOP/s (float32 product in ONNX "
            f"Runtime), measured now on {machine['cores']} cores; formulas in copilot4d_core/benchmark/work.py"]


def show_results(results: Sequence[Mapping[str, Any]], notes: Callable[[Mapping[str, Any]], list[str]], file: Path | None) -> None:
    """Print a table for each result, then their JSON lines, which also go to a file where one is named."""
    for tree in results:
        print_result(tree, notes(tree))
    lines = [json_line(tree) for tree in results]
    for line in lines:
        print(line)
    if file is not None:
        write_lines(lines, file)


def write_lines(lines: Sequence[str], file: Path) -> None:
    """Write lines of JSON; an existing file is replaced at once or left as it was."""
    with replacing_file(file) as out:
        out.write(("\n".join(lines) + "\n").encode())
