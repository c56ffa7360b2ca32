"""Which feature-grid cells a ray inside the skip mask can look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from copilot4d_core.grid import BoolArray, Grid


def cells_in_mask(mask_YXZ: BoolArray, grid: Grid) -> BoolArray:
    """Feature-grid cells inside the mask and the rim that trilinear interpolation reaches.

    Args:
        mask_YXZ: pooled skip mask, bool.
        grid: shapes.
    Returns:
        (Y, X, Z) bool over the feature grid.
    """
    rows, columns, _ = grid.feature_cells_YXZ
    cells = mask_YXZ.repeat(rows // mask_YXZ.shape[0], axis=0).repeat(columns // mask_YXZ.shape[1], axis=1)
    for axis in range(3):
        # A sample lies between the centres of its own cell and a neighbour's.
        lower, upper = _slices(cells, axis)
        grown = cells.copy()
        grown[lower] |= cells[upper]
        grown[upper] |= cells[lower]
        cells = grown
    return cells


def _slices(cells: npt.NDArray[np.bool_], axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    everything = [slice(None)] * cells.ndim
    lower, upper = list(everything), list(everything)
    lower[axis], upper[axis] = slice(None, -1), slice(1, None)
    return tuple(lower), tuple(upper)
