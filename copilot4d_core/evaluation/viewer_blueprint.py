# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How the viewer is laid out at first: what stands where, and where the eye is."""

from __future__ import annotations

import rerun.blueprint as rrb
from matplotlib.colors import to_rgb

from copilot4d_core.evaluation.surprise import CAP_M
from copilot4d_core.evaluation.viewer_legend import BACKGROUND
from copilot4d_core.grid import Grid

EYE = (-0.52, -0.08, 0.4)
"""Behind, a little to the right and above, as shares of the region's reach."""
TARGET = (0.06, 0.01, -0.04)


def blueprint(grid: Grid) -> rrb.Blueprint:
    """Points large on the left, depth images and tokens beside them, numbers over time below."""
    points = rrb.Vertical(
        _points("reconstruction, by height", "points/reconstruction", grid),
        rrb.Horizontal(_points("input, by height", "points/input", grid), _points("reconstruction, by error", "points/error", grid)),
        row_shares=[3, 2],
    )
    images = rrb.Vertical(
        _image("depth: input", "depth/input"), _image("depth: reconstruction", "depth/reconstruction"), _image("depth: error", "depth/error"),
        rrb.Horizontal(_image("tokens, ahead is up", "tokens"), _image("surprise", "surprise/map"), _image("colours", "legend")),
        row_shares=[1, 1, 1, 2],
    )
    codes = grid.config.quantizer.codebook_size
    numbers = rrb.Horizontal(
        _plot("median error (m)", "error", has_legend=False),
        _plot("surprise (m)", "surprise", rrb.ScalarAxis(range=(0.0, CAP_M)), has_legend=False),
        _plot("share of rays within", "share", rrb.ScalarAxis(range=(0.0, 1.0))),
        _plot(f"codes used of {codes}", "codes", rrb.ScalarAxis(range=(0.0, codes)), has_legend=False), _plot("milliseconds", "ms"),
    )
    return rrb.Blueprint(
        rrb.Vertical(rrb.Horizontal(points, images, column_shares=[3, 2]), numbers, row_shares=[7, 2]),
        rrb.TimePanel(state="collapsed", timeline="frame", fps=10.0),
        rrb.BlueprintPanel(state="collapsed"), rrb.SelectionPanel(state="collapsed"),
    )


def _points(name: str, path: str, grid: Grid) -> rrb.Spatial3DView:
    reach_m = float(grid.maximum_m[0])
    eye = rrb.EyeControls3D(position=[reach_m * share for share in EYE], look_target=[reach_m * share for share in TARGET],
                            eye_up=(0.0, 0.0, 1.0))
    return rrb.Spatial3DView(origin="/", contents=[path, "region"], name=name, background=rrb.Background(color=to_rgb(BACKGROUND), kind="SolidColor"),
                             line_grid=False, eye_controls=eye)


def _image(name: str, path: str) -> rrb.Spatial2DView:
    return rrb.Spatial2DView(origin=path, name=name)


def _plot(name: str, path: str, axis: rrb.ScalarAxis | None = None, has_legend: bool = True) -> rrb.TimeSeriesView:
    legend = rrb.PlotLegend(rrb.Corner2D.RightBottom, visible=has_legend)
    return rrb.TimeSeriesView(origin=path, name=name, plot_legend=legend, axis_y=axis)
