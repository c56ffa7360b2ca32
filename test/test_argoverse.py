# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Argoverse 2: a point and its origin worked by hand, what is refused, and the real sweeps."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="Argoverse 2 needs pyarrow: pip install '.[data]'")

from argoverse_log import CAMERA, DOWN, UP, real_log, write_calibration, write_sweep

from copilot4d_core.config import preset
from copilot4d_core.data.argoverse import PYARROW, read_argoverse
from copilot4d_core.data.rays import empty_rays, rays_from_points
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.sources import open_scans
from copilot4d_core.grid import FloatArray, Grid

GRID = Grid(preset("mini"))
TIME_NS = 315966265259836000
ONE_ELEVATION_DEG = 0.1
"""Points of a beam lie this close to one elevation from the sensor that has the beam: 64 beams, float16 coordinates."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_calibration(tmp_path / "log")
    return tmp_path / "log"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, words))):
        read_argoverse(path)


def test_points_and_origins_by_hand(log: Path) -> None:
    ahead, below = (1.0, 3.0, 2.5, 7, 31), (3.0, 0.5, 1.5, 255, 32)
    scan = read_argoverse(write_sweep(log, TIME_NS, [ahead, below]))
    # From up_lidar at (1, 0, 2) the first point is (0, 3, 0.5); the sensor's x axis is the vehicle's y, its y axis the vehicle's -x.
    assert np.allclose(scan.points_m, [[3, 0, 0.5], [0.5, -2, -0.5]], atol=1e-6)
    assert np.allclose(scan.origins_m, [[0, 0, 0], [0.5, 0, -0.5]], atol=1e-6)
    assert scan.sensor is not None and scan.sensor.tolist() == [0, 1]
    assert (scan.name, scan.stamp_ns, scan.frame_id, scan.dropped) == (str(TIME_NS), TIME_NS, "up_lidar", 0)
    assert scan.intensity is not None and scan.intensity.tolist() == [7, 255]
    assert {a.dtype for a in (scan.points_m, scan.origins_m, scan.intensity)} == {np.dtype(np.float32)}
    rays, distance_m = rays_from_points(scan.points_m, scan.point_origins_m)
    # down_lidar is at (1, 0.5, 1.5), its point 2 m ahead of the vehicle, which is -y of up_lidar.
    assert np.allclose(distance_m, [9.25**0.5, 2], atol=1e-6)
    assert np.allclose(rays.directions[1], [0, -1, 0], atol=1e-6) and np.allclose(rays.origins_m[1], [0.5, 0, -0.5], atol=1e-6)


def test_a_point_without_return_leaves_with_its_sensor(log: Path) -> None:
    # The up_lidar itself is where (0, 0, 0) lies in its frame.
    scan = read_argoverse(write_sweep(log, TIME_NS, [(1.0, 0.0, 2.0, 0, 3), (3.0, 0.5, 1.5, 9, 63)]))
    assert scan.dropped == 1 and scan.sensor is not None and scan.sensor.tolist() == [1] and len(scan.points_m) == 1


def test_an_empty_sweep_is_an_empty_scan(log: Path) -> None:
    scan = read_argoverse(write_sweep(log, TIME_NS, []))
    assert scan.points_m.shape == scan.point_origins_m.shape == (0, 3)


def test_refusals(log: Path, tmp_path: Path) -> None:
    refused(write_sweep(log, 5, [(1, 1, 1, 0, 64)]), "5.feather", "laser_number 0 to 63", "64 to 64")
    refused(log / "calibration" / "egovehicle_SE3_sensor.feather", "expected the columns x, y, z", "missing x", "sensor_name")
    alone = write_sweep(tmp_path / "alone", 7, [(1, 1, 1, 0, 1)])
    refused(alone, "7.feather", "LOG/calibration/egovehicle_SE3_sensor.feather", "there is no")
    write_calibration(tmp_path / "alone", [CAMERA, UP])
    refused(alone, "egovehicle_SE3_sensor", "down_lidar is missing", "ring_front_center, up_lidar")
    write_calibration(tmp_path / "alone", [UP, ("down_lidar", 0.5, *DOWN[2:])])
    refused(alone, "egovehicle_SE3_sensor", "length 1")
    whole = write_sweep(log, 9, [(1, 1, 1, 0, 1)])
    whole.write_bytes(whole.read_bytes()[:-20])
    refused(whole, "9.feather", "whole Feather file")


def test_missing_pyarrow_is_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sweep(log, TIME_NS, [(1, 1, 1, 0, 1)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(path, "pyarrow", f'pip install "{PYARROW}"')
    assert f'"data": ["{PYARROW}"]' in (Path(__file__).resolve().parent.parent / "setup.py").read_text()


def turn_of(origin_m: FloatArray, sensor: int) -> Scan:
    """16 beams at -15 to 15 degrees that start at an origin: 10 m below the horizon, nothing above but one pole."""
    directions = SphericalPattern(16, 1024, -15, 15).rays(origin_m).directions
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    seen = (directions[:, 2] < 0) | (np.abs(azimuth) < 0.5)
    points_m = (origin_m + 10 * directions[seen]).astype(np.float32)
    return Scan("turn", None, "", points_m, None, origin_m[None], 0, 0, np.full(len(points_m), sensor, dtype=np.uint8))


def test_each_sensor_has_its_own_sky() -> None:
    origins_m = np.array([[0, 0, 0], [2, -1, 0.5]], dtype=np.float32)
    turns = [turn_of(origin_m, sensor) for sensor, origin_m in enumerate(origins_m)]
    scan = turns[0]._replace(points_m=np.concatenate([turn.points_m for turn in turns]), origins_m=origins_m,
                             sensor=np.concatenate([turn.sensor for turn in turns if turn.sensor is not None]))
    empty = empty_rays(scan, GRID)
    for origin_m, points_m in zip(origins_m, (scan.points_of(0), scan.points_of(1)), strict=True):
        mine = np.all(empty.origins_m == origin_m, axis=1)
        # 8 of 16 beams look up, the lowest of them beside the ground's; the wall hides 1 of 2 pi on each side of the other sensor's, too.
        assert 0.5 * 7 * 1024 < np.count_nonzero(mine) < 7 * 1024
        returns, _ = rays_from_points(points_m, origin_m)
        assert (empty.directions[mine] @ returns.directions[::50].T).max() < np.cos(np.deg2rad(0.3))


def test_an_origin_outside_the_region_is_refused() -> None:
    far = turn_of(np.zeros(3, dtype=np.float32), 0)._replace(origins_m=np.array([[0, 0, 0], [50, 0, 0]], dtype=np.float32))
    with pytest.raises(ValueError, match="origin inside the region"):
        empty_rays(far, GRID)


# The real sweeps

def test_real_beams_have_one_elevation_from_their_own_sensor(lidar_data: Path, tmp_path: Path) -> None:
    log = real_log(lidar_data, tmp_path / "log")
    from pyarrow import feather

    for index, scan in enumerate(open_scans(log)):
        table = feather.read_table(sorted((log / "sensors" / "lidar").iterdir())[index])
        beams = table["laser_number"].to_numpy()
        assert len(scan.points_m) == len(beams) > 98_000 and scan.dropped == 0
        spread = {own: elevation_spread_deg(scan, beams, own) for own in (True, False)}
        assert spread[True] < ONE_ELEVATION_DEG < spread[False]
        # No return of the vehicle itself. The roof of a car is 1.4 to 1.7 m above the street, and the sensor stands on it.
        assert np.linalg.norm(scan.points_m - scan.point_origins_m, axis=1).min() > 4
        counts, edges_m = np.histogram(scan.points_m[np.hypot(scan.points_m[:, 0], scan.points_m[:, 1]) < 20, 2], np.arange(-4.0, 4.0, 0.1))
        assert -2.3 < edges_m[counts.argmax()] < -1.7


def elevation_spread_deg(scan: Scan, beams: FloatArray, own: bool) -> float:
    """Median over the beams of the standard deviation of elevation, seen from the beam's own sensor or from the other."""
    spreads = []
    for beam in range(64):
        origin_m = scan.origins_m[beam // 32 if own else 1 - beam // 32]
        offset = (scan.points_m[beams == beam] - origin_m).astype(np.float64)
        elevation = np.arctan2(offset[:, 2], np.hypot(offset[:, 0], offset[:, 1]))[np.linalg.norm(offset, axis=1) > 8]
        if len(elevation) > 100:
            spreads.append(np.rad2deg(elevation.std()))
    return float(np.median(spreads))


def test_real_held_out_returns_do_not_lie_where_a_sensor_saw_nothing(lidar_data: Path, tmp_path: Path) -> None:
    fine = SphericalPattern(256, 1024, -45, 45)
    for scan in open_scans(real_log(lidar_data, tmp_path / "log")):
        assert scan.sensor is not None
        held_out = np.arange(len(scan.points_m)) % 10 == 3
        empty = empty_rays(scan._replace(points_m=scan.points_m[~held_out], sensor=scan.sensor[~held_out]), GRID)
        for sensor, origin_m in enumerate(scan.origins_m):
            mine = np.all(empty.origins_m == origin_m, axis=1)
            own = held_out & (scan.sensor == sensor) & GRID.inside(scan.points_m)
            called = np.zeros(fine.rows * fine.columns, dtype=bool)
            called[fine.pixels(origin_m + empty.directions[mine & (empty.directions[:, 2] > 0)], origin_m)[0]] = True
            pixel, _, _ = fine.pixels(scan.points_m[own], origin_m)
            assert np.count_nonzero(mine) > 1000 and np.count_nonzero(called[pixel]) <= 0.005 * np.count_nonzero(own)
