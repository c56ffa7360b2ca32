# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Scans of a bag by number: from its index, from several processes, and in bags of thousands of messages."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore
from test_readers import cloud_message, refused, written

from copilot4d_core.data import bag
from copilot4d_core.data.bag import CLOUD_TYPE, BagScans, write_cloud_bag
from copilot4d_core.data.bag_index import record_times_ns
from copilot4d_core.data.scan import scan_from_points

MANY = 2000
CLOUD_BYTES = 12_000
KEPT_CLOUDS = 10
"""Growth of memory over 100 clouds read that is still noise."""


def fill(writer: Any, types: Any, serialize: Any, **header: Any) -> None:
    """Seven clouds on /a, two of them at one time, between those of another topic and of another kind."""
    clouds, others = (writer.add_connection(topic, CLOUD_TYPE, typestore=types) for topic in ("/a", "/b"))
    for number, time_ns in enumerate((100, 200, 200, 400, 500, 600, 700)):
        writer.write(others, time_ns, serialize(cloud_message(types.types, 1, -1.0, **header), CLOUD_TYPE))
        writer.write(clouds, time_ns, serialize(cloud_message(types.types, 1, float(number), **header), CLOUD_TYPE))


@pytest.fixture(params=[(StoragePlugin.MCAP, CompressionMode.NONE), (StoragePlugin.MCAP, CompressionMode.STORAGE),
                        (StoragePlugin.MCAP, CompressionMode.FILE), (StoragePlugin.SQLITE3, CompressionMode.NONE),
                        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE), None], ids=str)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bag of every kind of storage; None: ROS 1."""
    if request.param is None:
        types = get_typestore(Stores.ROS1_NOETIC)
        with Ros1Writer(tmp_path / "old.bag") as old:
            fill(old, types, types.serialize_ros1, seq=1)
        return tmp_path / "old.bag"
    types = get_typestore(Stores.ROS2_HUMBLE)
    writer = Ros2Writer(tmp_path / "bag", version=8, storage_plugin=request.param[0])
    writer.set_compression(request.param[1], CompressionFormat.ZSTD)
    with writer:
        fill(writer, types, types.serialize_cdr)
    return tmp_path / "bag"


def test_times_come_from_the_index_of_every_kind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AnyReader([path]) as reader:
        connections = [c for c in reader.connections if c.topic == "/a"]
        monkeypatch.setattr(AnyReader, "messages", None)  # reading a message would fail
        assert record_times_ns(reader, connections).tolist() == [100, 200, 200, 400, 500, 600, 700]


def test_every_scan_by_number(path: Path) -> None:
    source = BagScans(path, "/a")
    assert [float(source[number].points_m[0, 0]) for number in (6, 0, 2, 1, -1, 3, 4, 5)] == [6, 0, 2, 1, 6, 3, 4, 5]
    assert source[-7].name == "/a#0"


def test_a_bag_in_two_files(tmp_path: Path) -> None:
    """As `ros2 bag record --max-bag-duration` leaves them."""
    for part, start in (("first", 0), ("second", 3)):
        scans = [scan_from_points("", np.full((1, 3), start + 1 + i, dtype=np.float32), None, raw_bytes=0, stamp_ns=10 * (start + i))
                 for i in range(3)]
        write_cloud_bag(tmp_path / part, "/points", scans)
    whole = tmp_path / "whole"
    whole.mkdir()
    for part in ("first", "second"):
        (tmp_path / part / f"{part}.mcap").rename(whole / f"{part}.mcap")
    yaml = (tmp_path / "first" / "metadata.yaml").read_text()
    yaml = yaml.replace("message_count: 3", "message_count: 6")
    (whole / "metadata.yaml").write_text(yaml.replace("- first.mcap", "- first.mcap\n  - second.mcap"))
    source = BagScans(whole)
    assert [float(source[number].points_m[0, 0]) for number in (5, 0, 3, 2)] == [6, 1, 4, 3]


def test_an_mcap_file_without_index_is_read_past_once(tmp_path: Path) -> None:
    write_cloud_bag(tmp_path / "bag", "/points", (scan_from_points("", np.full((9, 3), 1 + i, dtype=np.float32), None, raw_bytes=0, stamp_ns=i)
                                                  for i in range(5)))
    whole = (tmp_path / "bag" / "bag.mcap").read_bytes()
    # The footer says where the summary starts; 0 means that there is none (MCAP specification), and neither is a checksum.
    footer = b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0)
    source = BagScans(written(tmp_path / "unfinished.mcap", whole[:-37] + footer + whole[-8:]))
    assert [float(source[number].points_m[0, 0]) for number in (4, 1)] == [5, 2]


def test_a_damaged_index_is_refused_by_name(tmp_path: Path) -> None:
    write_cloud_bag(tmp_path / "bag", "/points", [scan_from_points("", np.ones((9, 3), dtype=np.float32), None, raw_bytes=0, stamp_ns=5)])
    file = tmp_path / "bag" / "bag.mcap"
    data = bytearray(file.read_bytes())
    # Opcode 7 (index of messages), 22 bytes long, of channel 1 and 16 bytes of entries.
    place = data.index(b"\x07" + struct.pack("<QHI", 22, 1, 16))
    data[place] = 0xEE
    with refused(["cut.mcap", "whole index", "index of messages"]):
        BagScans(written(tmp_path / "cut.mcap", bytes(data)))[0]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 clouds of 1,000 points, 24 MB; every point of cloud i has z = i + 1."""
    path = tmp_path_factory.mktemp("many") / "bag"
    points_m = np.ones((1000, 3), dtype=np.float32)
    write_cloud_bag(path, "/points", (scan_from_points("", points_m * (1, 1, i + 1), None, raw_bytes=0, stamp_ns=10**9 + i * 10**8)
                                      for i in range(MANY)))
    return path


def test_a_long_bag_is_opened_once_and_no_message_is_kept(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = BagScans(many)
    opened: list[Path] = []
    real_open = bag._open
    monkeypatch.setattr(bag, "_open", lambda path: opened.append(path) or real_open(path))
    read: list[int] = []
    real_scan = BagScans._scan
    monkeypatch.setattr(BagScans, "_scan", lambda self, index, *rest: read.append(index) or real_scan(self, index, *rest))
    numbers = np.random.default_rng(0).integers(0, MANY, 150).tolist()
    tracemalloc.start()
    used = []
    for some in (numbers[:50], numbers[50:]):
        assert [float(source[number].points_m[0, 2]) for number in some] == [number + 1 for number in some]
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert opened == [many] and read == numbers
    assert used[1] - used[0] < KEPT_CLOUDS * CLOUD_BYTES


def heights(source: BagScans, numbers: list[int], answers: Any) -> None:
    answers.put([float(source[number].points_m[0, 2]) for number in numbers])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_one_bag_at_the_same_time(many: Path, method: str) -> None:
    source = BagScans(many)
    source[7]  # open in this process: a child must not move its place in the file
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    numbers = [np.random.default_rng(seed).integers(0, MANY, 30).tolist() for seed in range(2)]
    children = [context.Process(target=heights, args=(source, some, answers)) for some in numbers]
    for child in children:
        child.start()
    mine = [float(source[number].points_m[0, 2]) for number in range(0, MANY, 50)]
    theirs = [answers.get(timeout=120) for _ in children]
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert mine == [number + 1 for number in range(0, MANY, 50)]
    assert sorted(theirs) == sorted([number + 1 for number in some] for some in numbers)


def test_an_open_bag_is_sent_as_its_path(many: Path) -> None:
    source = BagScans(many)
    source[3]
    sent = pickle.dumps(source)
    assert len(sent) < 8 * MANY + 1000
    assert pickle.loads(sent)[1999].points_m[0, 2] == 2000
