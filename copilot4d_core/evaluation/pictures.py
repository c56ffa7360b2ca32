# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Pictures of reconstructions: depth images and the view from above, as matplotlib figures.

What goes in: range images (rows, columns) in metres with NaN for nothing, or points in metres. What comes out: figures
that need no display. Unusual: drawn without pyplot, so nothing is kept open behind the caller's back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.evaluation.colours import DEPTH_PALETTE, ERROR_LIMIT_M, ERROR_PALETTE, far_limit_m, height_limits_m
from copilot4d_core.grid import FloatArray, Grid

TITLES = ("input (grey: no return)", "reconstruction (grey: met nothing)", "error (red: too near)")
POINT_AREA = 0.4
"""Marker area in points squared; a scan has about 100,000 points."""


def depth_figure(input_m: FloatArray, reconstruction_m: FloatArray) -> Figure:
    """Input, reconstruction and error side by side, one row per frame, on common colour scales.

    Args:
        input_m: (rows, columns) or (frames, rows, columns) float32, metres; NaN where the sensor got no return.
        reconstruction_m: same shape; NaN where the ray met nothing.
    Raises:
        ValueError: shapes differ or are no images.
    """
    if input_m.shape != reconstruction_m.shape or input_m.ndim not in (2, 3):
        raise ValueError(f"depth_figure: expected two images (rows, columns) or (frames, rows, columns) of one shape, "
                         f"got {input_m.shape} and {reconstruction_m.shape}")
    inputs = input_m.reshape(-1, *input_m.shape[-2:])
    outputs = reconstruction_m.reshape(inputs.shape)
    figure = Figure(figsize=(18.0, 1.2 + 1.9 * len(inputs)), dpi=120, layout="constrained")
    grid: Any = figure.subplots(len(inputs), 3, squeeze=False, sharex=True, sharey=True)
    far_m = far_limit_m(inputs)
    for row, (true_m, found_m) in enumerate(zip(inputs, outputs, strict=True)):
        titles = TITLES if row == 0 else ("", "", "")
        depth = draw_depth(grid[row, 0], true_m, titles[0], far_m)
        draw_depth(grid[row, 1], found_m, titles[1], far_m)
        error = draw_error(grid[row, 2], found_m - true_m, titles[2])
    for axes in grid.flat:
        axes.label_outer()
    figure.colorbar(depth, ax=grid[:, 1], label="depth (m)", extend="max", pad=0.01)
    figure.colorbar(error, ax=grid[:, 2], label="reconstruction - input (m)", extend="both", pad=0.01)
    return figure


def depth_picture(depth_m: FloatArray) -> Figure:
    """One depth image with axes and a colour bar.

    Args:
        depth_m: (rows, columns) float32, metres; NaN where the ray met nothing.
    """
    figure = Figure(figsize=(14.0, 3.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    hit = float(np.mean(np.isfinite(depth_m)))
    title = f"depth from tokens ({100 * hit:.0f} % of the rays met something; grey: nothing)"
    image = draw_depth(axes, depth_m, title, far_limit_m(depth_m))
    figure.colorbar(image, ax=axes, label="depth (m)", extend="max", pad=0.01)
    return figure


def bev_figure(input_m: FloatArray, reconstruction_m: FloatArray, grid: Grid) -> Figure:
    """Input and reconstructed points from above, coloured by height on one scale, over the model's region.

    Args:
        input_m: (N, 3) float32, metres.
        reconstruction_m: (M, 3) float32, metres.
    """
    figure = Figure(figsize=(15.0, 7.4), dpi=120, layout="constrained")
    panels: Any = figure.subplots(1, 2, sharex=True, sharey=True)
    shown = input_m[grid.inside(input_m)]
    low, high = height_limits_m(shown, grid)
    for axes, points_m, title in ((panels[0], shown, "input"), (panels[1], reconstruction_m, "reconstruction")):
        points_m = points_m[np.argsort(points_m[:, 2], kind="stable")]
        dots = axes.scatter(points_m[:, 0], points_m[:, 1], c=points_m[:, 2], s=POINT_AREA, linewidths=0,
                            cmap=DEPTH_PALETTE, vmin=low, vmax=high)
        axes.set(title=f"{title}: {len(points_m)} points", xlabel="x, forward (m)", aspect="equal", facecolor="black",
                 xlim=(grid.minimum_m[0], grid.maximum_m[0]), ylim=(grid.minimum_m[1], grid.maximum_m[1]))
    panels[0].set_ylabel("y, left (m)")
    figure.colorbar(dots, ax=panels, label="height z (m)", extend="both", pad=0.01)
    return figure


def draw_depth(axes: Axes, depth_m: FloatArray, title: str, far_m: float) -> AxesImage:
    """Draw one range image; row 0 (the highest beam) on top, the middle column ahead."""
    return _draw(axes, depth_m, title, DEPTH_PALETTE, 0.0, far_m)


def draw_error(axes: Axes, error_m: FloatArray, title: str) -> AxesImage:
    """Draw a signed depth error: red is too near, blue too far; NaN where either image has nothing."""
    return _draw(axes, error_m, title, ERROR_PALETTE, -ERROR_LIMIT_M, ERROR_LIMIT_M)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; an existing file is replaced at once or left as it was."""
    with replacing_file(path) as file:
        figure.savefig(file, format="png")


def _draw(axes: Axes, image: FloatArray, title: str, palette: Colormap, low: float, high: float) -> AxesImage:
    columns = image.shape[1]
    drawn = axes.imshow(np.ma.masked_invalid(image), cmap=palette, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_title(title)
    axes.set_xticks([share * columns for share in (0, 0.25, 0.5, 0.75)], ["180 back", "90 left", "0 ahead", "-90 right"])
    axes.set_xlabel("azimuth (degrees)")
    axes.set_ylabel("beam (0 = highest)")
    return drawn
