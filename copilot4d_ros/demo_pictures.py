# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: depth images, the view from above, and the token grid over time.

Depth and view from above are drawn as everywhere in the project (evaluation/pictures.py); here is what only the demo draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from copilot4d_core.evaluation.colours import token_colours
from copilot4d_core.evaluation.pictures import bev_figure, depth_figure, save_figure
from copilot4d_core.grid import Grid
from copilot4d_ros.demo_report import DemoFrame

_SHOWN = 4
"""Frames in a picture."""


def write_pictures(folder: Path, frames: Sequence[DemoFrame], grid: Grid) -> None:
    """Write depth.png, bev.png and tokens.png.

    Args:
        folder: exists; pictures of an earlier run are replaced.
        frames: at least one, in order of time.
    """
    shown = spread(frames)
    depth = depth_figure(np.stack([frame.input_depth_m for frame in shown]), np.stack([frame.depth_m for frame in shown]))
    for axes, frame in zip(depth.axes[::3], shown, strict=False):
        axes.set_ylabel(f"t = {_elapsed_s(frame, shown):.1f} s\nbeam (0 = highest)")
    save_figure(depth, folder / "depth.png")
    middle = frames[len(frames) // 2]
    save_figure(bev_figure(middle.inside_m, middle.points_m, grid), folder / "bev.png")
    save_figure(tokens_figure(shown, grid), folder / "tokens.png")


def spread(frames: Sequence[DemoFrame], count: int = _SHOWN) -> list[DemoFrame]:
    """At most `count` frames, evenly spread over time, the first and the last among them."""
    picks = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))
    return [frames[i] for i in picks]


def tokens_figure(frames: Sequence[DemoFrame], grid: Grid) -> Figure:
    """Token grids side by side in order of time, in metres, x to the right and y up as in the view from above."""
    figure = Figure(figsize=(4.6 * len(frames) + 0.6, 5.4), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, len(frames), squeeze=False, sharey=True)
    low, high = grid.minimum_m, grid.maximum_m
    for axes, frame in zip(panels[0], frames, strict=True):
        occupied = grid.occupied_tokens(frame.inside_m)
        axes.imshow(token_colours(frame.tokens, occupied), origin="lower", interpolation="nearest",
                    extent=(low[0], high[0], low[1], high[1]))
        codes = len(np.unique(frame.tokens[occupied]))
        axes.set(title=f"t = {_elapsed_s(frame, frames):.1f} s: {codes} codes in {np.count_nonzero(occupied)} cells", xlabel="x, forward (m)")
    panels[0, 0].set_ylabel("y, left (m)")
    rows, columns = grid.tokens_HW
    size_x, size_y = grid.token_size_m
    figure.suptitle(f"{rows} x {columns} tokens of {size_x:g} x {size_y:g} m; one colour a code; dim: no point in the cell")
    return figure


def _elapsed_s(frame: DemoFrame, frames: Sequence[DemoFrame]) -> float:
    return ((frame.scan.stamp_ns or 0) - (frames[0].scan.stamp_ns or 0)) / 1e9
