# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The picture of rate and distortion: Chamfer distance and F-score over the bytes of a scan.

What goes in: the mean rows of `rate_distortion.py`. What comes out: a matplotlib figure, a row of two panels for every data set.
Unusual: told apart by Okabe and Ito's colours, which colour-blind readers see, by sign, and by a label at the line: there is no legend.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from copilot4d_core.evaluation.rate_comparison import MEASURES, Measure, bytes_for, curve, is_best_rate
from copilot4d_core.evaluation.rate_distortion import DRACO, OCTREE, TOKENS, TRUE_RAYS, Row

BYTES = (200.0, 60000.0)
"""Ends of the axis: with fewer no codec gives a useful cloud, with more all are exact."""
TICKS = (500, 1000, 2000, 5000, 10000, 20000, 50000)
DISTANCES_M, DISTANCE_TICKS_M = (0.02, 1.0), (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FOOT = ("bytes a scan\nTokens are rendered along all rays of the sensor; * along those of the true returns, whose directions are not in the bytes.\n"
        "Filled: entropy-coded; hollow: the same tokens at the fixed rate. The codecs give back one point for every cell that holds some.")


class Style(NamedTuple):
    """How a codec or a model is drawn."""

    colour: str
    marker: str
    label: str
    label_at: tuple[float, ...] = ()
    """Value at which a codec's label stands beside its line, in each panel."""


CODECS = {OCTREE: Style("#0072B2", "s", "octree", (0.08, 0.35)), DRACO: Style("#D55E00", "^", "Draco", (0.12, 0.35))}
MODELS = {TOKENS: Style("#000000", "o", "tokens"), TRUE_RAYS: Style("#009E73", "D", "tokens, true rays *")}


def rate_figure(rows: list[Row]) -> Figure:
    """A line for every codec, a point for every model.

    Args:
        rows: means; see `rate_distortion.means`.
    """
    data_sets = list(dict.fromkeys(row.data_set for row in rows))
    figure = Figure(figsize=(9.0, 0.8 + 3.3 * len(data_sets)), dpi=200, layout="constrained")
    grid: Any = figure.subplots(len(data_sets), len(MEASURES), squeeze=False, sharex=True)
    for line, data_set in zip(grid, data_sets, strict=True):
        for panel, measure in enumerate(MEASURES):
            better = "lower" if measure.sign > 0 else "higher"
            line[panel].set_title(f"{data_set}: {measure.name} ({better} is better)", fontsize=9.5)
            _draw(line[panel], [row for row in rows if row.data_set == data_set], panel)
    figure.supxlabel(FOOT, fontsize=9)
    return figure


def _draw(axes: Axes, rows: list[Row], panel: int) -> None:
    measure = MEASURES[panel]
    _axis(axes, measure)
    for codec, style in CODECS.items():
        axes.plot(*_line(rows, codec, measure), color=style.colour, marker=style.marker, markersize=4, linewidth=1.5)
        left, value = codec == OCTREE, style.label_at[panel]
        _label(axes, style, (bytes_for(rows, rows[0].data_set, codec, measure, value), value), left, left == (measure.sign > 0))
    for codec, style in MODELS.items():
        coded = _line([row for row in rows if is_best_rate(row, rows) and math.isfinite(row.chamfer_m)], codec, measure)
        for row in rows:
            if row.codec == codec and not is_best_rate(row, rows):
                axes.plot(row.bytes, getattr(row, measure.field), color=style.colour, marker=style.marker, markersize=6, fillstyle="none")
        axes.plot(*coded, color=style.colour, marker=style.marker, markersize=7, linewidth=1.5, zorder=3)
        if coded[0]:  # else every cloud was empty, at an infinite distance
            _label(axes, style, (coded[0][0], coded[1][0]), True, (codec == TRUE_RAYS) == (measure.sign > 0))


def _line(rows: list[Row], codec: str, measure: Measure) -> tuple[list[float], list[float]]:
    return curve(rows, rows[0].data_set, codec, measure) if rows else ([], [])


def _label(axes: Axes, style: Style, point: tuple[float, float], left: bool, below: bool) -> None:
    """Name beside a point, on the side where no line of another colour runs."""
    axes.annotate(style.label, point, (-7 if left else 7, -2 if below else 2), textcoords="offset points", color=style.colour, fontsize=9.5,
                  ha="right" if left else "left", va="top" if below else "bottom")


def _axis(axes: Axes, measure: Measure) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*BYTES)
    axes.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
    axes.xaxis.set_minor_formatter(NullFormatter())
    if measure.sign > 0:
        axes.set_yscale("log")
        axes.set_ylim(*DISTANCES_M)
        axes.set_yticks(DISTANCE_TICKS_M)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} m"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0.0, 1.05)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
