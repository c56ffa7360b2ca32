# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Fixed positions of the cells of a map. Needs NumPy only, so that a robot without torch makes the same ones."""

from __future__ import annotations

import numpy as np

from copilot4d_core.grid import FloatArray


def sincos_positions(height: int, width: int, dim: int) -> FloatArray:
    """Sine-cosine positions, (height, width, dim) float32: the first half of the channels tells the row, the second the column.

    Source: ViT (Vaswani frequencies per axis).
    """
    frequency = np.exp(np.arange(dim // 4) * (-np.log(10_000.0) / (dim // 4)))
    row, column = (np.arange(length)[:, None] * frequency for length in (height, width))
    in_rows = np.concatenate([np.sin(row), np.cos(row)], axis=1)
    in_columns = np.concatenate([np.sin(column), np.cos(column)], axis=1)
    whole = np.concatenate([np.broadcast_to(in_rows[:, None], (height, width, dim // 2)),
                            np.broadcast_to(in_columns[None], (height, width, dim // 2))], axis=2)
    return whole.astype(np.float32)
