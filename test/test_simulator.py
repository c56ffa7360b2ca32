# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The LiDAR simulator: exact distances against laws of geometry, and drives against what a drive must be."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.data.raycast import Doubles, Ground, Hits, Scene, Solids, cast, no_solids
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.simulator import (
    SENSORS,
    TOPIC,
    Roof,
    SensorModel,
    pose_from_angles,
    simulate_drive,
    simulate_sweep,
    simulate_sweeps,
    write_demo_bag,
)
from copilot4d_core.data.sources import open_scans
from copilot4d_core.data.street import random_street

FLAT = Ground(np.array([-1.0, 1.0]), np.zeros(2), 0.3)
FAR_BELOW = FLAT._replace(z_m=np.full(2, -1e6))
SENSOR = SensorModel(tuple(np.linspace(10.0, -20.0, 31).tolist()), columns=180, min_range_m=0.1)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def solids(center: list[float], half: list[float], yaw_rad: float = 0.0) -> Solids:
    return Solids(np.array([center], float), np.array([half], float), np.array([yaw_rad]), np.array([0.5]), np.array([1.0]))


def scene(boxes: Solids | None = None, cylinders: Solids | None = None, crowns: Solids | None = None,
          ground: Ground = FLAT) -> Scene:
    return Scene(ground, boxes or no_solids(), cylinders or no_solids(), crowns or no_solids())


def directions(count: int = 20_000) -> Doubles:
    vectors = rng().normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def one_ray(where: Scene, origin: list[float], direction: list[float]) -> Hits:
    unit = np.array([direction], float) / np.linalg.norm(direction)
    return cast(where, np.array(origin, float), unit, rng())


def test_flat_ground_lies_one_sensor_height_below() -> None:
    sweep = simulate_sweep(scene(), SENSOR, pose_from_angles(np.array([0, 0, 1.8]), 0, 0, 0), rng(), with_noise=False)
    met = np.isfinite(sweep.distance_m)
    z = sweep.rays.directions[met, 2] * sweep.distance_m[met]
    assert np.count_nonzero(met) > 3000 and np.allclose(z, -1.8, atol=1e-5)
    # Beams that reach the ground within 100 m: sin(elevation) < -0.018, which is 1.03 degrees down.
    assert np.array_equal(met.reshape(31, 180).all(axis=1), np.linspace(10, -20, 31) < -1.04)
    assert np.array_equal(sweep.is_empty, ~met)


def test_a_wall_ahead_is_at_distance_over_cosine() -> None:
    wall = solids([10.5, 0, 0], [0.5, 500, 500])
    rays = directions()
    hits = cast(scene(wall, ground=FAR_BELOW), np.zeros(3), rays, rng())
    ahead = (rays[:, 0] > 0.05) & (np.abs(rays[:, 1:]) < 0.9).all(axis=1)
    assert np.count_nonzero(ahead) > 1000
    assert np.allclose(hits.distance_m[ahead], 10 / rays[ahead, 0]) and np.allclose(hits.incidence[ahead], rays[ahead, 0])
    assert np.all(hits.distance_m[rays[:, 0] < 0] > 1000)


def test_the_nearest_of_several_is_met() -> None:
    far, near = solids([20, 0, 1], [1, 1, 1]), solids([10, 0, 1], [1, 1, 1])
    boxes = Solids(*(np.concatenate(pair) for pair in zip(far, near, strict=True)))
    where = scene(boxes, cylinders=solids([15, 0, 1], [0.2, 0.2, 2]))
    assert one_ray(where, [0, 0, 1], [1, 0, 0]).distance_m.tolist() == [9.0]
    assert one_ray(where, [12, 0, 1], [1, 0, 0]).distance_m == pytest.approx([2.8])
    assert one_ray(where, [16, 0, 1], [1, 0, 0]).distance_m == pytest.approx([3.0])


def test_a_turned_box_is_met_at_its_corner() -> None:
    where = scene(solids([10, 0, 0], [1, 1, 5], yaw_rad=np.pi / 4))
    hits = one_ray(where, [0, 0, 1], [1, 0, 0])
    assert hits.distance_m == pytest.approx([10 - np.sqrt(2)]) and hits.incidence == pytest.approx([np.sqrt(0.5)])


def depth_inside(kind: str, offset: Doubles, half: Doubles, yaw: float) -> Doubles:
    """1 on the surface, less inside, more outside, of a solid whose centre is `offset` (..., 3) away."""
    x = np.cos(yaw) * offset[..., 0] + np.sin(yaw) * offset[..., 1]
    y = np.cos(yaw) * offset[..., 1] - np.sin(yaw) * offset[..., 0]
    share = np.stack([x, y, offset[..., 2]], axis=-1) / half
    if kind == "boxes":
        return np.abs(share).max(axis=-1)
    if kind == "cylinders":
        return np.maximum(np.hypot(share[..., 0], share[..., 1]), np.abs(share[..., 2]))
    return np.linalg.norm(share, axis=-1)


@pytest.mark.parametrize("kind", ["boxes", "cylinders", "crowns"])
def test_hits_are_the_first_touch_of_the_surface(kind: str) -> None:
    center, half, yaw = np.array([6.0, 3.0, 1.0]), np.array([2.0, 2.0, 3.0]), 0.4
    rays, origin = directions(), np.array([0.0, 0.0, 1.5])
    alone = scene(**{kind: solids(center.tolist(), half.tolist(), yaw)}, ground=FAR_BELOW)
    hits = cast(alone, origin, rays, rng())
    met = hits.distance_m < 100
    along = np.linspace(0, 1, 200)[:, None, None] * hits.distance_m[met, None] * rays[met]
    depth = depth_inside(kind, origin + along - center, half, yaw)
    assert np.count_nonzero(met) > 200
    assert np.allclose(depth[-1], 1, atol=1e-9) and np.all(depth[:-1] > 1)
    assert np.all((hits.incidence >= 0) & (hits.incidence <= 1 + 1e-12))
    missed = origin + np.linspace(0, 20, 400)[:, None, None] * rays[~met][:2000] - center
    # A cylinder has no lid: what looks in from above meets nothing.
    assert kind == "cylinders" or np.all(depth_inside(kind, missed, half, yaw) > 1 - 1e-9)


def test_rays_that_miss_a_pole_reach_what_is_behind() -> None:
    where = scene(solids([50, 0, 0], [1, 20, 20]), cylinders=solids([40, 0, 1], [0.05, 0.05, 1]))
    assert one_ray(where, [0, 0, 1], [40, 0.04, 0]).distance_m == pytest.approx([39.97], abs=0.02)
    assert one_ray(where, [0, 0, 1], [40, 0.06, 0]).distance_m == pytest.approx([49.0], abs=0.02)
    assert one_ray(where, [0, 0, 3], [1, 0, 0]).distance_m == pytest.approx([49.0])


def test_rays_get_into_leaves_but_not_out_of_the_crown() -> None:
    rays = np.tile([[1.0, 0, 0]], (5000, 1))
    where = scene(crowns=solids([10, 0, 2], [2, 2, 1]))._replace(leaf_depth_m=1.0)
    distance = cast(where, np.array([0.0, 0, 2]), rays, rng()).distance_m
    met = np.isfinite(distance)
    assert np.all((distance[met] >= 8) & (distance[met] <= 12))
    # With a mean depth of 1 m, exp(-4) of the rays come through 4 m of leaves.
    assert 1 - met.mean() == pytest.approx(np.exp(-4), abs=0.006)


def test_kerb_and_bank_follow_the_profile() -> None:
    ground = Ground(np.array([-5.0, 3.0, 3.01, 8.0]), np.array([0.0, 0.0, 0.15, 1.147]), 0.3)
    points = []
    for y in (-20.0, 0.0, 2.0, 4.0, 6.0, 20.0):
        target = np.array([1.0, y, ground.height_m(y)])
        hits = one_ray(scene(ground=ground), [0, 0, 5], (target - [0, 0, 5]).tolist())
        points.append((hits.distance_m[0], np.linalg.norm(target - [0, 0, 5])))
    assert np.allclose(*zip(*points, strict=True), atol=1e-9)


def test_poses_turn_the_world_the_other_way() -> None:
    wall = scene(solids([10.5, 0, 0], [0.5, 500, 500]))
    # A sensor that looks left (yaw +90 degrees) has the wall on its right, at -y.
    sweep = simulate_sweep(wall, SENSOR, pose_from_angles(np.array([0, 0, 2.0]), np.pi / 2, 0, 0), rng(), with_noise=False)
    points_m = sweep.rays.directions * sweep.distance_m[:, None]
    on_wall = sweep.distance_m.reshape(31, 180)[10] < 50
    assert np.allclose(points_m.reshape(31, 180, 3)[10][on_wall][:, 1], -10, atol=1e-3)
    # A nose that points down (positive pitch) meets the ground ahead sooner: 2 m / sin(10 degrees).
    nodding = pose_from_angles(np.array([0, 0, 2.0]), 0, np.deg2rad(10), 0)
    sweep = simulate_sweep(scene(), SENSOR, nodding, rng(), with_noise=False)
    assert sweep.distance_m.reshape(31, 180)[10, 90] == pytest.approx(2 / np.sin(np.deg2rad(10)), rel=1e-4)


def test_the_own_roof_hides_the_ground_below() -> None:
    roof = Roof(front_m=1.0, back_m=2.0, half_width_m=0.8, below_m=0.5)
    rays = np.array([[1, 0, -1], [1, 0, -0.4], [-1, 0, -0.3], [-1, 0, -0.2], [0, 1, -0.6], [0, 1, -0.7], [0, 0, 1]], float)
    hidden = roof.hides(rays / np.linalg.norm(rays, axis=1, keepdims=True))
    assert hidden.tolist() == [True, False, True, False, False, True, False]
    level = pose_from_angles(np.array([0, 0, 1.8]), 0, 0, 0)
    sweep = simulate_sweep(scene(ground=FAR_BELOW), SENSOR, level, rng(), roof=roof, with_noise=False)
    hidden = roof.hides(SENSOR.directions())
    assert hidden.any() and np.isnan(sweep.distance_m).all()
    assert np.array_equal(sweep.is_empty, ~hidden), "a beam that the roof stops tells nothing about the air beyond"


def test_range_noise_has_the_stated_spread() -> None:
    wall = scene(solids([10.5, 0, 0], [0.5, 500, 500]))
    pose = pose_from_angles(np.array([0, 0, 2.0]), 0, 0, 0)
    sweep = simulate_sweep(wall, SensorModel((0.0,), columns=20_000, range_noise_m=0.05), pose, rng())
    near = sweep.distance_m < 12
    error_m = sweep.distance_m[near] - 10 / sweep.rays.directions[near, 0]
    assert np.count_nonzero(near) > 2000
    assert abs(error_m.mean()) < 0.005 and error_m.std() == pytest.approx(0.05, rel=0.1)


def test_far_grazing_and_dark_surfaces_are_lost_more_often() -> None:
    def share(distance_m: float, albedo: float, yaw_rad: float) -> float:
        wall = solids([distance_m, 0, 0], [0.01, 500, 500], yaw_rad)._replace(albedos=np.array([albedo]))
        beam = SensorModel((0.0,), columns=200_000, min_range_m=0.1)
        sweep = simulate_sweep(scene(wall), beam, pose_from_angles(np.array([0, 0, 2.0]), 0, 0, 0), rng())
        ahead = np.abs(np.arctan2(sweep.rays.directions[:, 1], sweep.rays.directions[:, 0])) < 0.05
        return float(np.isfinite(sweep.distance_m[ahead]).mean())
    assert share(10, 0.5, 0) > 0.99
    assert share(10, 0.5, 0) > share(90, 0.2, 0) > share(90, 0.02, 0)
    assert share(60, 0.1, 0) > share(60, 0.1, 1.3)


@pytest.mark.parametrize("sensor", list(SENSORS))
def test_a_drive_of_every_sensor(sensor: str) -> None:
    scans = list(simulate_drive(3, 2, sensor))
    model = SENSORS[sensor]
    assert [s.stamp_ns for s in scans] == [1_700_000_000 * 10**9 + round(i * 1e9 / model.rate_hz) for i in range(2)]
    for scan in scans:
        distance_m = np.linalg.norm(scan.points_m, axis=1)
        beams = len(model.elevations_deg) * model.columns
        assert 0.3 * beams < len(scan.points_m) <= beams
        assert distance_m.max() < model.max_range_m + 1 and distance_m.min() > model.min_range_m - 0.2
        assert scan.intensity is not None and 0 < scan.intensity.max() <= 1
        elevation_deg = np.rad2deg(np.arcsin(scan.points_m[:, 2] / distance_m))
        assert elevation_deg.min() > model.elevations_deg[-1] - 0.5 and elevation_deg.max() < model.elevations_deg[0] + 0.5


def test_the_same_seed_gives_the_same_drive() -> None:
    one, same, other = (list(simulate_drive(seed, 2, "vlp16")) for seed in (5, 5, 6))
    assert all(np.array_equal(a.points_m, b.points_m) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0].points_m[:100], other[0].points_m[:100])
    drawn = {len(np.unique(next(simulate_sweeps(seed, 1))[1].rays.directions[:, 2])) for seed in range(8)}
    assert len(drawn) > 1, "without a name the seed draws the sensor"


def test_streets_are_streets() -> None:
    """Ground below the sensor by its height, something upright around, and free road where the own vehicle drives."""
    for seed in range(12):
        scan = next(simulate_drive(seed, 1, "hdl64"))
        x, y, z = scan.points_m.T
        near = (np.abs(x) < 8) & (np.abs(y) < 1.2)
        assert -2.5 < np.median(z[near]) < -1.4
        assert np.count_nonzero(z > -0.5) > 200
        assert not np.any((np.abs(x) < 4) & (np.abs(y) < 0.9) & (z > -1.2))


def test_the_street_moves_past() -> None:
    street = random_street(np.random.default_rng(4), -100, 200, own_speed_mps=10.0)
    still = street.box_speeds_mps == 0
    assert still.any() and (~still).any()
    early, late = street.scene(0.0, 0.0, 1e6), street.scene(2.0, 0.0, 1e6)
    shift = late.boxes.centers_m - early.boxes.centers_m
    assert np.all(shift[still] == 0) and np.all(shift[:, 1:] == 0)
    assert np.allclose(shift[~still, 0], 2 * street.box_speeds_mps[~still])
    assert np.array_equal(street.scene(2.0, 0.0, 1e6).boxes.centers_m, late.boxes.centers_m), "asking moves nothing"
    assert len(street.scene(0.0, 0.0, 20.0).boxes.albedos) < len(early.boxes.albedos)


def test_empty_beams_of_a_sweep_meet_nothing() -> None:
    _, sweep = next(simulate_sweeps(1, 1, "os1_64"))
    assert sweep.is_empty.any() and np.isnan(sweep.distance_m[sweep.is_empty]).all()
    assert np.all(sweep.rays.directions[sweep.is_empty, 2] > -0.06)


def test_demo_bag_opens_like_any_bag(tmp_path: Path) -> None:
    assert write_demo_bag(tmp_path / "demo", num_scans=3, seed=2, sensor="vlp16") == 3
    source = open_scans(tmp_path / "demo", topic=TOPIC)
    sent = list(simulate_drive(2, 3, "vlp16"))
    assert len(source) == 3 and all(np.array_equal(a.points_m, b.points_m) for a, b in zip(source, sent, strict=True))
    assert source[1].frame_id == "lidar"


def test_a_range_image_of_a_simulated_scan_is_full_below_the_horizon() -> None:
    scan = next(simulate_drive(2, 1, "os1_64"))
    image = SphericalPattern(64, 1024, -22.5, 22.5).range_image(scan.points_m, scan.origin_m)
    assert np.isfinite(image[36:56]).mean() > 0.6


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"hdl64.*'hdl65'"):
        simulate_drive(0, 1, "hdl65").__next__()
    with pytest.raises(ValueError, match="at least 1 scan, got 0"):
        simulate_drive(0, 0).__next__()


def test_a_turn_of_65536_beams_takes_less_than_a_second() -> None:
    street = random_street(np.random.default_rng(0), -100, 100, own_speed_mps=10.0)
    where, pose = street.scene(0.0, 0.0, 100.0), pose_from_angles(np.array([0, -1.8, 2.0]), 0, 0, 0)
    start = time.process_time()
    simulate_sweep(where, SENSORS["os1_64"], pose, rng())
    assert time.process_time() - start < 1.0
