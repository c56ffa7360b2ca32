# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The fitted sensor against simulated ones, whose beams are known, and against the makers' numbers on real recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.cli import main
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensor_file import read_sensor_file, sensor_file, write_sensor_file
from copilot4d_core.data.sensor_fit import FittedSensor, fit_sensor, some_scans
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.data.simulator import SENSORS, simulate_drive, simulate_sweeps
from copilot4d_core.data.sources import open_scans
from copilot4d_core.grid import FloatArray

ORIGIN = np.zeros(3, dtype=np.float32)


def scan_of(points_m: FloatArray) -> Scan:
    return scan_from_points("made", points_m.astype(np.float32), None, raw_bytes=0)


def recorded(sensor: BeamPattern, seed: int, turn_rad: float = 0.0) -> Scan:
    """A turn of a sensor in a world of random distances, in which a fifth of the beams meet nothing."""
    rng = np.random.default_rng(seed)
    rays = sensor.rays(ORIGIN)
    points_m = rays.origins_m + rays.directions * rng.uniform(3, 60, (len(rays.directions), 1)).astype(np.float32)
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    turned = points_m @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], dtype=np.float32)
    return scan_of(turned[rng.uniform(size=len(turned)) > 0.2])


@pytest.mark.parametrize("name", list(SENSORS))
@pytest.mark.parametrize("seed", [3, 8])
def test_simulated_sensors_are_found_again(name: str, seed: int) -> None:
    _, sweep = next(iter(simulate_sweeps(seed, 1, name)))
    rows, columns = len(SENSORS[name].elevations_deg), SENSORS[name].columns
    # The beams as they were shot, also those of which nothing came back.
    truth_deg = np.rad2deg(np.arcsin(sweep.rays.directions.reshape(rows, columns, 3)[:, 0, 2].astype(np.float64)))
    fitted = fit_sensor(list(simulate_drive(seed, 2, name)), "Test")
    assert fitted.pattern.rows == rows
    assert np.abs(np.array(fitted.pattern.elevations_deg) - np.sort(truth_deg)[::-1]).max() < 0.05
    assert fitted.pattern.columns == pytest.approx(columns, rel=0.01)
    assert fitted.explained > 0.99 and fitted.off_deg < 0.01
    assert SENSORS[name].min_range_m <= fitted.pattern.min_range_m + 0.1 and fitted.pattern.max_range_m <= SENSORS[name].max_range_m + 1
    assert all(abs(height) < 0.005 for height in fitted.pattern.origin_heights_m)


@pytest.fixture(scope="module")
def fitted(lidar_data: Path) -> dict[str, FittedSensor]:
    return {folder: fit_sensor(some_scans([open_scans(lidar_data / folder)], most=3), folder)
            for folder in ("ouster/os1_128_0.bin", "ouster/os1_32.bin", "hdl32_pair", "pandar64", "kitti_object", "kitti_raw_22")}


# Beams of the maker's; how far the outermost of a calibrated sensor lie beside the nominal ones.
@pytest.mark.parametrize(("folder", "name", "beams", "within_deg"), [
    ("hdl32_pair", "hdl32e", 32, 0.02), ("pandar64", "pandar64", 64, 0.01), ("ouster/os1_128_0.bin", "os1_128", 128, 0.8),
    ("kitti_object", "hdl64e", 64, 1.0), ("kitti_raw_22", "hdl64e", 64, 1.0)])
def test_real_sensors_have_the_beams_of_their_data_sheets(fitted: dict[str, FittedSensor], folder: str, name: str, beams: int,
                                                          within_deg: float) -> None:
    sheet, found = sensor_file(name), fitted[folder].pattern
    assert found.rows == sheet.rows == beams
    assert found.elevations_deg[0] == pytest.approx(sheet.elevations_deg[0], abs=within_deg)
    assert found.elevations_deg[-1] == pytest.approx(sheet.elevations_deg[-1], abs=within_deg)
    if within_deg < 0.1:  # sensors whose beams are not calibrated one by one
        assert np.allclose(found.elevations_deg, sheet.elevations_deg, atol=within_deg)
    # KITTI's turned 3 % more slowly than ten times a second: its beams onto the street have up to 2,152 returns a turn.
    assert found.columns == pytest.approx(sheet.columns, rel=0.035 if name == "hdl64e" else 0.01)
    assert fitted[folder].explained > 0.99 and fitted[folder].off_deg < 0.01


def test_beams_start_where_the_makers_put_them(fitted: dict[str, FittedSensor]) -> None:
    # Ouster's metadata put the lasers of an OS1 36.18 mm above the origin of its sensor frame (lidar_to_sensor_transform).
    for name in ("ouster/os1_128_0.bin", "ouster/os1_32.bin"):
        assert np.median(fitted[name].pattern.origin_heights_m) == pytest.approx(0.03618, abs=0.002)
    assert fitted["ouster/os1_32.bin"].pattern.rows == 32
    # An HDL-64E has two blocks of 32 lasers; those of one block start close together.
    for name in ("kitti_object", "kitti_raw_22"):
        steps = -np.diff(fitted[name].pattern.origin_heights_m)
        assert int(np.argmax(steps)) in (31, 32)  # between beam 32 and 33 or, where their elevations cross, one below
        assert steps.max() > 0.05 and np.sort(steps)[-2] < 0.005
    # One recorded both, so it is one sensor.
    one, other = (np.array(fitted[name].pattern.elevations_deg) for name in ("kitti_object", "kitti_raw_22"))
    assert np.abs(one - other).max() < 0.05


def test_beams_of_a_pandar64_look_beside_each_other_as_its_manual_says(fitted: dict[str, FittedSensor]) -> None:
    # Manual 640-en: the fine channels look 1.042, 3.125 and 5.208 degrees to either side, one after the other; a column is 0.2 degrees.
    offsets_deg = np.array(fitted["pandar64"].pattern.azimuth_offsets_deg)[5:53]
    beside = offsets_deg - offsets_deg[0] - (np.tile([1.042, -1.042, -3.125, -5.208, 5.208, 3.125], 8) - 1.042)
    assert np.abs(beside - 0.2 * np.round(beside / 0.2)).max() < 0.005


def test_staggered_beams_and_their_heights_are_found_again() -> None:
    # 0, 0.4, 0.8 and -0.6 degrees beside columns of one degree; the lower half starts 0.1 m lower.
    sensor = BeamPattern("Test", "by hand", tuple(np.linspace(10.0, -20.0, 16)), columns=360, max_range_m=100.0,
                         azimuth_offsets_deg=(0.0, 0.4, 0.8, -0.6) * 4, origin_heights_m=(0.2,) * 8 + (0.1,) * 8)
    found = fit_sensor([recorded(sensor, seed, turn_rad=0.001 * seed) for seed in range(3)], "Test").pattern
    assert np.allclose(found.elevations_deg, sensor.elevations_deg, atol=0.01)
    assert np.allclose(found.origin_heights_m, sensor.origin_heights_m, atol=0.005)
    assert found.columns == 360
    # Which beam counts as 0 is open, and so is a whole column: 0.8 is -0.2.
    beside = np.array(found.azimuth_offsets_deg) - found.azimuth_offsets_deg[0] - sensor.azimuth_offsets_deg
    assert np.allclose(beside - np.round(beside), 0, atol=0.01)


def test_columns_of_every_turn_for_itself_have_no_offsets() -> None:
    rng = np.random.default_rng(5)
    elevation = np.deg2rad(np.repeat(np.linspace(10, -20, 16), 360))
    azimuth = np.deg2rad(np.tile(np.arange(360), 16) + np.repeat(rng.uniform(0, 1, 16), 360) + rng.uniform(-0.4, 0.4, 16 * 360))
    flat = rng.uniform(6, 60, 16 * 360)
    points_m = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), flat * np.tan(elevation)], axis=1)
    assert fit_sensor([scan_of(points_m)], "Test").pattern.azimuth_offsets_deg == ()


def two_sensors() -> Scan:
    (upper,), (lower,) = simulate_drive(3, 1, "hdl32"), simulate_drive(3, 1, "os1_64")
    tilted = lower.points_m @ np.array([[0.94, 0, -0.34], [0, 1, 0], [0.34, 0, 0.94]], dtype=np.float32)
    return scan_of(np.concatenate([upper.points_m, tilted + np.array([1.0, 0.5, -0.8], dtype=np.float32)]))


def anywhere() -> Scan:
    return scan_of(np.random.default_rng(0).uniform([-40, -40, -3], [40, 40, 3], (20_000, 3)))


@pytest.mark.parametrize("made", [two_sensors, anywhere])
def test_a_cloud_without_the_beams_of_one_sensor_is_refused_with_the_reason(made: object) -> None:
    with pytest.raises(ValueError, match="expected the returns to lie on the beams of one sensor.*two sensors.*motion taken out"):
        fit_sensor([made()], "Test")  # type: ignore[operator]


def test_a_cloud_moved_to_one_moment_is_refused(lidar_data: Path) -> None:
    with pytest.raises(ValueError, match="90% are needed"):
        fit_sensor([open_scans(lidar_data / "kitti_odometry_00")[0]], "Test")


def test_too_few_returns_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1000 returns, got 300 in 1 scans"):
        fit_sensor([scan_of(np.ones((300, 3), dtype=np.float32))], "Test")


def test_scans_are_spread_over_all_sources() -> None:
    class Numbers:
        name = "numbers"

        def __init__(self, first: int, count: int) -> None:
            self.first, self.count = first, count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> int:
            return self.first + index

    assert some_scans([Numbers(0, 30), Numbers(100, 15)], most=15) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 100, 103, 106, 109, 112]  # type: ignore[list-item]
    assert some_scans([Numbers(0, 3)]) == [0, 1, 2]  # type: ignore[list-item]


def test_a_written_file_reads_back_the_same(tmp_path: Path) -> None:
    for sensor in (BeamPattern("Größe", "by hand", (3.0, -0.0001, -7.5), 1800, 90.0, 1.5, (0.25, 0.0, -0.25), (0.2, 0.1, 0.1)),
                   BeamPattern("Plain", "by hand", (3.0, -7.5), 1800, 90.0), sensor_file("hdl64e")):
        write_sensor_file(sensor, tmp_path / "mine.yaml")
        assert read_sensor_file(tmp_path / "mine.yaml") == sensor


def test_the_command_writes_a_file_that_every_sensor_argument_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = list(simulate_drive(4, 2, "vlp16"))
    for scan in scans:
        np.column_stack([scan.points_m, scan.intensity]).astype("<f4").tofile(tmp_path / f"{scan.name}.bin")
    out = tmp_path / "mine.yaml"
    assert main(["fit-sensor", str(tmp_path), "--out", str(out), "--name", "Puck of this robot"]) == 0
    sensor = sensor_file(out)
    assert (sensor.name, sensor.rows) == ("Puck of this robot", 16)
    told = capsys.readouterr().out
    assert "16 beams from" in told and "columns" in told and f"of {sum(len(scan.points_m) for scan in scans):,} returns in 2 scans" in told


@pytest.mark.parametrize(("arguments", "words"), [
    (["absent", "--out", "mine.yaml"], "absent: expected KITTI"),
    (["thin.bin", "--out", "mine.yaml"], "at least 1000 returns, got 5"),
    (["thin.bin", "--out", "mine.txt"], "ends in .yaml"),
    (["thin.bin", "--out", "nowhere/mine.yaml"], "the folder nowhere does not exist")])
def test_wrong_use_is_named_and_writes_nothing(arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    np.ones((5, 4), dtype="<f4").tofile("thin.bin")
    assert main(["fit-sensor", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thin.bin"]
