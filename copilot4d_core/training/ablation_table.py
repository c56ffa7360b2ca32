# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The table of `copilot4d ablate` in Markdown, with the command that makes it and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

DEPTH_AND_CLOUDS = ("depth_l1_mean_m", "depth_l1_median_m", "rays_within_1m", "fscore_0p2m", "chamfer_m")
"""Metrics of `copilot4d evaluate` that the table shows, as means over the judged data sets."""
Formats = dict[str, tuple[str, str]]
COLUMNS: Formats = {
    "depth_l1_mean_m": ("depth error, mean (m)", ".2f"), "depth_l1_median_m": ("median (m)", ".2f"), "rays_within_1m": ("within 1 m", ".0%"),
    "fscore_0p2m": ("F-score 0.2 m", ".2f"), "chamfer_m": ("Chamfer (m)", ".2f"), "codes_used_occupied": ("codes used", ",.0f"),
    "codes": ("of", ",.0f"), "perplexity_occupied": ("perplexity", ",.0f"), "bits_per_scan": ("bits a scan", ",.0f"),
    "entropy_bits_per_scan": ("entropy (bits)", ",.0f"), "step_ms": ("CPU ms a step", ",.0f")}


class Row(NamedTuple):
    """Result of one run."""

    name: str
    why: str
    changes: dict[str, dict[str, Any]]
    shown: Mapping[str, float | None]
    """By the keys of `COLUMNS`; empty for a run that failed, None for what is not finite."""
    data_sets: Mapping[str, Mapping[str, float | None]]
    """All metrics of `copilot4d evaluate`, by data set."""
    note: str
    """Empty, `collapsed`, or why the run failed."""


def table(rows: list[Row], plan: Mapping[str, Any]) -> str:
    """Markdown of the runs so far."""
    heads = ["run", *(head for head, _ in COLUMNS.values()), "note"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join([row.name, *_cells(row), row.note.replace("|", "/")]) + " |" for row in rows]
    reasons = ["| run | changes | why |", "|---|---|---|"]
    reasons += [f"| {row.name} | {_changes(row.changes)} | {row.why} |" for row in rows]
    return "\n".join([_head(plan), *lines, "", "What the runs change:", "", *reasons, ""])


def _head(plan: Mapping[str, Any]) -> str:
    data, judges = " ".join(plan["data"]), " ".join(plan["judges"])
    return f"""# Ablations

Made by this command, in the folder of the recordings; it goes on where it was interrupted, and a run that failed stays in the table:

```
OMP_NUM_THREADS=1 copilot4d ablate --preset {plan["preset"]} --steps {plan["steps"]} --out runs/ablation \\
    --data {data} \\
    --judge {judges}
```

Every run trains the preset `{plan["preset"]}` for {plan["steps"]:,} steps from the same seed on the same examples in the same order, quantised
after the first tenth, and is judged on scans that none was trained on. These are short runs: they rank settings, and say nothing about
how good a long run gets. Depth, F-score and Chamfer are means over the judged data sets ({len(plan["judges"])}), each counted once; a ray
that meets nothing counts with the distance to the region's edge. Codes used and perplexity are of the occupied cells of all judged scans
together. Entropy is of order 0: one histogram for the tokens of all cells. Milliseconds are processor time of the training process,
median over its steps.
"""


def _cells(row: Row) -> list[str]:
    values = {key: row.shown.get(key) for key in COLUMNS}
    return ["–" if values[key] is None else format(values[key], form) for key, (_, form) in COLUMNS.items()]


def _changes(changes: Mapping[str, Mapping[str, Any]]) -> str:
    return "; ".join(f"`{section}.{key}: {value}`" for section, values in changes.items() for key, value in values.items()) or "–"
