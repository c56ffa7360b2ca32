# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The report of `copilot4d evaluate`: one column per data set on the screen, one section per data set in JSON.

What goes in: a runner and paths of data sets. What comes out: a `Report`, a table, a JSON file.
Unusual: JSON knows no infinity, so a value that is not finite is written as null, and a note says why.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.data.scan import ScanSource
from copilot4d_core.data.sensor_fit import fit_sensor, some_scans
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.data.sources import open_all
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.evaluation.evaluate import MISSED_RULE, Evaluation, Metrics

SCHEMA_VERSION = 1
FITTED_SCANS = 5
"""Scans of a data set to which its sensor is fitted."""
LABEL_WIDTH, COLUMN_WIDTH = 28, 16


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Scans that are reported together."""

    name: str
    source: ScanSource
    every: int
    """Only every Nth scan counts."""


@dataclasses.dataclass
class Report:
    """Results of one model."""

    model_id: str
    every: int
    data_sets: dict[str, Metrics] = dataclasses.field(default_factory=dict)
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    missed_rays: str = MISSED_RULE


def open_data_sets(paths: list[Path], topic: str | None, every: int) -> list[DataSet]:
    """Open every data set before the first is evaluated.

    Returns:
        Data sets with distinct names: the source's, or the path where two sources have one name.
    Raises:
        ValueError: a path holds no scans, is named twice, or `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"--every: expected at least 1, got {every}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"--data: expected each path once, got {' '.join(map(str, paths))}")
    sources = open_all(paths, topic)
    names = [source.name for source in sources]
    return [DataSet(source.name if names.count(source.name) == 1 else str(path), source, every)
            for path, source in zip(paths, sources, strict=True)]


def report(runner: Runner, data_sets: list[DataSet], model_id: str, sensor: BeamPattern | None = None) -> Report:
    """Evaluate the data sets one after the other, with a progress bar on stderr.

    Args:
        runner: what is evaluated.
        data_sets: at least one.
        model_id: for the report.
        sensor: which recorded all of them; None fits one to each data set, and a note says where that cannot be done.
    Raises:
        ValueError: a data set has no scan with returns inside the region.
    """
    result = Report(model_id, data_sets[0].every)
    for data_set in data_sets:
        pattern, refusal = (sensor, "") if sensor is not None else _fitted(data_set)
        evaluation = Evaluation(runner, pattern)
        indices = range(0, len(data_set.source), data_set.every)
        for index in track(indices, description=data_set.name, console=Console(stderr=True), transient=True):
            evaluation.add(data_set.source[index])
        try:
            result.data_sets[data_set.name] = evaluation.metrics()
        except ValueError as error:
            raise ValueError(f"{data_set.name}: {error}") from error
        result.notes[data_set.name] = [*evaluation.notes(), *([refusal] if refusal else [])]
    return result


def _fitted(data_set: DataSet) -> tuple[BeamPattern | None, str]:
    """The sensor of a data set, or why it has none."""
    try:
        return fit_sensor(some_scans([data_set.source], most=FITTED_SCANS), f"fitted to {data_set.name}").pattern, ""
    except ValueError as error:
        return None, f"No sensor can be fitted, so the metrics of its full pattern are left out; --sensor names one. {error}"


def write_report(result: Report, path: Path) -> None:
    """Write the report as JSON; an existing file is replaced at once or left as it was."""
    tree = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(result)}
    tree["data_sets"] = {name: {key: value if math.isfinite(value) else None for key, value in metrics.items()}
                         for name, metrics in result.data_sets.items()}
    with replacing_file(path) as file:
        file.write((json.dumps(tree, indent=2, allow_nan=False) + "\n").encode())


def print_report(result: Report, console: Console | None = None) -> None:
    """Print the report as a table, a metric per row and a data set per column, and the notes below it."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=LABEL_WIDTH + COLUMN_WIDTH * len(result.data_sets) + 4)
    table = Table(title=f"model {result.model_id}" + (f", every {result.every}th scan" if result.every > 1 else ""))
    table.add_column("metric", no_wrap=True)
    for name in result.data_sets:
        table.add_column(name, justify="right", overflow="fold")
    for key in dict.fromkeys(key for metrics in result.data_sets.values() for key in metrics):
        table.add_row(key, *(_shown(metrics.get(key)) for metrics in result.data_sets.values()))
    console.print(table)
    for name, notes in result.notes.items():
        for note in notes:
            console.print(f"{name}: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(result.missed_rays, markup=False, highlight=False, soft_wrap=True)


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
