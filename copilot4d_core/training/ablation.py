# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d ablate`: every run of `SETTINGS` trained for equal length on the same examples and judged on the same scans.

What goes in: scans to train on and scans to judge on. What comes out: a folder a run, `ablation.json` and a table, both written
anew after every run. Unusual: a run that has a result is not made again, a failed one neither; an interrupted one goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.deploy.torch_runner import torch_runner
from copilot4d_core.evaluation import metrics
from copilot4d_core.evaluation.report import DataSet, open_data_sets, report
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import read_tensors
from copilot4d_core.training.ablation_settings import BASELINE, SETTINGS, Setting, settings_config
from copilot4d_core.training.ablation_table import DEPTH_AND_CLOUDS, Row, table
from copilot4d_core.training.step_clock import StepClock
from copilot4d_core.training.train import train

COLLAPSED_PERPLEXITY = 16.0
"""A codebook whose use on occupied cells is worth no more codes than this has collapsed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all runs share."""

    preset: str
    steps: int
    data: list[Path]
    judges: list[Path]
    out: Path

    def tree(self) -> dict[str, Any]:
        """As JSON; paths as they were given."""
        return {"preset": self.preset, "steps": self.steps, "baseline": BASELINE, "data": list(map(str, self.data)),
                "judges": list(map(str, self.judges))}


def ablate(plan: Plan, settings: tuple[Setting, ...] = SETTINGS, tell: Callable[[str], None] = print, only: Sequence[str] = ()) -> list[Row]:
    """Make the runs that have no result yet; returns all that have one.

    Args:
        only: names of the runs to make; empty: all. So several processes or machines can share a folder.
    Raises:
        ValueError: no judges, data that cannot be read, a name that no setting has, or a folder that holds the runs of another plan.
    """
    names = [setting.name for setting in settings]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"--only: expected names among {', '.join(names)}; got {', '.join(unknown)}")
    judges = open_data_sets(plan.judges, None, 1)
    configs = [settings_config(setting, plan.preset, plan.steps) for setting in settings]
    plan.out.mkdir(parents=True, exist_ok=True)
    _refuse_another_plan(plan)
    for setting, config in zip(settings, configs, strict=True):
        if (only and setting.name not in only) or _result(plan, setting) is not None:
            continue
        tell(f"{setting.name}: {setting.why}")
        made = _run(setting, config, plan, judges, _folder(plan, setting))
        _write(_folder(plan, setting) / "result.json", made._asdict())
        tell(f"{setting.name}: {made.note or 'done'}")
        _tabulate(plan, settings)
    return _tabulate(plan, settings)


def _tabulate(plan: Plan, settings: tuple[Setting, ...]) -> list[Row]:
    rows = [row for row in (_result(plan, setting) for setting in settings) if row is not None]
    _write(plan.out / "ablation.json", {"schema_version": 1, "plan": plan.tree(), "rows": [row._asdict() for row in rows]})
    with replacing_file(plan.out / "ablation.md") as file:
        file.write(table(rows, plan.tree()).encode())
    return rows


def _folder(plan: Plan, setting: Setting) -> Path:
    return plan.out / setting.name.replace(" ", "_").replace(",", "")


def _run(setting: Setting, config: Any, plan: Plan, judges: list[DataSet], folder: Path) -> Row:
    """Train and judge; what goes wrong is the result."""
    try:
        step_ms = _trained(config, plan.data, folder)
        with torch_runner(folder / "weights.safetensors") as runner:
            measured, codes = report(runner, judges, setting.name).data_sets, code_use(runner, judges)
    except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        return Row(setting.name, setting.why, setting.changes, {}, {}, f"failed: {' '.join(str(error).split())[:160]}")
    shown = {key: float(np.mean([values[key] for values in measured.values()])) for key in DEPTH_AND_CLOUDS}
    collapsed = codes["perplexity_occupied"] <= COLLAPSED_PERPLEXITY
    return Row(setting.name, setting.why, setting.changes, {**shown, **codes, "step_ms": step_ms}, measured, "collapsed" if collapsed else "")


def _trained(config: Any, data: list[Path], folder: Path) -> float:
    """Train to the end, from a checkpoint where there is one; processor time of a step in milliseconds, median of the last part."""
    timed = folder / "step_ms.json"
    if timed.is_file():
        return float(json.loads(timed.read_text()))
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.is_file() and int(read_tensors(checkpoint)[1]["step"]) >= config.training.steps:
        shutil.rmtree(folder)  # stopped between its end and the note of what a step took
    clock = StepClock()
    train(config, data, folder, resume=checkpoint.is_file(), callbacks=[clock])
    step_ms = float(np.median(clock.step_ms))
    _write(timed, step_ms)
    return step_ms


def code_use(runner: Runner, judges: list[DataSet]) -> dict[str, float]:
    """Use of the tokens over all judged scans together, and what a scan costs in bits.

    `entropy_bits_per_scan` is of order 0: one histogram for the tokens of all cells, wherever they lie.
    """
    grid, size = Grid(runner.config), runner.config.quantizer.codebook_size
    everywhere, occupied = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for judge in judges:
        for scan in judge.source:
            tokens = runner.encode(scan.points_m)
            everywhere += metrics.code_counts(tokens, size)
            occupied += metrics.code_counts(tokens[grid.occupied_tokens(scan.points_m)], size)
    rows, columns = grid.tokens_HW
    return {"codes": size, "codes_used_occupied": int((occupied > 0).sum()), "perplexity_occupied": metrics.perplexity(occupied),
            "bits_per_scan": metrics.bits_per_scan(grid), "entropy_bits_per_scan": rows * columns * math.log2(metrics.perplexity(everywhere))}


def _refuse_another_plan(plan: Plan) -> None:
    path, wanted = plan.out / "plan.json", plan.tree()
    if path.is_file():
        stored = json.loads(path.read_text())
        different = [f"{key}: {stored.get(key)} there, {value} here" for key, value in wanted.items() if stored.get(key) != value]
        if different:
            raise ValueError(f"{plan.out}: expected a new folder or the same plan, it holds runs with {'; '.join(different)}; name another --out")
    _write(path, wanted)


def _result(plan: Plan, setting: Setting) -> Row | None:
    path = _folder(plan, setting) / "result.json"
    if not path.is_file():
        return None
    row = Row(**json.loads(path.read_text()))
    if row.changes != setting.changes:
        raise ValueError(f"{path.parent}: expected a run with {setting.changes}, it was made with {row.changes}; delete the folder to make it anew")
    return row._replace(why=setting.why)


def _write(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as file:
        file.write((json.dumps(_finite(tree), indent=1, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """JSON knows no infinity and no NaN: null stands for both."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
