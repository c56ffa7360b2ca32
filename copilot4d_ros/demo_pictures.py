"""The demo's pictures: depth images, the view from above, and the token grid over time.

Depth and view from above are drawn as everywhere in the project (evaluation/pictures.py); here is what only the demo draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.evaluation.metrics import occupied_tokens
from copilot4d_core.evaluation.pictures import bev_figure, depth_figure, save_figure
from copilot4d_core.grid import BoolArray, Grid
from copilot4d_ros.demo_report import DemoFrame

_SHOWN = 4
"""Frames in a picture."""
_GOLDEN = 0.61803398875
"""Multiples of the golden ratio modulo 1 lie far apart, so neighbouring codes get different hues."""
_DIM = 0.22


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


def token_colours(tokens: TokenArray, occupied: BoolArray) -> npt.NDArray[np.float64]:
    """Colour of each token: one hue and lightness a code, dim where the cell holds no point.

    Args:
        tokens: (H, W) uint16.
        occupied: (H, W) bool: cells that hold a point of the input.
    Returns:
        (H, W, 3) RGB, 0 to 1.
    """
    hue = (tokens * _GOLDEN) % 1.0
    lightness = np.where(occupied, 0.75 + 0.25 * ((tokens * _GOLDEN**2) % 1.0), _DIM)
    colours: npt.NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.where(occupied, 0.7, 0.35), lightness], axis=-1))
    return colours


def tokens_figure(frames: Sequence[DemoFrame], grid: Grid) -> Figure:
    """Token grids side by side in order of time, in metres, x to the right and y up as in the view from above."""
    figure = Figure(figsize=(4.6 * len(frames) + 0.6, 5.4), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, len(frames), squeeze=False, sharey=True)
    low, high = grid.minimum_m, grid.maximum_m
    for axes, frame in zip(panels[0], frames, strict=True):
        occupied = occupied_tokens(frame.inside_m, grid)
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
