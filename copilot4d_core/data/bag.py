# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""ROS bags, read and written without a ROS installation.

What goes in: a ROS 1 bag, or a ROS 2 bag (sqlite3 or MCAP, compressed or not). What comes out: scans, or the
PointCloud2 messages themselves for a player. Messages stream: one is in memory at a time.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from copilot4d_core.atomic_file import naming_errors
from copilot4d_core.data.bag_index import Times, record_times_ns
from copilot4d_core.data.point_cloud2 import CloudLayout, CloudMessage, data_from_points, layout_from_message, points_from_message
from copilot4d_core.data.scan import Scan, scan_from_points

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
NS_PER_S = 1_000_000_000


class BagMessage(NamedTuple):
    """One recorded cloud."""

    stamp_ns: int
    """Time in the message's header."""
    record_ns: int
    """Time at which the bag recorded it."""
    message: CloudMessage


def _open(path: Path) -> AnyReader:
    """Open reader; definitions missing from old sqlite3 bags are those of Humble, where PointCloud2 is the same as today."""
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception as error:
        raise ValueError(f"{path}: expected a ROS 1 bag or a ROS 2 bag (folder, .mcap or .db3), got: {error}") from error
    return reader


@contextmanager
def _opened(path: Path) -> Iterator[AnyReader]:
    reader = _open(path)
    try:
        yield reader
    finally:
        reader.close()


def _cloud_connections(path: Path, reader: AnyReader, topic: str | None) -> list[Connection]:
    clouds = sorted({c.topic for c in reader.connections if c.msgtype == CLOUD_TYPE})
    if not clouds:
        there = ", ".join(sorted(f"{c.topic} ({c.msgtype})" for c in reader.connections)) or "nothing"
        raise ValueError(f"{path}: expected a topic of {CLOUD_TYPE}, the bag holds {there}")
    if topic is None and len(clouds) > 1:
        raise ValueError(f"{path}: expected one PointCloud2 topic, the bag holds {', '.join(clouds)}; name one of them")
    if topic is not None and topic not in clouds:
        raise ValueError(f"{path}: expected one of the PointCloud2 topics {', '.join(clouds)}, got {topic!r}")
    return [c for c in reader.connections if c.topic == (topic or clouds[0]) and c.msgtype == CLOUD_TYPE]


def messages(path: Path, topic: str | None = None, start_offset_s: float = 0.0) -> Iterator[BagMessage]:
    """The recorded clouds in the order of recording, for a player.

    Args:
        path: bag file or folder.
        topic: name of the topic; None takes the only PointCloud2 topic.
        start_offset_s: leave out what was recorded in the first seconds of the bag, counted from its first message on any topic.
    Raises:
        ValueError: no bag, no such topic, several topics to choose from, or a damaged message.
    """
    with _opened(path) as reader:
        start_ns = reader.start_time + round(start_offset_s * NS_PER_S) if start_offset_s else None
        yield from _messages(path, reader, _cloud_connections(path, reader, topic), start_ns)


def _messages(path: Path, reader: AnyReader, connections: list[Connection], start_ns: int | None = None,
              stop_ns: int | None = None) -> Iterator[BagMessage]:
    try:
        for connection, record_ns, data in reader.messages(connections, start=start_ns, stop=stop_ns):
            message: Any = reader.deserialize(data, connection.msgtype)
            stamp = message.header.stamp
            yield BagMessage(stamp.sec * NS_PER_S + stamp.nanosec, record_ns, message)
    except Exception as error:  # A damaged bag makes the reader's storage, decompressor or generated code fail in any way.
        raise ValueError(f"{path}: expected whole messages, got: {type(error).__name__}: {error}") from error


class BagScans:
    """The scans of one PointCloud2 topic of a bag.

    Keeps the bag open from the first scan that is asked for by number, in each process for itself; a copy that is sent
    to another process opens it anew. No message is kept.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        """Look at the bag's index; read no message.

        Raises:
            ValueError: as for `messages`.
        """
        self.path = path
        with _opened(path) as reader:
            connections = _cloud_connections(path, reader, topic)
            self.topic = connections[0].topic
            self._length = sum(c.msgcount for c in connections)
        if self._length == 0:
            raise ValueError(f"{path}: expected messages on {self.topic}, the bag holds none")
        self._times_ns: Times | None = None
        self._readers: dict[int, AnyReader] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": {}}

    @property
    def name(self) -> str:
        """Name of the bag without its ending."""
        return self.path.stem if self.path.is_file() else self.path.name

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Scan]:
        layout: CloudLayout | None = None
        count = 0
        for index, entry in enumerate(messages(self.path, self.topic)):
            scan, layout = self._scan(index, entry, layout)
            yield scan
            count = index + 1
        self._refuse_other_length(count)

    def __getitem__(self, index: int) -> Scan:
        if not -self._length <= index < self._length:
            raise IndexError(f"{self.path}: scan {index} of {self._length}")
        index %= self._length
        reader = self._reader()
        connections = _cloud_connections(self.path, reader, self.topic)
        if self._times_ns is None:
            self._times_ns = self._index(reader, connections)
        time_ns = int(self._times_ns[index])
        # Messages may share a time of recording, and a reader can only start at a time.
        skip = int(np.count_nonzero(self._times_ns[:index] == time_ns))
        entry = next(itertools.islice(_messages(self.path, reader, connections, time_ns, time_ns + 1), skip, None), None)
        if entry is None:
            raise ValueError(f"{self.path}: expected message {index} on {self.topic} as the bag's index says, it is not there")
        return self._scan(index, entry, None)[0]

    def _reader(self) -> AnyReader:
        """This process's open reader: the file of another one moves on when that one reads."""
        process = os.getpid()
        if process not in self._readers:
            reader = _open(self.path)
            Finalize(self, reader.close, exitpriority=0)  # at the end of a worker process, too
            self._readers[process] = reader
        return self._readers[process]

    def _index(self, reader: AnyReader, connections: list[Connection]) -> Times:
        try:
            times_ns = record_times_ns(reader, connections)
        except Exception as error:  # A damaged bag makes the reader's storage fail in any way.
            raise ValueError(f"{self.path}: expected a whole index, got: {type(error).__name__}: {error}") from error
        self._refuse_other_length(len(times_ns))
        return times_ns

    def _refuse_other_length(self, count: int) -> None:
        if count != self._length:
            raise ValueError(f"{self.path}: expected {self._length} messages on {self.topic} as the bag's index says, "
                             f"got {count}")

    def _scan(self, index: int, entry: BagMessage, layout: CloudLayout | None) -> tuple[Scan, CloudLayout]:
        name, message = f"{self.topic}#{index}", entry.message
        try:
            layout = layout_from_message(message, layout)
            points_m, intensity, dropped = points_from_message(message, layout)
            return scan_from_points(name, points_m, intensity, raw_bytes=len(message.data), stamp_ns=entry.stamp_ns,
                                    frame_id=message.header.frame_id, dropped=dropped), layout
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{self.path}: {name}: {error}") from error


def write_cloud_bag(path: Path, topic: str, scans: Iterable[Scan]) -> int:
    """Write scans as PointCloud2 messages into a new ROS 2 bag (a folder with one MCAP file).

    Args:
        path: folder that does not exist yet.
        topic: name of the topic.
        scans: each with a stamp, which is also its time of recording.
    Returns:
        Number of messages written.
    Raises:
        ValueError: the folder exists, or a scan has no stamp.
        OSError: the disk is full, or takes no file for another reason; nothing is left of the bag.
    """
    if path.exists():
        raise ValueError(f"{path}: expected a path that does not exist yet; remove it or name another")
    try:
        with naming_errors(path):
            return _write_cloud_bag(path, topic, scans)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _write_cloud_bag(path: Path, topic: str, scans: Iterable[Scan]) -> int:
    store = get_typestore(Stores.ROS2_HUMBLE)
    count = 0
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, CLOUD_TYPE, typestore=store)
        for scan in scans:
            if scan.stamp_ns is None:
                raise ValueError(f"{scan.name}: expected a stamp, which a bag needs, got none")
            writer.write(connection, scan.stamp_ns, store.serialize_cdr(cloud_record(store, scan), CLOUD_TYPE))
            count += 1
    return count


def cloud_record(store: Any, scan: Scan) -> Any:
    """A scan with a stamp as PointCloud2 of a type store of `rosbags`."""
    types = store.types
    fields, data = data_from_points(scan.points_m, scan.intensity)
    point_step = 4 * len(fields)
    assert scan.stamp_ns is not None
    stamp = types["builtin_interfaces/msg/Time"](*divmod(scan.stamp_ns, NS_PER_S))
    return types[CLOUD_TYPE](
        header=types["std_msgs/msg/Header"](stamp, scan.frame_id),
        height=1, width=len(scan.points_m),
        fields=[types["sensor_msgs/msg/PointField"](f.name, f.offset, f.datatype, f.count) for f in fields],
        is_bigendian=False, point_step=point_step, row_step=point_step * len(scan.points_m),
        data=np.frombuffer(data, dtype=np.uint8), is_dense=True,
    )
