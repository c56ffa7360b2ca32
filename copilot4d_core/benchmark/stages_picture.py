# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The stages of a frame as stacked bars, one bar a run, with each stage's floor below it.

What goes in: results of `result_tree`. What comes out: a matplotlib figure that needs no display.
Unusual: told apart by Okabe and Ito's colours, which colour-blind readers see, and by the name in or below each part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = {"receive": "#999999", "convert": "#F0E442", "voxelize": "#E69F00", "encode": "#56B4E9", "decode": "#0072B2", "render": "#009E73",
           "publish": "#CC79A7"}
OTHER = "#D55E00"
BAR, FLOOR = 0.5, 0.14
"""Heights of a bar and of its floors, where runs lie 1 apart."""
NARROWEST = 0.05
"""Share of the axis below which a part is too narrow for its number."""


def stages_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """A bar for each result: medians of its stages side by side, and the floors of the same stages, thin, below.

    Args:
        results: at least one, drawn from the top.
    """
    figure = Figure(figsize=(10.0, 1.7 + 1.0 * len(results)), dpi=150, layout="constrained")
    axes = figure.subplots()
    period_ms = 1e3 / results[0]["rate_hz"]
    longest_ms = max(sum(row["p50"] for row in result["stage_ms"].values()) for result in results)
    end_ms = 1.17 * max(longest_ms, period_ms if longest_ms > 0.25 * period_ms else longest_ms)
    for place, result in enumerate(results):
        _draw(axes, -place, result, end_ms)
    if period_ms < end_ms:
        axes.axvline(period_ms, color="#444444", linewidth=1, linestyle="--")
        side = "left" if period_ms < 0.5 * end_ms else "right"
        axes.annotate(f"{period_ms:g} ms: the next scan", (period_ms, 0.62), (4 if side == "left" else -4, 0), textcoords="offset points",
                      color="#444444", fontsize=9, ha=side, va="bottom")
    axes.set_xlim(0, end_ms)
    axes.set_ylim(-len(results) + 0.35, 0.95)
    axes.set_yticks([-place for place in range(len(results))], [_name(result) for result in results])
    axes.set_xlabel("ms, median of each stage; thin below it: its floor on this machine")
    axes.spines[["top", "right"]].set_visible(False)
    shown = {stage for result in results for stage in result["stage_ms"]}
    stages = [*(stage for stage in COLOURS if stage in shown), *sorted(shown - set(COLOURS))]
    figure.legend(handles=[Patch(color=COLOURS.get(stage, OTHER), label=stage) for stage in stages], loc="outside upper center", ncols=len(stages),
                  frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, height: float, result: Mapping[str, Any], end_ms: float) -> None:
    left = floor_left = 0.0
    for stage, row in result["stage_ms"].items():
        colour = COLOURS.get(stage, OTHER)
        axes.barh(height, row["p50"], BAR, left=left, color=colour, edgecolor="white", linewidth=0.8)
        if row["p50"] > NARROWEST * end_ms:
            axes.annotate(f"{row['p50']:.1f}", (left + row["p50"] / 2, height), ha="center", va="center", fontsize=9, color=_ink(colour))
        left += row["p50"]
        if row["floor"]:
            axes.barh(height - BAR / 2 - FLOOR / 2 - 0.03, row["floor"], FLOOR, left=floor_left, color=colour)
            floor_left += row["floor"]
    axes.annotate(f"{left:.1f} ms", (left, height), (5, 0), textcoords="offset points", va="center", fontsize=9.5, fontweight="bold",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0}, zorder=3)
    if floor_left:
        axes.annotate(f"floor {floor_left:.1f}", (floor_left, height - BAR / 2 - FLOOR / 2 - 0.03), (4, 0), textcoords="offset points", va="center",
                      fontsize=8)


def _ink(colour: str) -> str:
    red, green, blue = (int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _name(result: Mapping[str, Any]) -> str:
    settings = result["config"]
    rays = f", {settings['rays']:,} rays" if "render" in result["stage_ms"] else ""
    return f"{settings['preset']}, {result['runner']}\n{result['mode']}\n{settings['points']:,} points{rays}"
