# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sums over contiguous ranges of rows: how points become voxels, voxels pillars, and pillars patch cells."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_sum(values_NC: Tensor, start_S1: Tensor) -> Tensor:
    """Sum of each contiguous range of rows.

    Args:
        values_NC: (N, C) float.
        start_S1: (S + 1,) int64, first row of each range and N at the end; no range is empty.
    Returns:
        (S, C). Differentiable in the values; sums run in row order.
    """
    return torch.segment_reduce(values_NC, "sum", offsets=start_S1, axis=0)
