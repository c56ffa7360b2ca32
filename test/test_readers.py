# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Files of every kind, written byte by byte or by the `rosbags` library, and the real recordings where they are there."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from copilot4d_core.data.bag import CLOUD_TYPE, BagScans, messages, write_cloud_bag
from copilot4d_core.data.kitti import read_kitti
from copilot4d_core.data.lzf import decompress
from copilot4d_core.data.nuscenes import read_nuscenes
from copilot4d_core.data.pcd import read_pcd
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sources import open_scans

POINTS = [(1.5, -2.25, 0.5, 0.25), (10.0, 20.0, -1.0, 0.5), (-3.0, 4.0, 100.0, 0.75)]


def refused(words: list[str]) -> Any:
    return pytest.raises(ValueError, match=".*".join(map(re.escape, words)))


def kitti_bytes(points: list[tuple[float, float, float, float]] = POINTS) -> bytes:
    return b"".join(struct.pack("<4f", *p) for p in points)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# KITTI

def test_kitti_file(tmp_path: Path) -> None:
    scan = read_kitti(written(tmp_path / "000007.bin", kitti_bytes()))
    assert scan.name == "000007" and scan.stamp_ns is None and scan.frame_id == ""
    assert scan.points_m.tolist() == [list(p[:3]) for p in POINTS] and scan.points_m.dtype == np.float32
    assert scan.intensity is not None and scan.intensity.tolist() == [0.25, 0.5, 0.75]
    assert scan.origin_m.tolist() == [0, 0, 0] and scan.dropped == 0 and scan.raw_bytes == 48


def test_kitti_points_without_a_return_are_counted(tmp_path: Path) -> None:
    points = [(0.0, 0.0, 0.0, 0.0), *POINTS, (float("nan"), 1.0, 1.0, 0.0)]
    scan = read_kitti(written(tmp_path / "a.bin", kitti_bytes(points)))
    assert len(scan.points_m) == 3 and scan.dropped == 2 and scan.intensity is not None and len(scan.intensity) == 3


def test_an_empty_kitti_file_is_an_empty_scan(tmp_path: Path) -> None:
    assert read_kitti(written(tmp_path / "a.bin", b"")).points_m.shape == (0, 3)


def test_kitti_refusals(tmp_path: Path) -> None:
    with refused(["short.bin", "16 bytes", "47 bytes"]):
        read_kitti(written(tmp_path / "short.bin", kitti_bytes()[:-1]))
    # Five values a point, twelve of them: 240 bytes is a multiple of 16, too.
    five = b"".join(struct.pack("<5f", -1.0, -2.0, -1.5, 30.0, 4.0) for _ in range(12))
    with refused(["five.bin", "every fourth value", "pcd.bin"]):
        read_kitti(written(tmp_path / "five.bin", five))
    doubles = b"".join(struct.pack("<4d", 1.1 * i, 2.2 * i, 0.3, 0.5) for i in range(1, 50))
    with refused(["doubles.bin", "expected"]):
        read_kitti(written(tmp_path / "doubles.bin", doubles))
    millimetres = kitti_bytes([(1e5 * p[0], 1e5 * p[1], 1e5 * p[2], p[3]) for p in POINTS])
    with refused(["mm", "10000 m", "3 of 3"]):
        read_kitti(written(tmp_path / "mm.bin", millimetres))


# nuScenes

def nuscenes_bytes(points: list[tuple[float, float, float, float, float]]) -> bytes:
    return b"".join(struct.pack("<5f", *p) for p in points)


def test_nuscenes_file_without_the_own_vehicle(tmp_path: Path) -> None:
    roof, street = (0.3, -0.8, -0.4, 9.0, 1.0), (0.0, 0.5, -1.84, 3.0, 31.0)
    data = nuscenes_bytes([(5.0, 6.0, 0.5, 12.0, 3.0), roof, street, (0.0, 0.0, 0.0, 0.0, 0.0)])
    scan = read_nuscenes(written(tmp_path / "n015__1.pcd.bin", data))
    assert scan.name == "n015__1" and scan.dropped == 2 and scan.raw_bytes == 80
    assert scan.points_m.tolist() == [[5, 6, 0.5], [0, 0.5, float(np.float32(-1.84))]]
    assert scan.intensity is not None and scan.intensity.tolist() == [12.0, 3.0]


def test_nuscenes_refusals(tmp_path: Path) -> None:
    with refused(["a.pcd.bin", "20 bytes", "48 bytes"]):
        read_nuscenes(written(tmp_path / "a.pcd.bin", kitti_bytes()))
    with refused(["b.pcd.bin", "ring", "0.5"]):
        read_nuscenes(written(tmp_path / "b.pcd.bin", nuscenes_bytes([(5.0, 6.0, 0.5, 12.0, 0.5)])))


# PCD

def pcd(data: str, body: bytes, **changes: str) -> bytes:
    lines = {"VERSION": "0.7", "FIELDS": "x y z intensity ring", "SIZE": "4 4 4 4 2", "TYPE": "F F F F U", "COUNT": "1 1 1 1 1",
             "WIDTH": "3", "HEIGHT": "1", "VIEWPOINT": "0 0 0 1 0 0 0", "POINTS": "3", **changes, "DATA": data}
    header = "# .PCD v0.7 - Point Cloud Data file format\n" + "".join(f"{k} {v}\n" for k, v in lines.items() if v)
    return header.encode() + body


BINARY = b"".join(struct.pack("<4fH", *p, i) for i, p in enumerate(POINTS))
COLUMNS = b"".join(struct.pack("<3f", *column) for column in zip(*POINTS, strict=True)) + struct.pack("<3H", 0, 1, 2)
ASCII = "".join(f"{x} {y} {z} {i} {n}\n" for n, (x, y, z, i) in enumerate(POINTS)).encode()


def literals(data: bytes) -> bytes:
    """LZF of the plainest kind: runs of up to 32 bytes, each after its length less one."""
    return b"".join(bytes([len(data[i:i + 32]) - 1]) + data[i:i + 32] for i in range(0, len(data), 32))


def compressed(columns: bytes) -> bytes:
    packed = literals(columns)
    return struct.pack("<2I", len(packed), len(columns)) + packed


@pytest.mark.parametrize(("data", "body"), [("ascii", ASCII), ("binary", BINARY), ("binary_compressed", compressed(COLUMNS))])
def test_pcd_of_every_kind(tmp_path: Path, data: str, body: bytes) -> None:
    scan = read_pcd(written(tmp_path / "cloud.pcd", pcd(data, body)))
    assert scan.name == "cloud" and scan.points_m.tolist() == [list(p[:3]) for p in POINTS]
    assert scan.intensity is not None and scan.intensity.tolist() == [0.25, 0.5, 0.75]


def test_pcd_with_other_fields_and_order(tmp_path: Path) -> None:
    body = b"".join(struct.pack("<d3Bd2d", z, 1, 2, 3, x, y, 9.0) for x, y, z, _ in POINTS)
    scan = read_pcd(written(tmp_path / "a.pcd", pcd("binary", body, FIELDS="z rgb x y t", SIZE="8 1 8 8 8", TYPE="F U F F F",
                                                   COUNT="1 3 1 1 1")))
    assert scan.points_m.tolist() == [list(p[:3]) for p in POINTS] and scan.intensity is None


def test_pcd_without_count_viewpoint_and_with_a_page_of_zeros(tmp_path: Path) -> None:
    scan = read_pcd(written(tmp_path / "a.pcd", pcd("binary", BINARY + bytes(4096), COUNT="", VIEWPOINT="")))
    assert len(scan.points_m) == 3


def test_ascii_pcd_with_nan_and_no_return(tmp_path: Path) -> None:
    body = b"nan nan nan 0 0\n1 2 3 4 5\n0 0 0 0 0\n"
    scan = read_pcd(written(tmp_path / "a.pcd", pcd("ascii", body)))
    assert scan.points_m.tolist() == [[1, 2, 3]] and scan.dropped == 2


def test_pcd_of_no_points(tmp_path: Path) -> None:
    empty = struct.pack("<2I", 0, 0)
    for data, body in (("ascii", b""), ("binary", b""), ("binary_compressed", empty)):
        scan = read_pcd(written(tmp_path / "a.pcd", pcd(data, body, WIDTH="0", POINTS="0")))
        assert scan.points_m.shape == (0, 3)


@pytest.mark.parametrize(("content", "words"), [
    (b"", ["DATA line"]),
    (b"VERSION 0.7\n" * 10_000, ["DATA line", "65536"]),
    (pcd("binary", BINARY[:-1]), ["54 bytes", "got 53"]),
    (pcd("binary", BINARY + b"\1" * 18), ["54 bytes", "got 72"]),
    (pcd("binary", BINARY, WIDTH="4000000000", POINTS="4000000000"), ["72000000000 bytes", "got 54"]),
    (pcd("binary", BINARY, POINTS="2"), ["3 * 1", "got 2"]),
    (pcd("binary", BINARY, WIDTH="-3", POINTS="-3"), ["POINTS", "-3"]),
    (pcd("binary", BINARY, FIELDS="a b c intensity ring"), ["missing x, y, z"]),
    (pcd("binary", BINARY, TYPE="I F F F U"), ["field x", "i4"]),
    (pcd("binary", BINARY, TYPE="X F F F U"), ["field x", "TYPE F, I or U"]),
    (pcd("binary", BINARY, COUNT="2 1 1 1 1"), ["field x", "COUNT 2"]),
    (pcd("binary", BINARY, SIZE="4 4 4"), ["as many SIZE", "got 3"]),
    (pcd("binary", BINARY, FIELDS=""), ["missing FIELDS"]),
    (pcd("binary", BINARY, VIEWPOINT="1 0 0 1 0 0 0"), ["VIEWPOINT", "1 0 0 1 0 0 0"]),
    (pcd("zipped", BINARY), ["DATA ascii", "zipped"]),
    (pcd("ascii", ASCII[:ASCII.rindex(b"-3.0")]), ["POINTS says", "got 2"]),
    (pcd("ascii", ASCII.replace(b"10.0 ", b"")), ["5 values", "point 1 has 4"]),
    (pcd("ascii", ASCII.replace(b"10.0", b"ten")), ["ten"]),
    (pcd("binary_compressed", b"\0\0\0"), ["8 bytes", "got 3"]),
    (pcd("binary_compressed", compressed(COLUMNS)[:-4]), ["compressed points", "got"]),
    (pcd("binary_compressed", compressed(COLUMNS[:-2])), ["uncompressed size of 54", "got 52"]),
    (pcd("binary_compressed", struct.pack("<2I", 2, 54) + b"\x1fa"), ["ends inside a run"]),
])
def test_broken_pcd_is_refused_by_name(tmp_path: Path, content: bytes, words: list[str]) -> None:
    with refused(["broken.pcd", *words]):
        read_pcd(written(tmp_path / "broken.pcd", content))


def test_lzf_by_hand() -> None:
    # "abc", then 2 + 2 bytes from 3 back, then 7 + 2 + 5 bytes from 1 back (a run of one letter that overlaps itself).
    packed = bytes([2]) + b"abc" + bytes([2 << 5, 2]) + bytes([7 << 5, 5, 0])
    assert decompress(memoryview(packed), 21) == b"abcabca" + b"a" * 14
    far = literals(bytes(range(256)) * 2) + bytes([(1 << 5) | 1, 0xFF])
    assert decompress(memoryview(far), 515) == bytes(range(256)) * 2 + bytes([0, 1, 2])


@pytest.mark.parametrize(("packed", "words"), [
    (bytes([2]) + b"ab", "inside a run"), (bytes([0, 65, 1 << 5]), "inside a run"), (bytes([0, 65, 7 << 5, 4]), "inside a run"),
    (bytes([0, 65, 1 << 5, 1]), "1 bytes before the start"), (bytes([0, 65, 7 << 5, 255, 0]), "got more"),
    (bytes([0, 65]), "got 1")])
def test_broken_lzf_is_refused(packed: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decompress(memoryview(packed), 20)


# Folders

def test_folder_in_order_of_names(tmp_path: Path) -> None:
    for name in ("000002", "000000", "000010"):
        written(tmp_path / f"{name}.bin", kitti_bytes())
    for name in ("poses.txt", "times.csv", "notes.md"):
        (tmp_path / name).write_text("0 0 0")
    source = open_scans(tmp_path)
    assert source.name == tmp_path.name and len(source) == 3
    assert [scan.name for scan in source] == ["000000", "000002", "000010"]
    assert source[-1].name == "000010" and source[1].name == "000002"
    with pytest.raises(IndexError):
        source[3]


def test_single_files_by_ending(tmp_path: Path) -> None:
    written(tmp_path / "a.bin", kitti_bytes())
    written(tmp_path / "b.pcd.bin", nuscenes_bytes([(5.0, 6.0, 0.5, 12.0, 3.0)]))
    written(tmp_path / "c.pcd", pcd("ascii", ASCII))
    assert [open_scans(tmp_path / name)[0].name for name in ("a.bin", "b.pcd.bin", "c.pcd")] == ["a", "b", "c"]
    assert open_scans(tmp_path / "b.pcd.bin").name == "b"


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with refused(["expected KITTI", "found none"]):
        open_scans(tmp_path)
    with refused(["nowhere", "no such"]):
        open_scans(tmp_path / "nowhere")
    (tmp_path / "x.feather").write_bytes(b"ARROW1")
    written(tmp_path / "a.bin", kitti_bytes())
    with refused(["1 .bin, 1 .feather", "name one file"]):
        open_scans(tmp_path)
    with refused(["topic", "/points", "only for bags"]):
        open_scans(tmp_path / "a.bin", topic="/points")
    (tmp_path / "text.txt").write_text("1 2 3")
    with refused(["text.txt", "found none"]):
        open_scans(tmp_path / "text.txt")


# Bags

def scans_of(count: int, intensity: bool = True) -> list[Scan]:
    values = np.array([p[3] for p in POINTS], dtype=np.float32) if intensity else None
    points_m = np.array([p[:3] for p in POINTS], dtype=np.float32)
    return [scan_from_points(f"s{i}", points_m + i, values, raw_bytes=0, stamp_ns=5_000_000_007 + i * 10**8, frame_id="lidar")
            for i in range(count)]


def cloud_message(types: Any, stamp_ns: int, x: float, **header: Any) -> Any:
    data = np.frombuffer(struct.pack("<3f", x, 2, 3), dtype=np.uint8)
    stamp = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    fields = [types["sensor_msgs/msg/PointField"](name, 4 * i, 7, 1) for i, name in enumerate("xyz")]
    head = types["std_msgs/msg/Header"](stamp=stamp, frame_id="velodyne", **header)
    return types[CLOUD_TYPE](head, 1, 1, fields, False, 12, 12, data, True)


@pytest.mark.parametrize("intensity", [True, False])
def test_written_bag_comes_back(tmp_path: Path, intensity: bool) -> None:
    assert write_cloud_bag(tmp_path / "drive", "/points", scans_of(4, intensity)) == 4
    for path in (tmp_path / "drive", next((tmp_path / "drive").glob("*.mcap"))):
        source = open_scans(path)
        assert source.name == "drive" and len(source) == 4
        for read, sent in zip(source, scans_of(4, intensity), strict=True):
            assert np.array_equal(read.points_m, sent.points_m) and read.stamp_ns == sent.stamp_ns and read.frame_id == "lidar"
            assert (read.intensity is None) if sent.intensity is None else np.array_equal(read.intensity, sent.intensity)
        assert [source[i].name for i in (2, -1, 0)] == ["/points#2", "/points#3", "/points#0"]
        assert source[2].raw_bytes == 3 * (16 if intensity else 12)
        with pytest.raises(IndexError):
            source[4]
    with refused(["drive", "does not exist yet"]):
        write_cloud_bag(tmp_path / "drive", "/points", [])


@pytest.mark.parametrize("store", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS2_KILTED])
@pytest.mark.parametrize("plugin", list(StoragePlugin))
@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_ros2_bags_of_every_kind(tmp_path: Path, store: Stores, plugin: StoragePlugin, mode: CompressionMode) -> None:
    if mode == CompressionMode.STORAGE and plugin == StoragePlugin.SQLITE3:
        mode = CompressionMode.FILE  # sqlite3 has no compression inside the storage
    types = get_typestore(store)
    writer = Ros2Writer(tmp_path / "bag", version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection("/a", CLOUD_TYPE, typestore=types)
        for i in range(3):
            writer.write(connection, 100 + i, types.serialize_cdr(cloud_message(types.types, 7_000_000_000 + i, i), CLOUD_TYPE))
    entries = list(messages(tmp_path / "bag"))
    assert [(e.stamp_ns, e.record_ns) for e in entries] == [(7_000_000_000 + i, 100 + i) for i in range(3)]
    assert [e.message.header.frame_id for e in entries] == ["velodyne"] * 3
    assert [s.points_m.tolist() for s in open_scans(tmp_path / "bag")] == [[[i, 2, 3]] for i in range(3)]


def test_ros1_bag(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/a", CLOUD_TYPE, typestore=types)
        for i in range(3):
            message = cloud_message(types.types, 7_000_000_000 + i, i, seq=i)
            writer.write(connection, 100 + i, types.serialize_ros1(message, CLOUD_TYPE))
    source = open_scans(tmp_path / "old.bag", topic="/a")
    assert source.name == "old" and [s.stamp_ns for s in source] == [7_000_000_000 + i for i in range(3)]
    assert source[2].points_m.tolist() == [[2, 2, 3]]


def test_messages_recorded_at_one_time_are_told_apart(tmp_path: Path) -> None:
    same_time = [scan._replace(stamp_ns=9) for scan in scans_of(3)]
    write_cloud_bag(tmp_path / "bag", "/points", same_time)
    source = open_scans(tmp_path / "bag")
    assert [source[i].points_m[0, 0] for i in (2, 0, 1)] == [3.5, 1.5, 2.5]


def test_choice_of_the_topic(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Ros2Writer(tmp_path / "bag", version=8) as writer:
        text = writer.add_connection("/text", "std_msgs/msg/String", typestore=types)
        writer.write(text, 1, types.serialize_cdr(types.types["std_msgs/msg/String"]("hello"), "std_msgs/msg/String"))
        for i, topic in enumerate(("/front", "/rear")):
            connection = writer.add_connection(topic, CLOUD_TYPE, typestore=types)
            writer.write(connection, 2 + i, types.serialize_cdr(cloud_message(types.types, 5, i), CLOUD_TYPE))
    with refused(["one PointCloud2 topic", "/front, /rear"]):
        open_scans(tmp_path / "bag")
    with refused(["/front, /rear", "'/text'"]):
        open_scans(tmp_path / "bag", topic="/text")
    assert open_scans(tmp_path / "bag", topic="/rear")[0].name == "/rear#0"


def test_bag_without_clouds_lists_what_is_there(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_HUMBLE)
    with Ros2Writer(tmp_path / "bag", version=8) as writer:
        text = writer.add_connection("/text", "std_msgs/msg/String", typestore=types)
        writer.write(text, 1, types.serialize_cdr(types.types["std_msgs/msg/String"]("hello"), "std_msgs/msg/String"))
    with refused(["bag", "PointCloud2", "/text", "String"]):
        open_scans(tmp_path / "bag")


def test_damaged_bags_are_refused_by_name(tmp_path: Path) -> None:
    write_cloud_bag(tmp_path / "bag", "/points", scans_of(3))
    whole = next((tmp_path / "bag").glob("*.mcap")).read_bytes()
    for length in (0, 4, len(whole) // 4, len(whole) // 2, len(whole) - 9):
        with refused(["cut.mcap"]):
            list(BagScans(written(tmp_path / "cut.mcap", whole[:length])))
    with refused(["text.bag"]):
        open_scans(written(tmp_path / "text.bag", b"no bag at all"))


def test_a_bag_that_lost_messages_is_refused(tmp_path: Path) -> None:
    write_cloud_bag(tmp_path / "bag", "/points", scans_of(3))
    index = tmp_path / "bag" / "metadata.yaml"
    index.write_text(index.read_text().replace("message_count: 3", "message_count: 5"))
    source = open_scans(tmp_path / "bag")
    for read in (lambda: list(source), lambda: source[0]):
        with refused(["5 messages on /points", "got 3"]):
            read()


def test_a_cloud_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    types = get_typestore(Stores.ROS2_HUMBLE)
    message = cloud_message(types.types, 5, 1.0)
    message.point_step = 10
    with Ros2Writer(tmp_path / "bag", version=8) as writer:
        writer.write(writer.add_connection("/a", CLOUD_TYPE, typestore=types), 1, types.serialize_cdr(message, CLOUD_TYPE))
    with refused(["bag", "/a#0", "field z", "point_step 10"]):
        open_scans(tmp_path / "bag")[0]


# Real recordings

def test_real_recordings_in_all_forms_agree(lidar_data: Path) -> None:
    for pcd_name, bin_name in (("formats/kitti_binary.pcd", "kitti_raw_22/0000000000.bin"),
                               ("formats/pandar64_binary_compressed.pcd", "pandar64/road_0003_top.bin")):
        one, other = open_scans(lidar_data / pcd_name)[0], open_scans(lidar_data / bin_name)[0]
        assert np.array_equal(one.points_m, other.points_m)
        assert one.intensity is not None and other.intensity is not None and np.array_equal(one.intensity, other.intensity)


def test_real_bag_agrees_with_the_files_it_was_made_from(lidar_data: Path) -> None:
    bag, files = open_scans(lidar_data / "bags" / "kitti_raw_154_10hz"), open_scans(lidar_data / "kitti_raw_154")
    assert len(bag) == 50
    for index, number in ((0, 0), (30, 1)):
        scan, original = bag[index], files[number]
        assert scan.frame_id == "velodyne" and scan.stamp_ns == 1_317_000_000_000_000_000 + index * 100_000_000
        assert len(scan.points_m) == len(original.points_m)
        # The bag's coordinates were rounded to 2 mm.
        assert float(np.abs(scan.points_m - original.points_m).max()) <= 0.0011


def test_real_ros1_bag(lidar_data: Path) -> None:
    source = open_scans(lidar_data / "bags" / "luminar_truck_ros1.bag")
    assert len(source) == 5 and source[0].frame_id == "luminar_lidar" and 30_000 < len(source[4].points_m) < 40_000


def test_real_nuscenes_sweep_loses_only_the_own_vehicle(lidar_data: Path) -> None:
    scan = open_scans(lidar_data / "nuscenes_sweep")[0]
    assert len(scan.points_m) + scan.dropped == 34_688
    assert float(np.linalg.norm(scan.points_m, axis=1).min()) > 2.5
