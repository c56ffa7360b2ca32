"""From what the ray march wrote to what a runner returns."""

from __future__ import annotations

import numpy as np

from copilot4d_core.deploy.runner import Rendering
from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.ray_march import MEDIAN, OPACITY, STRONGEST, WEIGHTED


def rendering_from_march(marched_4R: FloatArray, opacity_threshold: float) -> Rendering:
    """What `march_rays` wrote, with NaN for every ray that met nothing.

    Args:
        marched_4R: (4, R) float32, see `kernels.ray_march`.
        opacity_threshold: least opacity of a ray that met something.
    """
    met = marched_4R[OPACITY] >= opacity_threshold
    nothing = np.float32(np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.where(met, marched_4R[WEIGHTED] / marched_4R[OPACITY], nothing)
    return Rendering(expected, marched_4R[OPACITY], np.where(met, marched_4R[MEDIAN], nothing), np.where(met, marched_4R[STRONGEST], nothing))
