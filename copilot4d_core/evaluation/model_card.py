# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The model card of a weights file, made from what its training runs and its evaluation wrote.

What goes in: weights, folders of the runs that led to them (`run.json`, `config.json`), the JSON of `copilot4d evaluate`, and a YAML file with
what no run can know: terms of the data, limits. What comes out: Markdown.
Unusual: data without stated terms, and results of another model, are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from copilot4d_core.config import preset
from copilot4d_core.config_file import dict_from_config
from copilot4d_core.evaluation.metrics import bits_per_scan
from copilot4d_core.evaluation.surprise_study import NORMAL, auroc
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import Model, read_model
from copilot4d_core.yaml_file import load_yaml, read_yaml_text

ABOUT_DATA = ("what", "sensor", "terms")
HEADLINE = {
    "depth_l1_mean_m": ("depth error, mean (m)", ".2f"), "depth_l1_median_m": ("median (m)", ".2f"), "rays_within_0p2m": ("within 0.2 m", ".0%"),
    "rays_within_1m": ("within 1 m", ".0%"), "chamfer_m": ("Chamfer (m)", ".2f"), "fscore_0p2m": ("F-score 0.2 m", ".2f")}
MORE = {
    "abs_rel": ("AbsRel", ".3f"), "chamfer_m2": ("Chamfer (m²)", ".3f"), "fscore_0p1m": ("F-score 0.1 m", ".2f"), "voxel_iou": ("voxel IoU", ".2f"),
    "code_usage_occupied": ("codes used on occupied cells", ".0%"), "perplexity_occupied": ("perplexity, occupied", ".0f"),
    "perplexity_all": ("all", ".0f"), "depth_l1_mean_m_gt_mask": ("mean depth error with the true mask (m)", ".2f"),
    "phantom_points": ("phantom points", ".1%"), "missed_returns": ("missed returns", ".1%")}
"""Columns of the two tables of results: keys of `copilot4d evaluate`, heading, format."""


class Sources(NamedTuple):
    """Files that a card is made from."""

    weights: Path
    runs: Sequence[Path]
    """Folders, the first run first."""
    results: Path
    notes: Path
    prior_costs: Path | None = None
    """JSON of `copilot4d fit-prior`."""
    surprise: Path | None = None
    """JSON of `surprise_study`."""


def model_card(sources: Sources) -> str:
    """Markdown of the card.

    Raises:
        ValueError: results of another model, a last run with other settings than the weights, or data whose terms the notes do not state.
    """
    model, notes = read_model(sources.weights), load_yaml(read_yaml_text(sources.notes))
    if not isinstance(notes, dict):
        raise ValueError(f"{sources.notes}: expected keys and values, got {type(notes).__name__}")
    results = json.loads(sources.results.read_text())
    if results["model_id"] != model.model_id:
        raise ValueError(f"{sources.results}: expected results of {model.model_id}, got those of {results['model_id']}; evaluate these weights")
    runs = [_run(folder) for folder in sources.runs]
    _refuse_other_settings(sources, model, runs[-1])
    parts = [_head(sources.weights, model, notes), _training(runs, notes), _results(results, notes)]
    if sources.prior_costs is not None:
        parts.append(_prior(json.loads(sources.prior_costs.read_text()), model, notes))
    if sources.surprise is not None:
        parts.append(_surprise(json.loads(sources.surprise.read_text()), notes))
    parts.append("## Limits\n\n" + "\n".join(f"- {line}" for line in _noted(notes, "limits")))
    return "\n\n".join(parts) + "\n"


def _noted(notes: Mapping[str, Any], key: str) -> Any:
    if key not in notes:
        raise ValueError(f"notes: expected the key {key}, got {', '.join(notes) or 'none'}")
    return notes[key]


def _run(folder: Path) -> dict[str, Any]:
    return {"name": folder.name, "config": json.loads((folder / "config.json").read_text()), **json.loads((folder / "run.json").read_text())}


def _refuse_other_settings(sources: Sources, model: Model, last: Mapping[str, Any]) -> None:
    mine, theirs = json.loads(json.dumps(dict_from_config(model.config))), dict(last["config"])
    for tree in (mine, theirs):
        tree["spatial_skip"] = {key: value for key, value in tree["spatial_skip"].items() if key != "threshold"}  # chosen at the end of the run
    if mine != theirs or last["steps"] < model.config.training.steps:
        raise ValueError(f"{sources.runs[-1]}: expected the finished run that wrote {sources.weights}, its settings are others or it has only "
                         f"{last['steps']} steps")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))


def _head(path: Path, model: Model, notes: Mapping[str, Any]) -> str:
    grid, g = Grid(model.config), model.config.grid
    rows, columns = grid.tokens_HW
    numbers = sum(array.size for array in model.tensors.values())
    cell_m = (g.x_max_m - g.x_min_m) / columns
    what = (f"one LiDAR scan within x {g.x_min_m:g} to {g.x_max_m:g} m, y {g.y_min_m:g} to {g.y_max_m:g} m, z {g.z_min_m:g} to {g.z_max_m:g} m → "
            f"{rows} × {columns} tokens of {cell_m:g} m ({model.config.quantizer.codebook_size:,} codes, {bits_per_scan(grid):,} bits) → depth along "
            "any ray")
    lines = [("file", f"`{path.name}`, {path.stat().st_size / 1e6:.1f} MB, {numbers:,} trained numbers, model id `{model.model_id}`"),
             ("what it does", what), ("settings", f"preset `{model.config.name}`; all of them are in the file's header"),
             ("licence", _noted(notes, "licence"))]
    return f"# {model.config.name}: LiDAR tokenizer weights\n\n" + _table(("", ""), lines)


def _training(runs: Sequence[Mapping[str, Any]], notes: Mapping[str, Any]) -> str:
    described = [f"{number}. `{run['name']}`: {_schedule(run, notes)}" for number, run in enumerate(runs, 1)]
    about = _noted(notes, "data")
    runs_of: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for source in run["data"]:
            stated = about.get(source["name"], {})
            missing = [key for key in ABOUT_DATA if not stated.get(key)]
            if missing:
                raise ValueError(f"notes: expected {', '.join(missing)} of the data {source['name']} under `data`, because {run['name']} was "
                                 "trained on it")
            sensor = stated["sensor"] if source["name"] != "simulated" or not run["simulated"]["sensors"] else ", ".join(run["simulated"]["sensors"])
            row = (source["name"], stated["what"], sensor, str(source["scans"]), f"{source['share']:.0%}", stated["terms"])
            runs_of.setdefault(row, []).append(run["name"])
    table = _table(("run", "training data", "what", "sensor", "scans", "share of the examples", "terms"),
                   [(", ".join(names), *row) for row, names in runs_of.items()])
    skip = runs[-1]["config"]["spatial_skip"]
    end = (f"A run is deterministic for one version of torch ({runs[-1]['torch']} here) and one machine type. The threshold of the skip mask is "
           f"chosen at its end: it keeps {skip['recall']:.0%} of the occupied cells of 32 training scans.")
    return "\n\n".join(["## Training", "\n".join(described), _noted(notes, "training").strip(), table,
                        "To reproduce, with the data in folders of those names:", _commands(runs), end])


def _start(run: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    """What a run began with: numbers, an earlier run, or weights whose own card says how they came about."""
    if run["start"] is None:
        return "random numbers"
    if "run" in run["start"]:
        return f"`{run['start']['run']}`"
    model_id = run["start"]["model_id"]
    card = (notes.get("earlier") or {}).get(model_id)
    if card is None:
        raise ValueError(f"notes: expected under `earlier` the card of {model_id}, which {run['name']} started from")
    return f"[`{model_id}`]({card}), whose card says how those weights were trained"


def _schedule(run: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    training, quantizer = run["config"]["training"], run["config"]["quantizer"]
    minutes = run["seconds"] / 60
    scans = run["steps"] * training["batch_scans"]
    done = f"{run['steps']:,} steps"
    if run["steps"] < training["steps"]:
        done = f"{run['steps']:,} of {training['steps']:,} steps, where it was stopped,"
    return (f"{done} of {training['batch_scans']} scan{'s' if training['batch_scans'] > 1 else ''}, from {_start(run, notes)}; "
            f"up to {training['rays_per_scan']:,} rays of returns and {training['empty_rays_per_scan']:,} beams that returned nothing a scan; "
            f"optimiser {training['optimizer']}, rate {training['learning_rate']:g} after {training['warmup_steps']} steps of warm-up, a cosine to "
            f"0, gradient clip {training['gradient_clip']:g}; quantiser {quantizer['kind']} ({quantizer['update']}), codes from step "
            f"{training['codebook_start_step']:,}; {minutes:,.0f} minutes in {run['processes']} process{'es' if run['processes'] > 1 else ''} "
            f"({scans / run['seconds']:.1f} scans a second).")


def _commands(runs: Sequence[Mapping[str, Any]]) -> str:
    lines = ["```"]
    for run in runs:
        number = run["processes"]
        program = "copilot4d" if number == 1 else f"torchrun --nproc-per-node {number} -m -- copilot4d_core.cli"
        command = f"{program} train --config {run['name']}.yaml --out runs/{run['name']}"
        if run["simulated"]:
            command += f" --simulate {run['simulated']['percent']}"
            command += " ".join([" --simulate-sensors", *run["simulated"]["sensors"]]) if run["simulated"]["sensors"] else ""
        if run["start"] is not None:
            start = run["start"]
            command += f" --start runs/{start['run']}/{start['file']}" if "run" in start else f" --start {start['model_id']}.safetensors"
        stopped = f"  # until step {run['steps']:,}" if run["steps"] < run["config"]["training"]["steps"] else ""
        lines.append(command + " --data " + " ".join(source["name"] for source in run["data"] if source["name"] != "simulated") + stopped)
    lines += ["```", "", "with these settings:", "", "```"]
    for run in runs:
        lines += [f"# {run['name']}.yaml", yaml.safe_dump(_differences(run["config"]), sort_keys=False, default_flow_style=None).strip()]
    return "\n".join([*lines, "```"])


def _differences(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that differ from its preset."""
    base = json.loads(json.dumps(dict_from_config(preset(config["name"]))))
    tree: dict[str, Any] = {"preset": config["name"]}
    for section, values in config.items():
        changed = {key: value for key, value in values.items() if base[section][key] != value} if isinstance(values, dict) else {}
        if changed:
            tree[section] = changed
    return tree


def _cells(metrics: Mapping[str, float | None], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    return ["–" if metrics.get(key) is None else format(metrics[key], form) for key, (_, form) in columns.items()]


def _results(results: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    sets = results["data_sets"].items()
    headline = _table(["data set", "scans", *(head for head, _ in HEADLINE.values())],
                      [[name, str(metrics["scans"]), *_cells(metrics, HEADLINE)] for name, metrics in sets])
    more = _table(["data set", *(head for head, _ in MORE.values())], [[name, *_cells(metrics, MORE)] for name, metrics in sets])
    return "\n\n".join(["## Results", _noted(notes, "results").strip(), headline, more])


def _prior(costs: Mapping[str, Any], model: Model, notes: Mapping[str, Any]) -> str:
    if costs["model_id"] != model.model_id:
        raise ValueError(f"prior: expected costs of {model.model_id}, got those of {costs['model_id']}; fit a prior to these weights")
    rows = [[row["name"], str(row["scans"]), f"{row['packed_bytes']:,.0f}", f"{row['mean_bytes']:,.0f}", f"{row['largest_bytes']:,}"]
            for row in costs["costs"]]
    table = _table(["judged on", "scans", "bytes a scan at the fixed rate", "with the prior, mean", "largest"], rows)
    return "\n\n".join(["## Prior of the tokens", _noted(notes, "prior").strip(), table])


def _surprise(scores: Mapping[str, Any], notes: Mapping[str, Any]) -> str:
    def values(group: str, key: str) -> Any:
        return np.array([np.nan if one[key] is None else one[key] for one in scores[group]], dtype=np.float64)

    rows, warn_m = [], float(_noted(notes, "surprise_warn_m"))
    for group in scores:
        low, middle, high = np.percentile(values(group, "surprise_m"), (0, 50, 100))
        told = [auroc(values(group, key), values(NORMAL, key)) for key in ("surprise_m", "bits_per_token")]
        if group == NORMAL or np.isnan(values(group, "bits_per_token")).any():
            told[1] = math.nan
        rows.append([group, str(len(scores[group])), f"{middle:.2f} ({low:.2f} to {high:.2f})",
                     f"{(values(group, 'surprise_m') > warn_m).mean():.0%}",
                     *("–" if group == NORMAL or math.isnan(value) else f"{value:.2f}" for value in told)])
    heads = ["scans", "how many", "surprise, median (least to most) in m", f"above {warn_m:g} m", "AUROC", "AUROC of the prior's bits a token"]
    table = _table(heads, rows)
    return "\n\n".join(["## Surprise", _noted(notes, "surprise").strip(), table])
