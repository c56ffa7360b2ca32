# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sensor files: their numbers against the makers' and against real recordings, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.data.sensor_file import packaged_sensors, sensor_file
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_core.data.sources import open_scans

ORIGIN = np.zeros(3, dtype=np.float32)
GOOD = "name: Test\nsource: by hand\ncolumns: 4\nmax_range_m: 50\nelevations_deg: [30, 0, -45.0]\n"
EVEN = "name: Test\nsource: by hand\ncolumns: 4\nmax_range_m: 50\nrows: 3\nelevation_min_deg: -45\nelevation_max_deg: 45\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


# Beams, highest, lowest, columns at 10 turns a second, range: as the makers print them.
@pytest.mark.parametrize(("name", "rows", "highest", "lowest", "columns", "range_m"), [
    ("hdl64e", 64, 2.0, -24.33, 2083, 120), ("hdl32e", 32, 10.67, -30.67, 2170, 100), ("vlp16", 16, 15, -15, 1808, 100),
    ("vlp32c", 32, 15, -25, 1808, 200), ("os1_64", 64, 21.2, -21.2, 1024, 170), ("os1_128", 128, 21.2, -21.2, 1024, 170),
    ("pandar64", 64, 14.882, -24.897, 1800, 200)])
def test_packaged_sensors_have_the_numbers_of_their_data_sheets(name: str, rows: int, highest: float, lowest: float,
                                                                columns: int, range_m: float) -> None:
    sensor = sensor_file(name)
    assert (sensor.rows, sensor.columns, sensor.max_range_m) == (rows, columns, range_m)
    assert sensor.elevations_deg[0] == pytest.approx(highest, abs=0.005)
    assert sensor.elevations_deg[-1] == pytest.approx(lowest, abs=0.005)


def test_uneven_sensors_have_the_gaps_of_their_data_sheets() -> None:
    hdl64e, vlp32c, pandar64 = (-np.diff(sensor_file(name).elevations_deg) for name in ("hdl64e", "vlp32c", "pandar64"))
    assert np.allclose(hdl64e[:32], [1 / 3] * 31 + [1 / 2], atol=2e-4) and np.allclose(hdl64e[32:], 1 / 2, atol=2e-4)
    # A third of a degree (0.333) between +1.667 and -4, wider outside.
    assert np.allclose(vlp32c[6:23], 1 / 3, atol=2e-3) and vlp32c[:6].min() > 0.6 and vlp32c[23:].min() > 0.6
    # A sixth of a degree (0.167) between channels 6 and 54.
    assert np.allclose(pandar64[5:53], 1 / 6, atol=0.008) and pandar64[:5].min() > 0.9 and pandar64[53:].min() > 0.8


def test_every_packaged_sensor_is_tested_here() -> None:
    assert packaged_sensors() == ("hdl32e", "hdl64e", "os1_128", "os1_64", "pandar64", "vlp16", "vlp32c")


def elevations_deg(path: Path, index: int) -> np.ndarray:
    points_m = open_scans(path)[index].points_m.astype(np.float64)
    return np.rad2deg(np.arctan2(points_m[:, 2], np.hypot(points_m[:, 0], points_m[:, 1])))


def nearest_beam(elevation_deg: np.ndarray, sensor: BeamPattern) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each return: the nearest beam, how far off it is, and the gap to the beam on the return's side (the only one at the ends)."""
    beams = np.array(sensor.elevations_deg)
    row = np.abs(elevation_deg[:, None] - beams).argmin(axis=1)
    off = elevation_deg - beams[row]
    gaps = -np.diff(beams)
    above, below = np.concatenate([gaps[:1], gaps]), np.concatenate([gaps, gaps[-1:]])
    return row, np.abs(off), np.where(off > 0, above[row], below[row])


@pytest.mark.parametrize(("name", "folder", "index", "tolerance_deg"), [
    ("hdl64e", "kitti_odometry_00", 0, 0.1), ("hdl64e", "kitti_odometry_00", 9, 0.1), ("hdl64e", "kitti_object", 1, 0.1),
    ("hdl64e", "kitti_raw_22", 0, 0.1), ("hdl32e", "nuscenes_sweep", 0, 0.0), ("hdl32e", "nuscenes_seq", 3, 0.0),
    ("hdl32e", "hdl32_pair", 0, 0.0), ("pandar64", "pandar64", 0, 0.0), ("os1_128", "ouster", 0, 0.05)])
def test_real_returns_lie_on_the_listed_beams(lidar_data: Path, name: str, folder: str, index: int, tolerance_deg: float) -> None:
    sensor = sensor_file(name)
    row, off_deg, gap_deg = nearest_beam(elevations_deg(lidar_data / folder, index), sensor)
    assert np.mean(off_deg <= gap_deg / 2 + tolerance_deg) >= 0.95
    # A beam that no return belongs to is not of this sensor; but KITTI's calibrated HDL-64E end above the nominal lowest one.
    assert len(np.unique(row)) >= sensor.rows - (name == "hdl64e")


@pytest.mark.parametrize(("name", "folder", "index", "within_deg"), [
    ("hdl32e", "hdl32_pair", 0, 0.02), ("hdl32e", "hdl32_pair", 1, 0.02), ("pandar64", "pandar64", 0, 0.01), ("pandar64", "pandar64", 1, 0.01)])
def test_sensors_with_fixed_beams_are_listed_to_the_hundredth(lidar_data: Path, name: str, folder: str, index: int, within_deg: float) -> None:
    sensor = sensor_file(name)
    row, off_deg, _ = nearest_beam(elevations_deg(lidar_data / folder, index), sensor)
    assert np.mean(off_deg <= within_deg) >= 0.99
    # A beam onto the street loses nearly no return, so its returns count the columns of a turn.
    assert np.bincount(row).max() == pytest.approx(sensor.columns, rel=0.02)


def test_the_outer_beams_of_vlp32c_are_where_argoverse_saw_them(lidar_data: Path) -> None:
    # Two VLP-32C on one roof, points in the vehicle's frame and moved to one moment: seen from the upper one, its beams stand out.
    drive = next((lidar_data / "argoverse2").iterdir())
    points_m = np.fromfile(min(drive.glob("*.bin")), dtype="<f4").reshape(-1, 4)[:, :3].astype(np.float64)
    line = next(line.split() for line in (drive / "egovehicle_SE3_sensor.txt").read_text().splitlines() if line.startswith("up_lidar"))
    assert abs(float(line[1])) > 0.9999, "the upper sensor stands upright: its rotation leaves elevations as they are"
    x, y, z = (points_m - np.array(line[5:8], dtype=np.float64)).T
    near = (np.hypot(x, y) > 4) & (np.hypot(x, y) < 60)
    elevation_deg = np.rad2deg(np.arctan2(z, np.hypot(x, y)))[near]

    def returns_near(beam_deg: float) -> int:
        return int(np.count_nonzero(np.abs(elevation_deg - beam_deg) < 0.15))

    beams = np.array(sensor_file("vlp32c").elevations_deg)
    gaps = -np.diff(beams)
    outer = beams[np.minimum(np.append(gaps, 9.0), np.append(9.0, gaps)) > 0.6]
    assert len(outer) == 14
    for beam in outer:
        assert returns_near(beam) > 1.5 * max(returns_near(beam - 0.33), returns_near(beam + 0.33)), f"beam at {beam}"


def test_convention_by_hand(tmp_path: Path) -> None:
    sensor = sensor_file(written(tmp_path, GOOD))
    assert sensor == BeamPattern("Test", "by hand", (30.0, 0.0, -45.0), 4, 50.0)
    rays = sensor.rays(np.array([1, 2, 3], dtype=np.float32))
    directions, half = rays.directions.reshape(3, 4, 3), np.sqrt(0.5)
    assert np.all(rays.origins_m == [1, 2, 3]) and rays.directions.dtype == rays.origins_m.dtype == np.float32
    assert np.allclose(directions[1], [[-1, 0, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0]], atol=1e-6)  # back, left, ahead, right
    assert np.allclose(directions[0, 2], [np.sqrt(3) / 2, 0, 0.5], atol=1e-6)  # the highest beam is row 0
    assert np.allclose(directions[2, 1], [0, half, -half], atol=1e-6)


def test_even_steps_are_those_of_the_spherical_pattern(tmp_path: Path) -> None:
    sensor, pattern = sensor_file(written(tmp_path, EVEN)), SphericalPattern(3, 4, -45.0, 45.0)
    assert sensor.elevations_deg == (45.0, 0.0, -45.0)
    assert np.array_equal(sensor.rays(ORIGIN).directions, pattern.rays(ORIGIN).directions)


def test_a_name_without_a_file_is_told_which_there_are(tmp_path: Path) -> None:
    for wrong in ("hdl64", "../sensors/hdl64e", str(tmp_path / "mine.yml")):
        with pytest.raises(ValueError, match=r"expected one of hdl32e, hdl64e, .*vlp32c, or the path of a \.yaml file, got"):
            sensor_file(wrong)
    with pytest.raises(FileNotFoundError, match="gone.yaml"):
        sensor_file(tmp_path / "gone.yaml")


@pytest.mark.parametrize(("text", "words"), [
    (GOOD + "beams: 3\n", ["unknown key 'beams'", "elevations_deg"]),
    (GOOD + "1: 3\n", ["unknown key 1"]),
    (GOOD + "columns: 8\n", ["every key once", "columns"]),
    (GOOD.replace("columns: 4\n", ""), ["missing key 'columns'"]),
    (GOOD.replace("name: Test\n", ""), ["missing key 'name'"]),
    (GOOD.replace("source: by hand", "source: 12"), ["source", "text", "12"]),
    (GOOD.replace("name: Test", "name: ''"), ["a name and a source", "''"]),
    (GOOD.replace("columns: 4", "columns: 4.0"), ["columns", "whole number", "4.0"]),
    (GOOD.replace("columns: 4", "columns: true"), ["columns", "whole number", "True"]),
    (GOOD.replace("columns: 4", "columns: 0"), ["1 column", "0"]),
    (GOOD.replace("columns: 4", "columns: 1" + "0" * 400), ["columns", "whole number"]),
    (GOOD.replace("range_m: 50", "range_m: '50'"), ["max_range_m", "number", "'50'"]),
    (GOOD.replace("range_m: 50", "range_m: .nan"), ["max_range_m", "number", "nan"]),
    (GOOD.replace("range_m: 50", "range_m: 0"), ["max_range_m above 0"]),
    (GOOD.replace("[30, 0, -45.0]", "30"), ["elevations_deg", "list", "30"]),
    (GOOD.replace("[30, 0, -45.0]", "[30, low]"), ["elevations_deg[1]", "number", "'low'"]),
    (GOOD.replace("[30, 0, -45.0]", "[30]"), ["at least 2 elevations_deg", "1"]),
    (GOOD.replace("[30, 0, -45.0]", "[-45, 0, 30]"), ["highest beam to the lowest", "-45.0 in row 0 before 0.0"]),
    (GOOD.replace("[30, 0, -45.0]", "[30, 0, 0]"), ["each once", "0.0 in row 1 before 0.0"]),
    (GOOD.replace("[30, 0, -45.0]", "[91, 0]"), ["between -90 and 90", "91"]),
    (GOOD + "rows: 3\n", ["either elevations_deg or rows", "both"]),
    (GOOD.replace("elevations_deg: [30, 0, -45.0]\n", ""), ["either elevations_deg or rows", "neither"]),
    (EVEN.replace("elevation_min_deg: -45\n", ""), ["missing key 'elevation_min_deg'"]),
    (EVEN.replace("rows: 3", "rows: 1"), ["rows of at least 2", "1"]),
    (EVEN.replace("min_deg: -45", "min_deg: 50"), ["elevation_min_deg < elevation_max_deg", "50.0 and 45.0"]),
    ("", ["mapping", "NoneType"]), ("- 1\n", ["mapping", "list"]), ("name: [", ["expected YAML"]), ("name: 2020-99-99\n", ["expected YAML"]),
])
def test_wrong_files_are_refused_by_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        sensor_file(written(tmp_path, text))
    for word in ("mine.yaml", *words):
        assert word in str(refusal.value)


def test_a_range_image_gives_each_beam_the_points_up_to_half_way_to_the_next() -> None:
    beams = BeamPattern("Test", "by hand", (10.0, 0.0, -20.0), columns=4, max_range_m=50.0)
    # Half-way: 15 (as far above the first beam as the gap below it), 5, -10 and -30 degrees. All ahead: the middle column.
    elevations_deg = np.array([15.1, 14.9, 5.1, 4.9, -9.9, -10.1, -29.9, -30.1])
    distances_m = np.array([1, 9, 8, 7, 6, 5, 4, 1])
    elevation = np.deg2rad(elevations_deg)
    points_m = (distances_m[:, None] * np.stack([np.cos(elevation), 0 * elevation, np.sin(elevation)], axis=-1)).astype(np.float32)
    image = beams.range_image(points_m, ORIGIN)
    assert image.shape == (3, 4)
    assert image[:, 2] == pytest.approx([8, 6, 4], rel=1e-6), "the nearest of each row"
    assert np.isnan(image[:, [0, 1, 3]]).all()


def test_even_beams_and_the_even_pattern_see_the_same() -> None:
    points_m = np.random.default_rng(2).uniform([-20, -20, -8], [20, 20, 4], (20_000, 3)).astype(np.float32)
    even = SphericalPattern(16, 90, -30.0, 15.0)
    beams = BeamPattern("Test", "by hand", tuple(np.linspace(15.0, -30.0, 16)), columns=90, max_range_m=50.0)
    image = beams.range_image(points_m, ORIGIN)
    assert np.array_equal(image, even.range_image(points_m, ORIGIN), equal_nan=True)
    assert np.isfinite(image).any()


def test_heights_offsets_and_the_least_range_by_hand(tmp_path: Path) -> None:
    text = GOOD + "min_range_m: 0.5\nazimuth_offsets_deg: [0, 90, 0]\norigin_heights_m: [0.2, 0.1, 0]\n"
    sensor = sensor_file(written(tmp_path, text))
    assert (sensor.min_range_m, sensor.azimuth_offsets_deg, sensor.origin_heights_m) == (0.5, (0.0, 90.0, 0.0), (0.2, 0.1, 0.0))
    rays = sensor.rays(np.array([1, 2, 3], dtype=np.float32))
    assert np.allclose(rays.origins_m.reshape(3, 4, 3)[:, 0], [[1, 2, 3.2], [1, 2, 3.1], [1, 2, 3]])
    # The middle beam looks a quarter of a turn to the left of its columns: to the right, back, left, ahead.
    assert np.allclose(rays.directions.reshape(3, 4, 3)[1], [[0, -1, 0], [-1, 0, 0], [0, 1, 0], [1, 0, 0]], atol=1e-6)
    near_m, far_m = (np.array([[0.0, -d, 0.1]], dtype=np.float32) for d in (0.49, 0.51))
    assert np.isnan(sensor.range_image(near_m, ORIGIN)).all()
    image = sensor.range_image(far_m, ORIGIN)
    assert image[1, 0] == pytest.approx(0.51) and np.count_nonzero(np.isfinite(image)) == 1


@pytest.mark.parametrize("distance_m", [1.0, 5.0, 80.0])
def test_a_point_on_a_beam_lands_in_its_pixel_however_the_beams_start(distance_m: float) -> None:
    nominal = sensor_file("hdl64e")
    # As in KITTI's: the upper block 0.2 m above the origin, the lower one 0.12 m, and beams beside each other.
    sensor = BeamPattern(nominal.name, nominal.source, nominal.elevations_deg, 360, 120.0, 0.0,
                         tuple(np.random.default_rng(1).uniform(-8, 8, 64)), (0.2,) * 32 + (0.12,) * 32)
    origin_m = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    rays = sensor.rays(origin_m)
    pixel, measured_m, inside = sensor.pixels(rays.origins_m + np.float32(distance_m) * rays.directions, origin_m)
    # Near the sensor the lower block's first beam and the upper one's last meet.
    apart = np.abs(np.arange(64 * 360) // 360 - 31.5) > 4
    assert inside.all() and np.array_equal(pixel[apart], np.arange(64 * 360)[apart]) and np.allclose(measured_m[apart], distance_m, atol=1e-3)


@pytest.mark.parametrize(("text", "words"), [
    ("min_range_m: -1\n", ["0 <= min_range_m < max_range_m", "-1.0 and 50.0"]),
    ("min_range_m: 50\n", ["0 <= min_range_m < max_range_m", "50.0 and 50.0"]),
    ("min_range_m: near\n", ["min_range_m", "number", "'near'"]),
    ("azimuth_offsets_deg: [1, 2]\n", ["azimuth_offsets_deg", "each of 3 beams, got 2"]),
    ("azimuth_offsets_deg: [1, 2, 181]\n", ["azimuth_offsets_deg", "between -180 and 180"]),
    ("azimuth_offsets_deg: []\n", ["azimuth_offsets_deg", "list", "[]"]),
    ("origin_heights_m: 0.1\n", ["origin_heights_m", "list", "0.1"]),
    ("origin_heights_m: [0, 0, 0.6]\n", ["origin_heights_m", "between -0.5 and 0.5"]),
    ("origin_heights_m: [0, 0, .nan]\n", ["origin_heights_m[2]", "number", "nan"])])
def test_a_wrong_optional_key_is_named_with_what_was_expected(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, GOOD + text)
    with pytest.raises(ValueError) as refusal:
        sensor_file(path)
    assert all(word in str(refusal.value) for word in [str(path), *words])
