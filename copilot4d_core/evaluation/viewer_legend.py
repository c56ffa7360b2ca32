# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The legend of the viewer: what the colours of heights, depths and errors stand for, as one picture."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from copilot4d_core.evaluation.colours import DEPTH_PALETTE, ERROR_LIMIT_M, ERROR_PALETTE, NOTHING_COLOUR, SURPRISE_PALETTE
from copilot4d_core.evaluation.surprise import CAP_M

BACKGROUND = "#0d1011"
"""Of the viewer's dark theme."""
INK = "#cad8de"


def legend(height_m: tuple[float, float], far_m: float) -> bytes:
    """Four colour bars with their units, and the grey of nothing.

    Args:
        height_m: heights at the ends of the palette.
        far_m: depth at the far end of the palette.
    Returns:
        PNG.
    """
    figure = Figure(figsize=(4.4, 4.1), dpi=160, layout="constrained", facecolor=BACKGROUND)
    panels: Any = figure.subplots(5, 1, height_ratios=[3, 3, 3, 3, 1])
    _bar(figure, panels[0], DEPTH_PALETTE, *height_m, "height z (m)", "both")
    _bar(figure, panels[1], DEPTH_PALETTE, 0.0, far_m, "depth along the ray (m)", "max")
    _bar(figure, panels[2], ERROR_PALETTE, -ERROR_LIMIT_M, ERROR_LIMIT_M, "error (m): red too near, blue too far", "both")
    _bar(figure, panels[3], SURPRISE_PALETTE, 0.0, CAP_M, "surprise: mean error of a cell's returns (m)", "neither")
    panels[4].set_facecolor(NOTHING_COLOUR)
    panels[4].set(xticks=[], yticks=[])
    panels[4].set_xlabel("no return, met nothing, outside the region", color=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _bar(figure: Figure, axes: Any, palette: Colormap, low: float, high: float, label: str, extend: str) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), palette), cax=axes, orientation="horizontal", extend=extend)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(colors=INK)
    bar.outline.set_edgecolor(INK)
