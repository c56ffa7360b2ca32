# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Colours of depths, heights, errors and tokens: the same in every picture and in the viewer.

What goes in: numbers in metres, NaN for nothing, or tokens. What comes out: RGB.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap, hsv_to_rgb

from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import BoolArray, FloatArray, Grid

Pixels = npt.NDArray[np.uint8]
"""(..., 3) RGB, 0 to 255."""

NOTHING_COLOUR = "#7a7a7a"
"""Where there is no number: a grey that neither palette has."""
DEPTH_PALETTE = matplotlib.colormaps["turbo"].with_extremes(bad=NOTHING_COLOUR)
"""Of depths and heights."""
ERROR_PALETTE = matplotlib.colormaps["RdBu"].with_extremes(bad=NOTHING_COLOUR)
"""Of reconstruction - input: red is too near, white exact, blue too far."""
ERROR_LIMIT_M = 1.0
SURPRISE_PALETTE = matplotlib.colormaps["magma"].with_extremes(bad=NOTHING_COLOUR)
"""Of surprise: dark is explained."""
FAR_PERCENTILE = 98.0
HEIGHT_PERCENTILES = (1.0, 99.0)
GROUND_LIFT = 0.35
"""Share of the height range kept free below the ground, whose points would else be too dark to see on black."""
_GOLDEN = 0.61803398875
"""Multiples of the golden ratio modulo 1 lie far apart, so neighbouring codes get different hues."""
_DIM = 0.22


def far_limit_m(depth_m: FloatArray) -> float:
    """Depth at the far end of the palette; 1 when no pixel has a depth.

    Args:
        depth_m: float32 of any shape, metres; NaN for nothing.
    """
    seen = depth_m[np.isfinite(depth_m)]
    return float(np.percentile(seen, FAR_PERCENTILE)) if seen.size else 1.0


def height_limits_m(points_m: FloatArray, grid: Grid) -> tuple[float, float]:
    """Heights at the ends of the palette; those of the region when there is no point.

    Args:
        points_m: (N, 3) float32, metres.
    """
    heights_m = points_m[:, 2] if len(points_m) else np.array([grid.minimum_m[2], grid.maximum_m[2]])
    low, high = np.percentile(heights_m, HEIGHT_PERCENTILES)
    return float(low - GROUND_LIFT * (high - low)), float(high)


def colours(values: FloatArray, palette: Colormap, low: float, high: float) -> Pixels:
    """Colour of each number; the grey of nothing where it is not finite.

    Args:
        values: float32 of any shape.
        low, high: what the ends of the palette stand for; numbers beyond get the colours of the ends.
    Returns:
        (*shape, 3) uint8.
    """
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    coloured = palette(np.ma.masked_invalid(share), bytes=True)
    return np.asarray(coloured, dtype=np.uint8)[..., :3]


def error_colours(error_m: FloatArray) -> Pixels:
    """Colour of a signed error; NaN where there is nothing to compare.

    Args:
        error_m: float32 of any shape, metres: reconstruction - input.
    Returns:
        (*shape, 3) uint8.
    """
    return colours(error_m, ERROR_PALETTE, -ERROR_LIMIT_M, ERROR_LIMIT_M)


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
    rgb: npt.NDArray[np.float64] = hsv_to_rgb(np.stack([hue, np.where(occupied, 0.7, 0.35), lightness], axis=-1))
    return rgb
