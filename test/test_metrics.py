# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Metrics against numbers worked by hand, and the traps: empty clouds, missed rays, pooled medians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stand_in_runner import MaskedStandInRunner, StandInRunner

from copilot4d_core.config import preset
from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.deploy.runner import Rendering, TokenArray
from copilot4d_core.evaluation import metrics
from copilot4d_core.evaluation.evaluate import Evaluation, evaluate_scans, points_on_rays
from copilot4d_core.grid import FloatArray, Grid

GRID = Grid(preset("tiny"))
"""x, y in [-10, 10) m, z in [-2.25, 2.25) m; voxels of 0.3125 x 0.3125 x 0.28125 m; tokens of 1.25 m; 64 codes."""
EMPTY = np.zeros((0, 3), dtype=np.float32)
DEPTH_KEYS = ["depth_l1_mean_m", "depth_l1_median_m", "rays_within_0p2m", "rays_within_1m", "abs_rel"]
KEYS = ["scans", *DEPTH_KEYS, "chamfer_m", "chamfer_m2", "fscore_0p1m", "fscore_0p2m", "voxel_iou", "surprise_m",
        "code_usage_occupied", "perplexity_occupied", "perplexity_all", "bits_per_scan"]


def points(*rows: tuple[float, float, float]) -> FloatArray:
    return np.array(rows, dtype=np.float32).reshape(-1, 3)


def scan(*rows: tuple[float, float, float], name: str = "scan") -> Scan:
    return scan_from_points(name, points(*rows), None, raw_bytes=16 * len(rows))


def errors(depth: list[float], truth: list[float], leave: list[float]) -> metrics.DepthErrors:
    return metrics.depth_errors(*(np.array(a, dtype=np.float32) for a in (depth, truth, leave)))


class TestDepth:
    def test_hand_worked_rays(self) -> None:
        # Errors 0.1, 0.5, 2 and 0 m on true distances 1, 5, 10 and 4 m.
        depth = metrics.depth_metrics([errors([1.1, 4.5, 12, 4], [1, 5, 10, 4], [20, 20, 20, 20])])
        assert depth == pytest.approx((2.6 / 4, 0.3, 0.5, 0.75, (0.1 + 0.1 + 0.2 + 0) / 4), rel=1e-6)

    def test_missed_ray_costs_its_way_out_of_the_region(self) -> None:
        depth = metrics.depth_metrics([errors([math.nan, 5], [2, 5], [10, 10])])
        assert depth == pytest.approx((4.0, 4.0, 0.5, 0.5, 2.0))

    def test_missed_ray_at_the_edge_is_not_within(self) -> None:
        depth = metrics.depth_metrics([errors([math.nan, math.inf], [9.95, 9.95], [10, 10])])
        assert depth.l1_mean_m == pytest.approx(0.05, rel=1e-4)
        assert (depth.within_0p2m, depth.within_1m) == (0.0, 0.0)

    def test_median_is_pooled_over_rays_not_averaged_over_scans(self) -> None:
        short, long = errors([2], [1], [9]), errors([1, 1, 1], [1, 1, 1], [9, 9, 9])
        assert metrics.depth_metrics([short, long]).l1_median_m == 0.0
        assert metrics.depth_metrics([short, long]).l1_mean_m == 0.25

    def test_no_rays_is_not_perfect(self) -> None:
        assert all(math.isnan(value) for value in metrics.depth_metrics([]))

    @pytest.mark.parametrize("truth", [0.0, -1.0, math.nan])
    def test_impossible_truth_is_refused(self, truth: float) -> None:
        with pytest.raises(ValueError, match="above 0 m"):
            errors([1], [truth], [9])

    def test_shapes_that_differ_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(1,\).*\(2,\)"):
            errors([1], [1, 2], [9])


class TestRegionExit:
    @pytest.mark.parametrize(("origin", "direction", "expected"), [
        ((0, 0, 0), (1, 0, 0), 10.0),
        ((4, 0, 0), (-1, 0, 0), 14.0),
        ((0, 0, 0), (0, 0, -1), 2.25),
        ((0, 0, 0), (0.6, 0.8, 0), 12.5),
        ((0, 0, 1.25), (0.8, 0, 0.6), 1 / 0.6),
        ((-12, 0, 0), (1, 0, 0), 22.0),
        ((-12, 0, 0), (-1, 0, 0), math.nan),
        ((0, 0, 3), (1, 0, 0), math.nan),
        ((-20, 9, 0), (0.8, 0.6, 0), math.nan),
    ])
    def test_slab(self, origin: tuple[float, ...], direction: tuple[float, ...], expected: float) -> None:
        found = metrics.region_exit_m(points(origin), points(direction), GRID)  # type: ignore[arg-type]
        assert found[0] == pytest.approx(expected, rel=1e-6, nan_ok=True)

    def test_never_before_a_point_of_the_region(self) -> None:
        random = np.random.default_rng(3)
        inside = random.uniform(GRID.minimum_m, GRID.maximum_m, (1000, 3)).astype(np.float32)
        rays, distance_m = rays_from_points(inside, random.uniform(-2, 2, 3).astype(np.float32))
        leave = metrics.region_exit_m(rays.origins_m, rays.directions, GRID)
        assert np.all(leave >= distance_m - 1e-5)
        on_face = points_on_rays(rays, leave)
        assert np.min(np.abs(np.stack([on_face - GRID.minimum_m, on_face - GRID.maximum_m])), axis=(0, 2)).max() < 1e-4


class TestCloud:
    # Prediction A = (0,0,0), B = (3,0,0); truth C = (0,1,0), D = (0,0,2).
    # A to C 1, B to C sqrt 10; C to A 1, D to A 2.
    PREDICTION, TRUTH = points((0, 0, 0), (3, 0, 0)), points((0, 1, 0), (0, 0, 2))

    def test_chamfer_of_two_and_two_points(self) -> None:
        distances = metrics.cloud_distances(self.PREDICTION, self.TRUTH)
        assert metrics.chamfer_m(distances) == pytest.approx(((1 + math.sqrt(10)) / 2 + (1 + 2) / 2) / 2)
        assert metrics.chamfer_m2(distances) == pytest.approx(((1 + 10) / 2 + (1 + 4) / 2) / 2)

    def test_fscore_of_unequal_clouds(self) -> None:
        # 3 of 4 predicted points lie within 1.5 m of the truth, 1 of 2 true points within 1.5 m of the prediction.
        prediction = points((0, 0, 0), (1, 0, 0), (0, 1, 0), (9, 9, 0))
        truth = points((0, 0, 1), (-9, -9, 0))
        assert metrics.fscore(metrics.cloud_distances(prediction, truth), 1.5) == pytest.approx(2 * 0.75 * 0.5 / 1.25)

    def test_equal_clouds_are_perfect_and_far_ones_score_nothing(self) -> None:
        same = metrics.cloud_distances(self.TRUTH, self.TRUTH[::-1].copy())
        assert (metrics.chamfer_m(same), metrics.chamfer_m2(same), metrics.fscore(same, 0.1)) == (0.0, 0.0, 1.0)
        assert metrics.fscore(metrics.cloud_distances(self.PREDICTION + 50, self.TRUTH), 0.2) == 0.0

    def test_empty_prediction_is_not_perfect(self) -> None:
        distances = metrics.cloud_distances(EMPTY, self.TRUTH)
        assert (metrics.chamfer_m(distances), metrics.chamfer_m2(distances)) == (math.inf, math.inf)
        assert metrics.fscore(distances, 0.2) == 0.0
        assert metrics.voxel_iou(EMPTY, self.TRUTH, GRID) == 0.0

    @pytest.mark.parametrize("prediction", [EMPTY, PREDICTION])
    def test_empty_truth_has_no_score(self, prediction: FloatArray) -> None:
        distances = metrics.cloud_distances(prediction, EMPTY)
        scores = [metrics.chamfer_m(distances), metrics.chamfer_m2(distances), metrics.fscore(distances, 0.2),
                  metrics.voxel_iou(prediction, EMPTY, GRID)]
        assert all(math.isnan(score) for score in scores)

    def test_iou_of_known_voxels(self) -> None:
        # Voxels along x of 0.3125 m from -10: x = 0.1 is voxel 32, 0.4 is 33, 0.7 is 34.
        prediction = points((0.1, 0.1, 0.1), (0.2, 0.1, 0.1), (0.4, 0.1, 0.1), (50, 0, 0))
        truth = points((0.45, 0.1, 0.1), (0.7, 0.1, 0.1), (0, 0, 40))
        assert metrics.voxel_iou(prediction, truth, GRID) == pytest.approx(1 / 3)

    def test_iou_tells_the_axes_apart(self) -> None:
        assert metrics.voxel_iou(points((5, -5, 1)), points((-5, 5, 1)), GRID) == 0.0


class TestCodes:
    def test_perplexity_of_a_known_histogram(self) -> None:
        # Shares 1/2, 1/4, 1/4: entropy 1.5 bit.
        assert metrics.perplexity(np.array([2, 1, 0, 1])) == pytest.approx(2**1.5)
        assert metrics.perplexity(np.full(64, 7)) == pytest.approx(64)
        assert metrics.perplexity(np.array([0, 9, 0])) == pytest.approx(1.0)
        assert math.isnan(metrics.perplexity(np.zeros(4, dtype=np.int64)))

    def test_usage_and_counts(self) -> None:
        counts = metrics.code_counts(np.array([[0, 3], [3, 3]], dtype=np.uint16), 4)
        assert counts.tolist() == [1, 0, 0, 3]
        assert metrics.code_usage(counts) == 0.5

    def test_token_beyond_the_codebook_is_refused(self) -> None:
        with pytest.raises(ValueError, match="below 4, got 4"):
            metrics.code_counts(np.array([4], dtype=np.uint16), 4)

    def test_occupied_cells_are_row_y_column_x(self) -> None:
        occupied = GRID.occupied_tokens(points((9.9, -9.9, 0), (0, 0, 99)))
        assert np.argwhere(occupied).tolist() == [[0, 15]]

    def test_fixed_rate(self) -> None:
        assert metrics.bits_per_scan(GRID) == 16 * 16 * 6
        assert metrics.bits_per_scan(Grid(preset("mini"))) == 64 * 64 * 10
        assert metrics.bits_per_scan(Grid(preset("paper"))) == 163_840


class TestEvaluate:
    AHEAD = ((5.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, -2.0, 0.0), (-1.0, 0.0, 1.0))

    def test_keys_and_exact_reconstruction(self) -> None:
        result = evaluate_scans(MaskedStandInRunner(), [scan(*self.AHEAD)])
        assert list(result) == KEYS + [f"{key}_gt_mask" for key in DEPTH_KEYS]
        assert result["depth_l1_mean_m"] == pytest.approx(0, abs=1e-6)
        assert (result["scans"], result["rays_within_0p2m"], result["fscore_0p1m"], result["voxel_iou"]) == (1, 1.0, 1.0, 1.0)

    def test_known_error(self) -> None:
        result = evaluate_scans(MaskedStandInRunner(error_m=0.5), [scan(*self.AHEAD), scan((8.0, 0.0, 0.0))])
        assert result["depth_l1_mean_m"] == pytest.approx(0.5, rel=1e-5)
        assert (result["rays_within_0p2m"], result["rays_within_1m"]) == (0.0, 1.0)
        assert result["abs_rel"] == pytest.approx(np.mean([0.5 / 5, 0.5 / 4, 0.5 / 2, 0.5 / math.sqrt(2), 0.5 / 8]), rel=1e-5)
        assert result["chamfer_m"] == pytest.approx(0.5, rel=1e-5)
        assert result["chamfer_m2"] == pytest.approx(0.25, rel=1e-5)
        assert result["depth_l1_mean_m_gt_mask"] == pytest.approx(0, abs=1e-6)

    def test_missed_rays_cost_and_are_told(self) -> None:
        evaluation = Evaluation(StandInRunner(misses=slice(0, 1)))
        evaluation.add(scan(*self.AHEAD))
        # The first ray leaves at 10 m and met nothing, its return is at 5 m; the others are exact.
        assert evaluation.metrics()["depth_l1_mean_m"] == pytest.approx(5 / 4, rel=1e-6)
        assert evaluation.metrics()["rays_within_1m"] == 0.75
        assert "1 of 4 rays (25.00 %) met nothing" in evaluation.notes()[0]

    def test_runner_without_masks_leaves_the_keys_out_and_says_so(self) -> None:
        evaluation = Evaluation(StandInRunner())
        evaluation.add(scan(*self.AHEAD))
        assert list(evaluation.metrics()) == KEYS
        assert any("_gt_mask" in note for note in evaluation.notes())

    def test_empty_reconstruction_is_not_perfect(self) -> None:
        evaluation = Evaluation(StandInRunner(misses=slice(None)))
        evaluation.add(scan(*self.AHEAD))
        result = evaluation.metrics()
        assert result["chamfer_m"] == math.inf
        assert (result["fscore_0p2m"], result["voxel_iou"], result["rays_within_1m"]) == (0.0, 0.0, 0.0)
        assert any("infinite" in note for note in evaluation.notes())

    def test_scan_outside_the_region_is_left_out_and_named(self) -> None:
        evaluation = Evaluation(StandInRunner())
        evaluation.add(scan(*self.AHEAD))
        evaluation.add(scan((50.0, 0.0, 0.0), name="far away"))
        assert evaluation.metrics()["scans"] == 1
        assert any("far away" in note for note in evaluation.notes())

    def test_no_scan_at_all_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one scan"):
            evaluate_scans(StandInRunner(), [scan((50.0, 0.0, 0.0))])

    def test_points_outside_the_region_ask_for_no_ray(self) -> None:
        inside, both = scan(*self.AHEAD), scan(*self.AHEAD, (50.0, 3.0, 0.0), (0.0, 0.0, 5.0))
        runner = StandInRunner(error_m=0.1)
        assert evaluate_scans(runner, [inside]) == evaluate_scans(runner, [both])

    def test_codes_are_counted_over_occupied_cells_and_over_all(self) -> None:
        # The stand-in uses code 1 in the 4 occupied cells of 256 and code 0 elsewhere.
        result = evaluate_scans(StandInRunner(), [scan(*self.AHEAD)])
        share = 4 / 256
        assert result["code_usage_occupied"] == 1 / 64
        assert result["perplexity_occupied"] == pytest.approx(1.0)
        assert result["perplexity_all"] == pytest.approx(math.exp(-share * math.log(share) - (1 - share) * math.log(1 - share)))
        assert result["bits_per_scan"] == 1536

    def test_rays_start_at_the_origin_of_the_scan(self) -> None:
        moved = scan((5.0, 0.0, 0.0))._replace(origins_m=np.array([[4, 0, 0]], dtype=np.float32))
        result = evaluate_scans(StandInRunner(error_m=0.5), [moved])
        assert result["abs_rel"] == pytest.approx(0.5 / 1.0)

    def test_each_ray_starts_at_the_sensor_that_saw_its_point(self) -> None:
        # 5 m from the first sensor at 0, 1 m from the second at (4, 1, 0).
        two = scan((5.0, 0.0, 0.0), (5.0, 1.0, 0.0))._replace(
            origins_m=points((0, 0, 0), (4, 1, 0)), sensor=np.array([0, 1], dtype=np.uint8))
        result = evaluate_scans(FixedRunner([5.5, 1.5]), [two])
        assert result["depth_l1_mean_m"] == pytest.approx(0.5)
        assert result["abs_rel"] == pytest.approx((0.5 / 5 + 0.5 / 1) / 2)


class FixedRunner(StandInRunner):
    """Returns given depths, whatever it is asked."""

    def __init__(self, depth_m: list[float]) -> None:
        super().__init__()
        self.depth_m = np.array(depth_m, dtype=np.float32)

    def decode(self, tokens: TokenArray, rays: Rays) -> Rendering:
        return Rendering(self.depth_m, np.ones_like(self.depth_m), self.depth_m, self.depth_m)
