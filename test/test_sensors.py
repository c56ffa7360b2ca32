# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The angular pattern of a sensor: its convention by hand, and the range image as the inverse of its rays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.sources import open_scans

ORIGIN = np.zeros(3, dtype=np.float32)


def test_convention_by_hand() -> None:
    directions = SphericalPattern(3, 4, -45, 45).rays(ORIGIN).directions.reshape(3, 4, 3)
    half = np.sqrt(0.5)
    assert np.allclose(directions[0, 0], [-half, 0, half], atol=1e-6)  # highest beam, looking backwards
    assert np.allclose(directions[1], [[-1, 0, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0]], atol=1e-6)  # back, left, ahead, right
    assert np.allclose(directions[2, 2], [half, 0, -half], atol=1e-6)


def test_rays_start_at_the_origin_and_have_unit_length() -> None:
    rays = SphericalPattern(16, 90, -15, 15).rays(np.array([1, 2, 3], dtype=np.float32))
    assert rays.origins_m.shape == rays.directions.shape == (16 * 90, 3) and rays.directions.dtype == np.float32
    assert np.all(rays.origins_m == [1, 2, 3])
    assert np.allclose(np.linalg.norm(rays.directions, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pattern", [
    SphericalPattern(), SphericalPattern(2, 1, -10, 10), SphericalPattern(32, 1084, -30.67, 10.67),
    SphericalPattern(128, 2048, -22.5, 22.5), SphericalPattern(17, 333, -80, 89)])
def test_a_point_on_a_ray_lands_in_its_pixel(pattern: SphericalPattern) -> None:
    origin_m = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    rays = pattern.rays(origin_m)
    distance_m = np.random.default_rng(1).uniform(2, 80, len(rays.directions)).astype(np.float32)
    image = pattern.range_image(origin_m + rays.directions * distance_m[:, None], origin_m)
    assert image.shape == (pattern.rows, pattern.columns) and image.dtype == np.float32
    assert np.allclose(image.ravel(), distance_m, atol=2e-5)


def test_a_point_near_a_ray_lands_in_its_pixel() -> None:
    pattern = SphericalPattern(32, 360, -31, 31)
    row, column = np.divmod(np.arange(32 * 360), 360)
    rng = np.random.default_rng(2)
    elevation = np.deg2rad(31 - 2 * row + rng.uniform(-0.98, 0.98, row.size))
    azimuth = np.deg2rad(180 - column + rng.uniform(-0.49, 0.49, row.size))
    flat = np.cos(elevation)
    points_m = 20 * np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)
    pixel, distance_m, inside = pattern.pixels(points_m.astype(np.float32), ORIGIN)
    assert inside.all() and np.array_equal(pixel, row * 360 + column) and np.allclose(distance_m, 20, atol=1e-4)


def test_the_nearest_point_of_a_pixel_counts() -> None:
    pattern = SphericalPattern(3, 8, -10, 10)
    image = pattern.range_image(np.array([[30, 0, 0], [7, 0.1, 0], [12, 0, 0]], dtype=np.float32), ORIGIN)
    assert image[1, 4] == pytest.approx(7.0007, abs=1e-3)
    assert np.count_nonzero(np.isfinite(image)) == 1


def test_points_above_and_below_the_pattern_and_at_the_origin_are_left_out() -> None:
    pattern = SphericalPattern(3, 8, -10, 10)
    points_m = np.array([[1, 0, 5], [1, 0, -5], [0, 0, 0], [0, 0, 9]], dtype=np.float32)
    assert np.isnan(pattern.range_image(points_m, ORIGIN)).all()
    assert not pattern.pixels(points_m, ORIGIN)[2].any()


def test_no_points_give_an_empty_image() -> None:
    assert np.isnan(SphericalPattern(4, 6).range_image(np.zeros((0, 3), dtype=np.float32), ORIGIN)).all()


def test_fit_finds_the_limits_and_ignores_strays() -> None:
    truth = SphericalPattern(64, 1024, -24.0, 3.0)
    points_m = truth.rays(ORIGIN).directions * np.float32(20)
    strays = np.array([[0.1, 0, 9], [0.1, 0, -9]] * 5, dtype=np.float32)
    fitted = SphericalPattern.fit(np.concatenate([points_m, strays]), ORIGIN, rows=64, columns=1024)
    assert fitted.elevation_min_deg == pytest.approx(-24.0, abs=0.01) and fitted.elevation_max_deg == pytest.approx(3.0, abs=0.01)
    assert (fitted.rows, fitted.columns) == (64, 1024)


def test_fit_on_a_real_scan(lidar_data: Path) -> None:
    scan = open_scans(lidar_data / "kitti_raw_22")[0]
    fitted = SphericalPattern.fit(scan.points_m, scan.origin_m)
    # HDL-64E data sheet: +2 to -24.8 degrees, about a calibrated mount.
    assert -26 < fitted.elevation_min_deg < -22 and 1 < fitted.elevation_max_deg < 5
    assert np.mean(np.isfinite(fitted.range_image(scan.points_m, scan.origin_m))) > 0.7


@pytest.mark.parametrize(("arguments", "words"), [
    ((1, 10, -10, 10), "at least 2 rows"), ((4, 0, -10, 10), "1 column"),
    ((4, 10, 10, -10), "elevation_min_deg < elevation_max_deg"), ((4, 10, -91, 10), "-90"),
    ((4, 10, float("nan"), 10), "elevation")])
def test_impossible_patterns_are_refused(arguments: tuple[int, int, float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SphericalPattern(*arguments)


def test_fit_refuses_scans_that_show_no_pattern() -> None:
    with pytest.raises(ValueError, match="empty scan"):
        SphericalPattern.fit(np.zeros((0, 3), dtype=np.float32), ORIGIN)
    with pytest.raises(ValueError, match="elevation_min_deg < elevation_max_deg"):
        SphericalPattern.fit(np.ones((5, 3), dtype=np.float32), ORIGIN)
