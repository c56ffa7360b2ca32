# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The virtual camera: its frames by hand, depth on a wall that is known, and real scans seen from viewpoints of our choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.data.camera import CameraPose, PinholeCamera, camera_pose_from_angles, camera_pose_from_quaternion
from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy.open_runner import open_runner

ORIGIN = np.zeros(3, dtype=np.float32)
AHEAD = camera_pose_from_angles((0, 0, 0), 0, 0, 0)
WALL_X_M = 10.0


def directions(pose: CameraPose, width: int = 3, height: int = 3) -> np.ndarray:
    """Of a camera of 90 degrees and more, whose axis goes through its middle pixel: (height, width, 3)."""
    camera = PinholeCamera(width, height, 1.0, 1.0, (width - 1) / 2, (height - 1) / 2, pose)
    return camera.rays(ORIGIN).directions.reshape(height, width, 3)


def test_a_camera_that_looks_ahead_by_hand() -> None:
    seen, half, third = directions(AHEAD), np.sqrt(1 / 2), np.sqrt(1 / 3)
    assert np.allclose(seen[1, 1], [1, 0, 0], atol=1e-7)  # the middle looks along +x
    assert np.allclose(seen[1, 2], [half, -half, 0], atol=1e-7)  # one pixel to the right: negative y
    assert np.allclose(seen[0, 1], [half, 0, half], atol=1e-7)  # one pixel up: positive z
    assert np.allclose(seen[2, 0], [third, third, -third], atol=1e-7)  # lower left


# Where the axis, the image's right side and its top point, in the sensor's frame.
@pytest.mark.parametrize(("roll", "pitch", "yaw", "axis", "right", "up"), [
    (0, 0, 90, (0, 1, 0), (1, 0, 0), (0, 0, 1)),  # turned left: what was ahead is on the right
    (0, 90, 0, (0, 0, -1), (0, -1, 0), (1, 0, 0)),  # looks down: the top of the picture is ahead
    (90, 0, 0, (1, 0, 0), (0, 0, -1), (0, -1, 0)),  # leans to its right
    (0, 90, 180, (0, 0, -1), (0, 1, 0), (-1, 0, 0))])
def test_angles_turn_the_camera_as_rep_103_says(roll: float, pitch: float, yaw: float, axis: tuple[float, ...],
                                                right: tuple[float, ...], up: tuple[float, ...]) -> None:
    seen, root = directions(camera_pose_from_angles((0, 0, 0), roll, pitch, yaw)), np.sqrt(2)
    assert np.allclose(seen[1, 1], axis, atol=1e-6)
    assert np.allclose(seen[1, 2] * root - seen[1, 1], right, atol=1e-6)
    assert np.allclose(seen[0, 1] * root - seen[1, 1], up, atol=1e-6)


# REP-103's optical rotation (roll -90, yaw -90 degrees), then the same turned left by 90 degrees, worked by hand.
@pytest.mark.parametrize(("quaternion", "yaw_deg"), [((-0.5, 0.5, -0.5, 0.5), 0.0), ((-0.70711, 0, 0, 0.70711), 90.0), ((0.5, -0.5, 0.5, -0.5), 0.0)])
def test_a_quaternion_is_that_of_the_optical_frame(quaternion: tuple[float, ...], yaw_deg: float) -> None:
    expected = camera_pose_from_angles((1, 2, 3), 0, 0, yaw_deg)
    pose = camera_pose_from_quaternion((1, 2, 3), quaternion)
    assert np.allclose(pose.rotation, expected.rotation, atol=1e-12)
    assert pose.position_m.tolist() == [1, 2, 3]


def test_the_optical_axis_may_lie_beside_the_middle() -> None:
    camera = PinholeCamera(2, 1, 2.0, 4.0, -1.0, 2.0, AHEAD)
    # Column 0: (0 + 1) / 2 = 0.5 to the right, (0 - 2) / 4 = -0.5, so 0.5 up; column 1: (1 + 1) / 2 = 1 to the right.
    expected = np.array([[1, -0.5, 0.5], [1, -1, 0.5]])
    assert np.allclose(camera.rays(ORIGIN).directions, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-7)


def test_rays_start_at_the_camera_row_by_row() -> None:
    camera = PinholeCamera(320, 240, 160.0, 160.0, 159.5, 119.5, camera_pose_from_angles((1, 2, 3), 10, 20, 30))
    rays = camera.rays(np.array([10, 0, 0], dtype=np.float32))
    assert (camera.rows, camera.columns) == (240, 320)
    assert rays.origins_m.shape == rays.directions.shape == (240 * 320, 3)
    assert rays.origins_m.dtype == rays.directions.dtype == np.float32
    assert np.all(rays.origins_m == [11, 2, 3])
    assert np.allclose(np.linalg.norm(rays.directions, axis=1), 1, atol=1e-6)
    ahead = PinholeCamera(320, 240, 160.0, 160.0, 159.5, 119.5, AHEAD).rays(ORIGIN).directions.reshape(240, 320, 3)
    assert (np.diff(ahead[100, :, 1] / ahead[100, :, 0]) < 0).all() and (np.diff(ahead[:, 100, 2] / ahead[:, 100, 0]) < 0).all()


def test_a_wall_ahead_has_one_depth_in_every_pixel() -> None:
    camera = PinholeCamera(320, 240, 160.0, 160.0, 159.5, 119.5, AHEAD)
    directions_R3 = camera.rays(ORIGIN).directions.astype(np.float64)
    distance_m = WALL_X_M / directions_R3[:, 0]
    # By hand: the corner pixel lies 159.5 pixels aside and 119.5 up, so its ray is 10 * sqrt(1 + (159.5 / 160)^2 + (119.5 / 160)^2) long.
    assert distance_m[0] == pytest.approx(15.9737, abs=1e-4)
    assert np.allclose(camera.z_depth_m(distance_m), WALL_X_M, rtol=0, atol=2e-6)
    exact_m = WALL_X_M * np.sqrt(1 + ((np.arange(320) - 159.5) / 160) ** 2 + ((np.arange(240)[:, None] - 119.5) / 160) ** 2)
    depth_m = camera.z_depth_m(exact_m)
    assert depth_m.shape == (240, 320) and depth_m.dtype == np.float32
    assert np.all(depth_m == 10)


def test_a_wall_seen_from_beside_and_from_above() -> None:
    # 4 m nearer the wall and looking 60 degrees down: only depth along x is the wall's, so the depth grows up the picture.
    camera = PinholeCamera(1, 3, 1.0, 1.0, 0.0, 1.0, camera_pose_from_angles((4, 1, 0), 0, 60, 0))
    rays = camera.rays(ORIGIN)
    distance_m = (WALL_X_M - rays.origins_m[:, 0]) / rays.directions[:, 0]
    # The axis is (1/2, 0, -sqrt(3)/2): 6 m / (1/2) = 12 m. One pixel up adds the image's up vector (sqrt(3)/2, 0, 1/2).
    upper_m = 6 / (0.5 + np.sqrt(3) / 2)
    assert np.allclose(camera.z_depth_m(distance_m)[:2], [upper_m, 12], atol=1e-5)


def test_nothing_stays_nothing() -> None:
    camera = PinholeCamera(2, 1, 1.0, 1.0, 0.0, 0.0, AHEAD)
    depth_m = camera.z_depth_m(np.array([np.nan, 2.0], dtype=np.float32))
    assert np.isnan(depth_m[0]) and depth_m[1] == pytest.approx(np.sqrt(2), abs=1e-6)
    with pytest.raises(ValueError, match=r"one distance a pixel, 1 x 2, got shape \(3,\)"):
        camera.z_depth_m(np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize(("numbers", "words"), [
    ((0, 240, 160, 160, 0, 0), "width and height of at least 1 pixel, got 0 and 240"), ((320, -1, 160, 160, 0, 0), "got 320 and -1"),
    ((320, 240, 0, 160, 0, 0), "fx and fy above 0, in pixels, got 0 and 160"), ((320, 240, 160, -1, 0, 0), "fx and fy above 0"),
    ((320, 240, float("nan"), 160, 0, 0), "fx and fy above 0"), ((320, 240, 160, float("inf"), 0, 0), "fx and fy above 0"),
    ((320, 240, 160, 160, float("nan"), 0), "finite cx and cy"), ((320, 240, 160, 160, 0, float("inf")), "finite cx and cy")])
def test_impossible_cameras_are_refused(numbers: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PinholeCamera(*numbers, AHEAD)  # type: ignore[arg-type]


@pytest.mark.parametrize("rotation", [np.eye(3) * 2, np.diag([1.0, 1.0, -1.0]), np.full((3, 3), np.nan), np.eye(2), np.ones((3, 3))])
def test_matrices_that_do_not_rotate_are_refused(rotation: np.ndarray) -> None:
    with pytest.raises(ValueError, match="orthonormal right-handed 3 x 3 rotation"):
        CameraPose(np.zeros(3), rotation)


def test_impossible_poses_are_refused() -> None:
    for quaternion in [(0.0, 0.0, 0.0, 0.0), (0.5, 0.5, 0.5, 0.6), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0, float("nan"))]:
        with pytest.raises(ValueError, match="expected a quaternion x, y, z, w of length 1"):
            camera_pose_from_quaternion((0, 0, 0), quaternion)
    with pytest.raises(ValueError, match="finite roll, pitch and yaw in degrees, got 0, nan and 0"):
        camera_pose_from_angles((0, 0, 0), 0, float("nan"), 0)
    for position in [(0.0, 0.0), (0.0, 0.0, float("inf"))]:
        with pytest.raises(ValueError, match="a position of 3 finite numbers in metres"):
            camera_pose_from_angles(position, 0, 0, 0)


def projected_depth_m(camera: PinholeCamera, points_m: np.ndarray) -> np.ndarray:
    """Depth of the nearest point in each pixel, (height * width,); infinity where none falls. The textbook's projection, not the rays'."""
    optical = (points_m.astype(np.float64) - camera.pose.position_m) @ camera.pose.rotation
    right, down, forward = optical[optical[:, 2] > 0.1].T
    u = np.rint(camera.fx * right / forward + camera.cx).astype(int)
    v = np.rint(camera.fy * down / forward + camera.cy).astype(int)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    image = np.full(camera.height * camera.width, np.inf)
    np.minimum.at(image, v[inside] * camera.width + u[inside], forward[inside])
    return image


# Ahead, left and back from the sensor; then 5 m behind and 4 m above it, looking down on the street.
@pytest.mark.parametrize(("position_m", "pitch_deg", "yaw_deg"), [
    ((0, 0, 0), 0, 0), ((0, 0, 0), 0, 90), ((0, 0, 0), 0, 180), ((-5, 0, 4), 25, 0)], ids=["ahead", "left", "back", "above"])
@pytest.mark.parametrize("index", [0, 9])
def test_a_decoded_scan_agrees_with_its_points_in_the_camera(lidar_data: Path, index: int, position_m: tuple[float, float, float],
                                                             pitch_deg: float, yaw_deg: float) -> None:
    camera = PinholeCamera(320, 240, 160.0, 160.0, 159.5, 119.5, camera_pose_from_angles(position_m, 0, pitch_deg, yaw_deg))
    points_m = open_scans(lidar_data / "kitti_odometry_00")[index].points_m
    with open_runner() as runner:
        region = runner.config.grid
        low, high = (region.x_min_m, region.y_min_m, region.z_min_m), (region.x_max_m, region.y_max_m, region.z_max_m)
        depth_m = camera.z_depth_m(runner.decode(runner.encode(points_m), camera.rays(ORIGIN)).depth_m)
    truth_m = projected_depth_m(camera, points_m[((points_m >= low) & (points_m < high)).all(axis=1)])
    hit = np.isfinite(truth_m)
    assert hit.sum() > 10_000
    # A pixel that holds points but was decoded as empty is infinitely wrong.
    error_m = np.where(np.isnan(depth_m[hit]), np.inf, np.abs(depth_m[hit] - truth_m[hit]))
    assert np.median(error_m) <= 0.3
    assert np.mean(error_m <= 1.0) >= 0.8
