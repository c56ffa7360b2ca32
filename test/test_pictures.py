# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Pictures show what they are given, and do not fail where there is nothing to show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from copilot4d_core.config import preset
from copilot4d_core.evaluation.colours import token_colours
from copilot4d_core.evaluation.pictures import bev_figure, depth_figure, depth_picture, save_figure
from copilot4d_core.grid import Grid

GRID = Grid(preset("tiny"))


def test_error_panel_is_reconstruction_minus_input() -> None:
    true = np.full((4, 8), 5, dtype=np.float32)
    found = true.copy()
    found[1, 2], found[3, 0] = 4.5, np.nan
    panels: Any = depth_figure(true, found).axes[:3]
    depth, reconstruction, error = (axes.images[0].get_array() for axes in panels)
    assert np.all(depth == 5)
    assert reconstruction[1, 2] == 4.5 and reconstruction.mask[3, 0]
    assert error[1, 2] == -0.5 and error.mask.sum() == 1 and np.abs(error).sum() == 0.5


def test_one_row_of_panels_per_frame() -> None:
    frames = np.ones((3, 4, 8), dtype=np.float32)
    assert sum(bool(axes.images) for axes in depth_figure(frames, frames).axes) == 9


def test_points_are_drawn_where_they_are() -> None:
    points = np.array([[7, -3, 1]], dtype=np.float32)
    panel: Any = bev_figure(points, points, GRID).axes[0]
    assert panel.collections[0].get_offsets().tolist() == [[7.0, -3.0]]
    assert panel.get_xlim() == (-10, 10) and panel.get_ylim() == (-10, 10)


@pytest.mark.filterwarnings("error")
def test_nothing_to_show_is_a_picture_too(tmp_path: Path) -> None:
    nothing = np.full((4, 8), np.nan, dtype=np.float32)
    empty = np.zeros((0, 3), dtype=np.float32)
    for number, figure in enumerate([depth_figure(nothing, nothing), depth_picture(nothing), bev_figure(empty, empty, GRID)]):
        save_figure(figure, tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as image:
            assert image.width > image.height > 300


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8\).*\(4, 9\)"):
        depth_figure(np.zeros((4, 8), dtype=np.float32), np.zeros((4, 9), dtype=np.float32))


def test_empty_cells_are_dim_and_codes_have_their_own_colour() -> None:
    tokens = np.array([[1, 2], [1, 2]], dtype=np.uint16)
    colours = token_colours(tokens, np.array([[True, True], [False, False]]))
    assert colours.shape == (2, 2, 3) and colours.min() >= 0 and colours.max() <= 1
    assert colours[1].max() < 0.3 < colours[0].max()
    assert np.abs(colours[0, 0] - colours[0, 1]).max() > 0.2
