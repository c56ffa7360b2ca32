# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The curves of `scaling.py` as a table with their slopes, and as a picture.

What goes in: rows. What comes out: text, and a matplotlib figure that needs no display: times above, memory below, a column an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.table import Table

from copilot4d_core.benchmark.identity import identity
from copilot4d_core.benchmark.scaling import AXES, MEMORY, TOTAL, Row, curve, slopes
from copilot4d_core.benchmark.stages_picture import COLOURS
from copilot4d_core.benchmark.work import STAGES


def print_scaling(rows: Sequence[Row], title: str, console: Console | None = None) -> None:
    """Print a table for each axis, its slopes in the last two lines."""
    console = console or Console()
    shown = console if console.is_terminal else Console(file=console.file, width=110)
    found = slopes(rows)
    for axis in dict.fromkeys(row.axis for row in rows):
        table = Table(title=f"{AXES[axis]}: {title}")
        for heading in (axis, *(f"{stage} (ms)" for stage in (*STAGES, TOTAL)), "memory (MiB)"):
            table.add_column(heading, justify="right")
        for row in (row for row in rows if row.axis == axis):
            table.add_row(f"{row.value:,}", *(f"{row.ms[stage]:.2f}" for stage in (*STAGES, TOTAL)), f"{row.memory_mib:.0f}")
        if axis in found:
            table.add_section()
            for label, place in (("slope", 0), ("at the end", 1)):
                table.add_row(label, *(f"{found[axis][name][place]:.2f}" for name in (*STAGES, TOTAL, MEMORY)))
        shown.print(table)


def scaling_tree(rows: Sequence[Row], title: str) -> dict[str, Any]:
    """Plain values of all curves, for JSON."""
    found = {axis: {name: slope._asdict() for name, slope in curves.items()} for axis, curves in slopes(rows).items()}
    return {"mode": "scaling", "title": title, **identity(), "rows": [row._asdict() for row in rows], "slopes": found}


def scaling_figure(rows: Sequence[Row]) -> Figure:
    """Times and memory over each axis, both scales logarithmic; the legend names the slope of each line."""
    axes_names = list(dict.fromkeys(row.axis for row in rows))
    figure = Figure(figsize=(4.4 * len(axes_names), 6.6), dpi=130, layout="constrained")
    panels: Any = figure.subplots(2, len(axes_names), squeeze=False, sharey="row", height_ratios=[2, 1])
    found = slopes(rows)
    for place, axis in enumerate(axes_names):
        mine = [row for row in rows if row.axis == axis]
        for name in (*STAGES, TOTAL):
            slope = f"  {found[axis][name].whole:.2f}" if axis in found else ""
            _line(panels[0, place], mine, name, f"{name}{slope}")
        _line(panels[1, place], mine, MEMORY, f"memory  {found[axis][MEMORY].whole:.2f}" if axis in found else MEMORY)
        for panel in panels[:, place]:
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.set_xticks([row.value for row in mine], [_short(row.value) for row in mine])
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_major_formatter(FuncFormatter(_plain))
            panel.yaxis.set_minor_formatter(FuncFormatter(_plain if panel is panels[1, place] else lambda value, _: ""))
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.set_axisbelow(True)
            panel.legend(fontsize=8, frameon=False, loc="upper left", title="slope" if panel is panels[0, place] else None, title_fontsize=8)
        panels[1, place].set_xlabel(AXES[axis])
    panels[0, 0].set_ylabel("ms, median")
    panels[1, 0].set_ylabel("MiB")
    _headroom(panels[0, 0], 12.0)
    _headroom(panels[1, 0], 2.0)
    return figure


def _line(panel: Axes, rows: Sequence[Row], name: str, label: str) -> None:
    colour = COLOURS.get(name, "#000000")
    panel.plot([row.value for row in rows], curve(rows, name), color=colour, marker="o", markersize=4, linewidth=2.2 if name == TOTAL else 1.5,
               label=label)


def _headroom(panel: Axes, factor: float) -> None:
    """Room for the legend above the lines; panels of a row share their scale."""
    low, high = panel.get_ylim()
    panel.set_ylim(low, high * factor)


def _plain(value: float, _: Any) -> str:
    """A tick at 1, 2 or 5 of a decade as a plain number; no text at others."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def _short(value: int) -> str:
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g}{sign}"
    return str(value)
