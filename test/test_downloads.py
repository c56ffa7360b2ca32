# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Standard downloads, fabricated folder by folder: which files are scans, in which order, and what is ambiguous."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from test_readers import kitti_bytes, nuscenes_bytes, refused, written

from copilot4d_core.data.file_scans import FileList
from copilot4d_core.data.scan import ScanSource
from copilot4d_core.data.sources import open_all, open_scans
from copilot4d_core.data.waymo import read_waymo

SWEEP = "n015-2018-07-24-11-22-45+0800__LIDAR_TOP__{}.pcd.bin"
OTHER_DRIVE = "n008-2018-08-01-15-16-36-0400__LIDAR_TOP__{}.pcd.bin"


def kitti_file(path: Path, x_m: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return written(path, kitti_bytes([(x_m, 1.0, -1.0, 0.5)]))


def first_x_m(source: ScanSource) -> list[float]:
    return [float(scan.points_m[0, 0]) for scan in source]


# KITTI Odometry and SemanticKITTI

@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    sequences = tmp_path / "kitti" / "dataset" / "sequences"
    for sequence, frame, x_m in (("02", 0, 20), ("00", 1, 2), ("00", 0, 1), ("11", 0, 110)):
        kitti_file(sequences / sequence / "velodyne" / f"{frame:06d}.bin", x_m)
        (sequences / sequence / "times.txt").write_text("0\n")
        written(sequences / sequence / "calib.txt", b"Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    (sequences / "00" / "labels").mkdir()  # SemanticKITTI
    written(sequences / "00" / "labels" / "000000.label", b"\0\0\0\0")
    (sequences / "00" / "image_0").mkdir()
    (sequences / "21").mkdir()  # without scans
    (tmp_path / "kitti" / "dataset" / "poses").mkdir()
    return tmp_path / "kitti"


def test_kitti_from_its_root_down_to_one_sequence(kitti: Path) -> None:
    for root in (kitti, kitti / "dataset", kitti / "dataset" / "sequences"):
        source = open_scans(root)
        assert source.name == root.name and len(source) == 4
        assert first_x_m(source) == [1, 2, 20, 110] and source[-1].points_m[0, 0] == 110
    assert [scan.name for scan in open_scans(kitti)] == [
        "dataset/sequences/00/velodyne/000000", "dataset/sequences/00/velodyne/000001", "dataset/sequences/02/velodyne/000000",
        "dataset/sequences/11/velodyne/000000"]
    one = open_scans(kitti / "dataset" / "sequences" / "00")
    assert one.name == "00" and first_x_m(one) == [1, 2] and one[1].name == "000001"
    assert first_x_m(open_scans(kitti / "dataset" / "sequences" / "00" / "velodyne")) == [1, 2]


def test_a_download_through_links(kitti: Path, tmp_path: Path) -> None:
    (tmp_path / "here" / "sequences").mkdir(parents=True)
    (tmp_path / "here" / "sequences" / "00").symlink_to(kitti / "dataset" / "sequences" / "00")
    assert first_x_m(open_scans(tmp_path / "here")) == [1, 2]


def test_a_download_whose_scans_are_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sequences" / "00").mkdir(parents=True)
    (tmp_path / "sequences" / "00" / "calib.txt").touch()
    with refused(["expected KITTI", "found none"]):
        open_scans(tmp_path)


# nuScenes

@pytest.fixture
def nuscenes(tmp_path: Path) -> Path:
    root = tmp_path / "nuscenes"
    for folder, name, x_m in (("samples", SWEEP.format(1532402927647951), 4), ("sweeps", SWEEP.format(1532402927698025), 5),
                              ("sweeps", SWEEP.format(1532402927597804), 3), ("samples", SWEEP.format(1532402928147847), 6),
                              ("sweeps", OTHER_DRIVE.format(1533151603547590), 2)):
        (root / folder / "LIDAR_TOP").mkdir(parents=True, exist_ok=True)
        written(root / folder / "LIDAR_TOP" / name, nuscenes_bytes([(x_m, 8.0, 0.5, 12.0, 3.0), (0.3, -0.8, -0.4, 9.0, 1.0)]))
    (root / "samples" / "CAM_FRONT").mkdir()
    (root / "v1.0-trainval").mkdir()
    return root


def test_nuscenes_keyframes_and_sweeps_are_one_drive_in_time(nuscenes: Path) -> None:
    source = open_scans(nuscenes)
    # Drive by drive (n008 before n015), and in each by the time in the name, whichever folder the file is in.
    assert source.name == "nuscenes" and first_x_m(source) == [2, 3, 4, 5, 6]
    assert [scan.stamp_ns for scan in source][1:3] == [1532402927597804000, 1532402927647951000]
    assert source[2].name == f"samples/LIDAR_TOP/{SWEEP.format(1532402927647951).removesuffix('.pcd.bin')}"
    assert [scan.dropped for scan in source] == [1] * 5  # the return from the vehicle's own roof
    assert first_x_m(open_scans(nuscenes / "samples" / "LIDAR_TOP")) == [4, 6]


# Argoverse 2

@pytest.fixture
def argoverse(tmp_path: Path) -> Path:
    pytest.importorskip("pyarrow", reason="Argoverse 2 needs pyarrow: pip install '.[data]'")
    from argoverse_log import write_calibration, write_sweep

    for log, time_ns, z_m in (("b", 10, 3), ("a", 30, 2), ("a", 20, 1)):
        write_sweep(tmp_path / "sensor" / "train" / log, time_ns, [(1, 0, 2 + z_m, 0, 0)])
        write_calibration(tmp_path / "sensor" / "train" / log)
    (tmp_path / "sensor" / "train" / "a" / "map").mkdir()
    return tmp_path / "sensor"


def test_argoverse_root_split_and_log(argoverse: Path) -> None:
    for root in (argoverse, argoverse / "train"):
        source = open_scans(root)
        assert [float(scan.points_m[0, 2]) for scan in source] == [1, 2, 3] and [scan.stamp_ns for scan in source] == [20, 30, 10]
    assert source[0].name == "a/sensors/lidar/20"
    assert [scan.name for scan in open_scans(argoverse / "train" / "a")] == ["20", "30"]
    assert len(open_scans(argoverse / "train" / "a" / "sensors" / "lidar")) == 2
    assert open_scans(argoverse / "train" / "b" / "sensors" / "lidar" / "10.feather")[0].sensor is not None


def test_several_splits_are_refused_by_name(argoverse: Path) -> None:
    (argoverse / "val").mkdir()
    (argoverse / "train" / "b").rename(argoverse / "val" / "b")
    with refused([str(argoverse), "one split", "train, val", f"{argoverse}/train {argoverse}/val"]):
        open_scans(argoverse)
    assert [len(source) for source in open_all([argoverse / "train", argoverse / "val"], None)] == [2, 1]


# Waymo as MMDetection3D converts it

def waymo_bytes(points: list[tuple[float, float, float, float, float, float]]) -> bytes:
    return b"".join(struct.pack("<6f", *p) for p in points)


TOP = [(11.43, 5.0, 2.184, 0.5, 0.25, 7.0), (1.43, -3.0, 0.184, 12.5, 0.0, 169_599.0)]
"""Two first returns of the top LiDAR: 10 m ahead and 5 m to the left of it; 3 m to the right and 2 m below. 64 * 2650 is 169,600."""
SIDE = (4.0, 2.0, 0.5, 0.1, 0.0, -1.0)
SECOND = (21.43, 5.0, 2.184, 0.5, 0.25, 169_607.0)
"""Farther on the ray of the first point."""


def test_waymo_points_by_hand(tmp_path: Path) -> None:
    scan = read_waymo(written(tmp_path / "0000000.bin", waymo_bytes([*TOP, SIDE, SECOND, SIDE])))
    assert np.allclose(scan.points_m, [[10, 5, 0], [0, -3, -2]], atol=1e-6) and scan.origins_m.tolist() == [[0, 0, 0]]
    assert scan.intensity is not None and scan.intensity.tolist() == [0.5, 12.5]
    assert scan.dropped == 3 and scan.raw_bytes == 120


def test_waymo_refusals(tmp_path: Path) -> None:
    with refused(["a.bin", "24 bytes", "32 bytes"]):
        read_waymo(written(tmp_path / "a.bin", kitti_bytes()[:32]))
    for last in (1.5e15, 0.5, 339_200.0, -2.0, float("nan")):
        with refused(["b.bin", "sixth value", "339199"]):
            read_waymo(written(tmp_path / "b.bin", waymo_bytes([(*TOP[0][:5], last)])))
    with refused(["c.bin", "rising"]):
        read_waymo(written(tmp_path / "c.bin", waymo_bytes([TOP[0], TOP[0]])))


@pytest.fixture
def waymo(tmp_path: Path) -> Path:
    velodyne = tmp_path / "waymo" / "kitti_format" / "training" / "velodyne"
    velodyne.mkdir(parents=True)
    for name, x_m in (("0001000", 3), ("0000001", 2), ("0000000", 1)):
        written(velodyne / f"{name}.bin", waymo_bytes([(1.43 + x_m, *TOP[0][1:]), SIDE]))
    (velodyne.parent / "calib").mkdir()
    (velodyne.parent.parent / "ImageSets").mkdir()
    return tmp_path / "waymo"


def test_waymo_root_split_and_file(waymo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = waymo / "kitti_format" / "training"
    for root in (waymo, split.parent, split, split / "velodyne"):
        source = open_scans(root)
        assert source.name == root.name and np.allclose(first_x_m(source), [1, 2, 3], atol=1e-6) and source[1].dropped == 1
    assert open_scans(split / "velodyne" / "0001000.bin")[0].points_m[0, 0] == pytest.approx(3, abs=1e-6)
    monkeypatch.chdir(split / "velodyne")
    for here in (Path("."), Path("0000000.bin")):
        assert open_scans(here)[0].points_m[0, 0] == pytest.approx(1, abs=1e-6)
    assert open_scans(Path(".")).name == "velodyne"


def test_waymo_splits_are_refused_by_name(waymo: Path) -> None:
    root = waymo / "kitti_format"
    (root / "validation" / "velodyne").mkdir(parents=True)
    written(root / "validation" / "velodyne" / "1000000.bin", waymo_bytes(TOP))
    with refused([str(root), "one split", "training, validation"]):
        open_scans(waymo)
    assert [len(source) for source in open_all([root / "training", root / "validation"], None)] == [3, 1]


def test_waymo_read_as_kitti_is_refused(tmp_path: Path) -> None:
    elsewhere = written(tmp_path / "frame.bin", waymo_bytes([*TOP, SIDE, SIDE]))
    with refused(["frame.bin", "every fourth value", "Waymo"]):
        open_scans(elsewhere)[0]


# All of them

def test_two_data_sets_in_one_folder_are_refused(nuscenes: Path) -> None:
    kitti_file(nuscenes / "sequences" / "00" / "velodyne" / "000000.bin", 1)
    with refused(["one data set", "KITTI", "nuScenes", "name one"]):
        open_scans(nuscenes)


def test_a_topic_is_for_the_bags_among_the_data(kitti: Path) -> None:
    with refused(["topic", "/points", "only for bags"]):
        open_scans(kitti, topic="/points")
    with refused(["topic", "/points", "only for bags"]):
        open_all([kitti], "/points")


def test_no_file_is_opened_until_its_scan_is_asked_for(kitti: Path) -> None:
    sequence = kitti / "dataset" / "sequences" / "02" / "velodyne"
    written(sequence / "000000.bin", b"broken")
    source = open_scans(kitti)
    assert len(source) == 4 and source[3].points_m[0, 0] == 110
    with refused([str(sequence / "000000.bin"), "16 bytes"]):
        source[2]


def test_many_names_take_few_bytes() -> None:
    names = [[f"{frame:06d}.bin" for frame in range(10_000)] for _ in range(40)]
    files = FileList([Path(f"/data/sequences/{number:02d}/velodyne") for number in range(40)], names)
    assert len(files) == 400_000 and files[-1] == Path("/data/sequences/39/velodyne/009999.bin")
    assert files[123_456] == Path("/data/sequences/12/velodyne/003456.bin")
    # A name of 10 bytes, and 4 bytes for its folder.
    assert sum(array.nbytes for array in vars(files).values() if isinstance(array, np.ndarray)) == 400_000 * 14


def test_names_that_are_no_text_are_read(tmp_path: Path) -> None:
    kitti_file(tmp_path / "Straße 7" / "übung.bin", 9)
    assert first_x_m(open_scans(tmp_path / "Straße 7")) == [9] and open_scans(tmp_path / "Straße 7")[0].name == "übung"
