# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Numbers of a demo run: how far the depth images lie from the clouds, what the tokens cost, what the node did.

What goes in: the clouds of the bag and what came back over the topics. What comes out: one dictionary for JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.evaluation.metrics import DepthErrors, bits_per_scan, depth_errors, depth_metrics, region_exit_m
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_ros.frame_statistics import DropReason


class DemoFrame(NamedTuple):
    """One cloud and what the node made of it."""

    scan: Scan
    inside_m: FloatArray
    """(N, 3) float32, metres: the cloud's points inside the model's region."""
    tokens: npt.NDArray[np.uint16]
    input_depth_m: FloatArray
    """(rows, columns) float32, metres: nearest of the inside points in each pixel; NaN for none."""
    depth_m: FloatArray
    """(rows, columns) float32, metres, as published."""
    points_m: FloatArray
    """(M, 3) float32, metres, as published."""


def demo_report(frames: Sequence[DemoFrame], played: int, pattern: SphericalPattern, grid: Grid, count: Callable[[str], int],
                diagnostics: Mapping[str, str]) -> dict[str, Any]:
    """The report of a run.

    Args:
        frames: the clouds that were answered.
        played: clouds that the player published.
        pattern: rays of the depth images.
        grid: of the node's model.
        count: reads a count of the node for this run.
        diagnostics: the node's last diagnostics, for the times.
    """
    bits = bits_per_scan(grid)
    raw_bytes = _mean([frame.scan.raw_bytes for frame in frames])
    return {
        **_depth(frames, pattern, grid),
        "points_in_mean": _mean([len(frame.scan.points_m) for frame in frames]),
        "points_in_region_mean": _mean([len(frame.inside_m) for frame in frames]),
        "points_out_mean": _mean([len(frame.points_m) for frame in frames]),
        "bits_per_scan": bits,
        "raw_bytes_per_scan_mean": raw_bytes,
        "compression": raw_bytes * 8 / bits,
        "frames_played": played,
        "frames_received": count("received"),
        "frames_processed": count("processed"),
        "frames_dropped": {reason.value: count(f"dropped_{reason.value}") for reason in DropReason},
        "frames_compared": len(frames),
        "stage_ms_median": {key.removesuffix("_median_ms"): float(value) for key, value in diagnostics.items()
                            if key.endswith("_median_ms")},
    }


def _depth(frames: Sequence[DemoFrame], pattern: SphericalPattern, grid: Grid) -> dict[str, float]:
    rays = pattern.rays(np.zeros(3, dtype=np.float32))
    exit_m = region_exit_m(rays.origins_m, rays.directions, grid)
    errors: list[DepthErrors] = []
    for frame in frames:
        seen = np.isfinite(frame.input_depth_m).ravel() & np.isfinite(exit_m)
        errors.append(depth_errors(frame.depth_m.ravel()[seen], frame.input_depth_m.ravel()[seen], exit_m[seen]))
    metrics = depth_metrics(errors)
    return {"depth_l1_mean_m": metrics.l1_mean_m, "depth_l1_median_m": metrics.l1_median_m,
            "rays_within_0p2m": metrics.within_0p2m, "rays_within_1m": metrics.within_1m,
            "rays_missed": float(np.mean(np.concatenate([e.missed for e in errors])))}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
