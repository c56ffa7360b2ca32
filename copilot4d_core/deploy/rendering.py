# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""From what the ray march wrote to what a runner returns."""

from __future__ import annotations

import numpy as np

from copilot4d_core.deploy.runner import Rendering, Returns
from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.ray_march import FAR, FAR_WEIGHT, MEDIAN, NEAR, NEAR_WEIGHT, OPACITY, STRONGEST, WEIGHTED, Rows


def rendering_from_march(marched_KR: FloatArray, opacity_threshold: float) -> Rendering:
    """What `march_rays` wrote, with NaN for every ray that met nothing.

    Args:
        marched_KR: (4, R) float32, or (8, R) with returns; see `kernels.ray_march`.
        opacity_threshold: least opacity of a ray that met something.
    """
    met = marched_KR[OPACITY] >= opacity_threshold
    nothing = np.float32(np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(met, marched_KR[WEIGHTED] / marched_KR[OPACITY], nothing)
    returns = None
    if len(marched_KR) == Rows.RETURNS:
        weight = marched_KR[[NEAR_WEIGHT, FAR_WEIGHT]]
        returns = Returns(np.where(weight > 0, marched_KR[[NEAR, FAR]], nothing), weight)
    median, strongest = (np.where(met, marched_KR[row], nothing) for row in (MEDIAN, STRONGEST))
    return Rendering(expected, marched_KR[OPACITY], median, strongest, returns)
