# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a tokenizer on scans, one at a time: encode, decode along the true rays, compare.

What goes in: a runner and scans. What comes out: one dictionary per data set, and notes that belong beside its numbers.
Unusual: rays are those of the returns inside the region, rendered with the skip mask that the tokens predict, as when
deployed. The ground-truth mask gives part of the answer away; its depth metrics carry the suffix `_gt_mask`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.deploy.runner import Rendering, Runner, TokenArray
from copilot4d_core.evaluation import metrics
from copilot4d_core.evaluation.full_pattern import BeamCounts, beam_counts, beam_metrics, beam_note
from copilot4d_core.evaluation.surprise import scan_surprise_m, surprise_map
from copilot4d_core.grid import BoolArray, FloatArray, Grid

Metrics = dict[str, float]
MISSED_RULE = ("A ray that meets nothing is not dropped: its depth counts as the distance where it leaves the region, "
               "and it is never within 0.2 m or 1 m.")


@runtime_checkable
class DecodesWithMask(Protocol):
    """A runner that can also render with a given skip mask."""

    def decode_with_mask(self, tokens: TokenArray, rays: Rays, mask: BoolArray) -> Rendering:
        """What each ray meets; `mask` is (Y, X, Z) bool over the pooled skip-mask cells."""
        ...


class CloudMetrics(NamedTuple):
    """Metrics of one reconstructed cloud against the returns inside the region."""

    chamfer_m: float
    chamfer_m2: float
    fscore_0p1m: float
    fscore_0p2m: float
    voxel_iou: float


def cloud_metrics(prediction_m: FloatArray, truth_m: FloatArray, grid: Grid) -> CloudMetrics:
    """Cloud metrics of one scan; no point is left out or sampled away.

    Args:
        prediction_m: (N, 3) float32, metres.
        truth_m: (M, 3) float32, metres.
    """
    distances = metrics.cloud_distances(prediction_m, truth_m)
    return CloudMetrics(metrics.chamfer_m(distances), metrics.chamfer_m2(distances), metrics.fscore(distances, 0.1),
                        metrics.fscore(distances, 0.2), metrics.voxel_iou(prediction_m, truth_m, grid))


class Evaluation:
    """Metrics of one data set, gathered scan by scan; keeps 9 bytes per ray and mask for the pooled median."""

    def __init__(self, runner: Runner, sensor: BeamPattern | None = None) -> None:
        """Start with no scan.

        Args:
            runner: what is evaluated.
            sensor: whose beams are all rendered, too; None leaves the metrics of the full pattern out.
        """
        self._runner, self._sensor = runner, sensor
        self._beams: list[BeamCounts] = []
        self._of_several_sensors = 0
        self._grid = Grid(runner.config)
        self._depth: list[metrics.DepthErrors] = []
        self._depth_gt_mask: list[metrics.DepthErrors] = []
        self._clouds: list[CloudMetrics] = []
        self._surprise_m: list[float] = []
        self._counts_all = np.zeros(runner.config.quantizer.codebook_size, dtype=np.int64)
        self._counts_occupied = np.zeros_like(self._counts_all)
        self._left_out: list[str] = []

    def add(self, scan: Scan) -> None:
        """Encode, decode and compare one scan; a scan without a return inside the region is left out and noted."""
        inside = self._grid.inside(scan.points_m)
        truth_m = scan.points_m[inside]
        if len(truth_m) == 0:
            self._left_out.append(scan.name)
            return
        tokens = self._runner.encode(scan.points_m)
        self._count_codes(tokens, truth_m)
        rays, distance_m = rays_from_points(truth_m, scan.point_origins_m[inside])
        exit_m = metrics.region_exit_m(rays.origins_m, rays.directions, self._grid)
        depth_m = self._runner.depth(tokens, rays)
        self._depth.append(metrics.depth_errors(depth_m, distance_m, exit_m))
        self._surprise_m.append(scan_surprise_m(surprise_map(truth_m, distance_m, depth_m, self._grid)))
        self._clouds.append(cloud_metrics(points_on_rays(rays, depth_m), truth_m, self._grid))
        if self._sensor is not None and len(scan.origins_m) > 1:
            self._of_several_sensors += 1
        elif self._sensor is not None:
            rendered_m = self._runner.depth(tokens, self._sensor.rays(scan.origin_m))
            self._beams.append(beam_counts(self._sensor, scan, self._grid, rendered_m))
        if isinstance(self._runner, DecodesWithMask):
            mask = self._grid.pool_mask(self._grid.occupancy(truth_m))
            depth_m = self._runner.decode_with_mask(tokens, rays, mask).depth_m
            self._depth_gt_mask.append(metrics.depth_errors(depth_m, distance_m, exit_m))

    def _count_codes(self, tokens: TokenArray, truth_m: FloatArray) -> None:
        if tokens.shape != self._grid.tokens_HW:
            raise ValueError(f"evaluate: expected tokens of shape {self._grid.tokens_HW}, the runner gave {tokens.shape}")
        size = self._counts_all.size
        self._counts_all += metrics.code_counts(tokens, size)
        self._counts_occupied += metrics.code_counts(tokens[self._grid.occupied_tokens(truth_m)], size)

    def metrics(self) -> Metrics:
        """Metrics of the scans so far: depth over all their rays, clouds and surprise averaged over scans, codes over all their tokens.

        Raises:
            ValueError: no scan had a return inside the region.
        """
        if not self._clouds:
            raise ValueError("evaluate: expected at least one scan with returns inside the region, got none in "
                             f"{len(self._left_out)} scans; check the frame and unit of the points")
        result: Metrics = {"scans": len(self._clouds)}
        result.update(_depth_keys(self._depth, suffix=""))
        result.update({key: float(np.mean([cloud._asdict()[key] for cloud in self._clouds])) for key in CloudMetrics._fields})
        result["surprise_m"] = float(np.mean(self._surprise_m))
        result["code_usage_occupied"] = metrics.code_usage(self._counts_occupied)
        result["perplexity_occupied"] = metrics.perplexity(self._counts_occupied)
        result["perplexity_all"] = metrics.perplexity(self._counts_all)
        result["bits_per_scan"] = metrics.bits_per_scan(self._grid)
        if self._beams:
            result.update(beam_metrics(self._beams))
        if self._depth_gt_mask:
            result.update(_depth_keys(self._depth_gt_mask, suffix="_gt_mask"))
        return result

    def notes(self) -> list[str]:
        """What a reader of the numbers must know, one sentence each."""
        notes = [_missed_note(self._depth, "")] if self._depth else []
        if self._depth_gt_mask:
            notes.append(_missed_note(self._depth_gt_mask, " with the ground-truth mask"))
        elif self._depth:
            notes.append("This runner cannot render with a given mask, so the keys ending in _gt_mask are left out.")
        if self._sensor is not None and self._beams:
            notes.append(beam_note(self._sensor, self._beams))
        if self._of_several_sensors:
            notes.append(f"{self._of_several_sensors} scans are of several sensors, so the full pattern of one was not rendered for them.")
        empty = sum(math.isinf(cloud.chamfer_m) for cloud in self._clouds)
        if empty:
            notes.append(f"The reconstruction of {empty} scans is empty: the mean Chamfer distance is infinite.")
        if self._left_out:
            names = ", ".join(self._left_out)
            notes.append(f"{len(self._left_out)} scans without a return inside the region are left out: {names}.")
        return notes


def evaluate_scans(runner: Runner, scans: Iterable[Scan]) -> Metrics:
    """Metrics of a runner on the scans of one data set, read one at a time.

    Returns:
        The keys `scans`, the depth metrics, the cloud metrics, `surprise_m`, the code metrics and `bits_per_scan`; the depth metrics
        once more with the suffix `_gt_mask` when the runner can render with a given mask.
    Raises:
        ValueError: no scan has a return inside the region.
    """
    evaluation = Evaluation(runner)
    for scan in scans:
        evaluation.add(scan)
    return evaluation.metrics()


def points_on_rays(rays: Rays, depth_m: FloatArray) -> FloatArray:
    """Points at the given depths; rays that met nothing (NaN) give none.

    Args:
        depth_m: (R,) float32, metres.
    Returns:
        (N, 3) float32, metres, N at most R.
    """
    hit = np.isfinite(depth_m)
    return (rays.origins_m[hit] + rays.directions[hit] * depth_m[hit, None]).astype(np.float32)


def _depth_keys(errors: list[metrics.DepthErrors], suffix: str) -> Metrics:
    depth = metrics.depth_metrics(errors)
    return {"depth_l1_mean_m" + suffix: depth.l1_mean_m, "depth_l1_median_m" + suffix: depth.l1_median_m,
            "rays_within_0p2m" + suffix: depth.within_0p2m, "rays_within_1m" + suffix: depth.within_1m,
            "abs_rel" + suffix: depth.abs_rel}


def _missed_note(errors: list[metrics.DepthErrors], which: str) -> str:
    missed, rays = sum(int(e.missed.sum()) for e in errors), sum(e.missed.size for e in errors)
    return f"{missed} of {rays} rays ({100 * missed / rays:.2f} %){which} met nothing."
