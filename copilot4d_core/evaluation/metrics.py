# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How far a reconstruction lies from the scan: depth, cloud, voxel and code metrics.

What goes in: NumPy arrays in metres, tokens as uint16. What comes out: plain numbers; no torch.
Unusual: an empty cloud never scores as perfect, and a ray that met nothing is charged, not dropped.
Shape legend: R rays, N predicted points, M true points, K codes, H W token map.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from copilot4d_core.grid import BoolArray, FloatArray, Grid

DoubleArray = npt.NDArray[np.float64]
CountArray = npt.NDArray[np.int64]


class DepthMetrics(NamedTuple):
    """Depth error over rays. NaN everywhere when there was no ray."""

    l1_mean_m: float
    l1_median_m: float
    within_0p2m: float
    """Share of rays, 0 to 1; a missed ray is never within."""
    within_1m: float
    abs_rel: float
    """Mean of |error| / true distance; a ratio, not percent."""


class DepthErrors(NamedTuple):
    """Error of each ray of one or more scans."""

    absolute_m: FloatArray
    """(R,) float32."""
    relative: FloatArray
    """(R,) float32: absolute error over true distance."""
    missed: BoolArray
    """(R,) bool: the model says the ray met nothing."""


def region_exit_m(origins_m: FloatArray, directions: FloatArray, grid: Grid) -> FloatArray:
    """Distance at which each ray leaves the region (slab test).

    Args:
        origins_m: (R, 3) float32, metres.
        directions: (R, 3) float32, unit length.
    Returns:
        (R,) float32, metres; NaN for a ray that never is in the region.
    """
    origins, towards = origins_m.astype(np.float64), directions.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low = (grid.minimum_m - origins) / towards
        to_high = (grid.maximum_m - origins) / towards
    parallel = towards == 0.0
    between = (origins >= grid.minimum_m) & (origins < grid.maximum_m)
    enter = np.where(parallel, np.where(between, -np.inf, np.inf), np.minimum(to_low, to_high)).max(axis=1)
    leave = np.where(parallel, np.where(between, np.inf, -np.inf), np.maximum(to_low, to_high)).min(axis=1)
    return np.where((leave > enter) & (leave > 0.0), leave, np.nan).astype(np.float32)


def depth_errors(depth_m: FloatArray, truth_m: FloatArray, exit_m: FloatArray) -> DepthErrors:
    """Depth error of each ray; a ray that met nothing counts as free up to where it leaves the region.

    Dropping missed rays would reward a model for saying nothing where it is unsure, so a miss has the depth `exit_m`.

    Args:
        depth_m: (R,) float32, metres; NaN or infinite for a ray that met nothing.
        truth_m: (R,) float32, metres, above 0: distance of the return.
        exit_m: (R,) float32, metres: distance at which the ray leaves the region.
    Raises:
        ValueError: shapes differ, or a true distance is not a finite number above 0.
    """
    if not depth_m.shape == truth_m.shape == exit_m.shape or depth_m.ndim != 1:
        raise ValueError("depth_errors: expected three arrays of shape (R,), "
                         f"got {depth_m.shape}, {truth_m.shape} and {exit_m.shape}")
    if not np.all(np.isfinite(truth_m) & (truth_m > 0.0)):
        raise ValueError("depth_errors: expected finite true distances above 0 m; drop the points at the origin first")
    missed = ~np.isfinite(depth_m)
    absolute = np.abs(np.where(missed, exit_m, depth_m).astype(np.float64) - truth_m)
    return DepthErrors(absolute.astype(np.float32), (absolute / truth_m).astype(np.float32), missed)


def depth_metrics(errors: list[DepthErrors]) -> DepthMetrics:
    """Depth metrics over the rays of all scans together (a scan with more rays weighs more)."""
    absolute = np.concatenate([e.absolute_m for e in errors]) if errors else np.zeros(0, np.float32)
    if absolute.size == 0:
        return DepthMetrics(math.nan, math.nan, math.nan, math.nan, math.nan)
    hit = ~np.concatenate([e.missed for e in errors])
    return DepthMetrics(
        l1_mean_m=float(absolute.mean(dtype=np.float64)),
        l1_median_m=float(np.median(absolute)),
        within_0p2m=float(np.mean(hit & (absolute <= 0.2))),
        within_1m=float(np.mean(hit & (absolute <= 1.0))),
        abs_rel=float(np.concatenate([e.relative for e in errors]).mean(dtype=np.float64)),
    )


class CloudDistances(NamedTuple):
    """Distance from each point to the nearest point of the other cloud; infinite when the other cloud is empty."""

    to_truth_m: DoubleArray
    """(N,) float64: of each predicted point."""
    to_prediction_m: DoubleArray
    """(M,) float64: of each true point."""


def cloud_distances(prediction_m: FloatArray, truth_m: FloatArray) -> CloudDistances:
    """Nearest-neighbour distances both ways, between all points.

    Args:
        prediction_m: (N, 3) float32, metres, finite.
        truth_m: (M, 3) float32, metres, finite.
    """
    return CloudDistances(_nearest_m(prediction_m, truth_m), _nearest_m(truth_m, prediction_m))


def _nearest_m(points_m: FloatArray, others_m: FloatArray) -> DoubleArray:
    if len(points_m) == 0 or len(others_m) == 0:
        return np.full(len(points_m), np.inf)
    distance, _ = cKDTree(others_m, balanced_tree=False, compact_nodes=False).query(points_m)
    return np.asarray(distance, dtype=np.float64)


def chamfer_m(distances: CloudDistances) -> float:
    """Chamfer distance in metres: the mean of both one-way mean distances; infinite without prediction, NaN without truth."""
    return _chamfer(distances, power=1)


def chamfer_m2(distances: CloudDistances) -> float:
    """Chamfer distance in square metres: the mean of both one-way mean squared distances.

    Source: the evaluation of 4D-Occ (CVPR 2023), whose published numbers are squared; an empty cloud scores 0 there.
    Infinite without prediction, NaN without truth.
    """
    return _chamfer(distances, power=2)


def _chamfer(distances: CloudDistances, power: int) -> float:
    if distances.to_prediction_m.size == 0:
        return math.nan
    if distances.to_truth_m.size == 0:
        return math.inf
    return float(np.mean(distances.to_truth_m**power) + np.mean(distances.to_prediction_m**power)) / 2.0


def fscore(distances: CloudDistances, within_m: float) -> float:
    """Harmonic mean of precision and recall at a distance; 0 without prediction, NaN without truth.

    Args:
        within_m: precision is the share of predicted points that have a true point at most this far away, recall the reverse.
    """
    if distances.to_prediction_m.size == 0:
        return math.nan
    if distances.to_truth_m.size == 0:
        return 0.0
    precision = float(np.mean(distances.to_truth_m <= within_m))
    recall = float(np.mean(distances.to_prediction_m <= within_m))
    return 2.0 * precision * recall / (precision + recall) if precision + recall > 0.0 else 0.0


def voxel_iou(prediction_m: FloatArray, truth_m: FloatArray, grid: Grid) -> float:
    """Voxels that hold points of both clouds over voxels that hold a point of either; NaN without truth.

    Points outside the region are left out.

    Args:
        prediction_m: (N, 3) float32, metres.
        truth_m: (M, 3) float32, metres.
    """
    predicted, true = _occupied_voxels(prediction_m, grid), _occupied_voxels(truth_m, grid)
    if true.size == 0:
        return math.nan
    both = np.intersect1d(predicted, true, assume_unique=True).size
    return float(both / (predicted.size + true.size - both))


def _occupied_voxels(points_m: FloatArray, grid: Grid) -> CountArray:
    row, column, layer = grid.voxel_index(points_m[grid.inside(points_m)]).T.astype(np.int64)
    _, columns, layers = grid.voxels_YXZ
    return np.unique((row * columns + column) * layers + layer)


def code_counts(tokens: npt.NDArray[np.uint16], codebook_size: int) -> CountArray:
    """How often each code is used.

    Args:
        tokens: uint16 of any shape.
    Returns:
        (K,) int64.
    Raises:
        ValueError: a token is no code.
    """
    if tokens.size and int(tokens.max()) >= codebook_size:
        raise ValueError(f"code_counts: expected tokens below {codebook_size}, got {int(tokens.max())}")
    return np.bincount(tokens.ravel(), minlength=codebook_size).astype(np.int64)


def code_usage(counts: CountArray) -> float:
    """Share of the codes that are used at least once, 0 to 1."""
    return float(np.mean(counts > 0))


def perplexity(counts: CountArray) -> float:
    """exp(entropy) of a code histogram: 1 when one code does everything, K when all are used alike; NaN without tokens."""
    if counts.sum() == 0:
        return math.nan
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def bits_per_scan(grid: Grid) -> int:
    """Fixed rate of one token grid in bits: H W ceil(log2 K), no entropy coding."""
    rows, columns = grid.tokens_HW
    return rows * columns * (grid.config.quantizer.codebook_size - 1).bit_length()
