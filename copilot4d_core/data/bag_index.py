# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""When the messages of a topic were recorded, from the bag's own index: a bag of a hundred gigabytes is not read for it.

What goes in: an open bag. What comes out: one time a message, in the order in which the bag gives them.
Unusual: `rosbags` gives no index out, so this looks where its readers keep theirs; where none is found, as in an MCAP
file that was never finished, the messages are read past once, one in memory at a time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection

Times = npt.NDArray[np.int64]
MESSAGE_INDEX = 0x07
"""Opcode of an MCAP record: opcode, length (8 bytes), channel (2), length of the entries (4), entries of time and offset (8 + 8)."""
BEFORE_ENTRIES = 15


def record_times_ns(reader: AnyReader, connections: Collection[Connection]) -> Times:
    """Times of recording of the messages on some connections of one topic.

    Args:
        reader: open.
        connections: of a bag of its.
    Returns:
        (N,) int64, nanoseconds, in the order of `reader.messages`.
    Raises:
        Exception: of any kind, where the index is damaged.
    """
    times = _indexed(reader, connections)
    if times is None:
        return np.fromiter((record_ns for _, record_ns, _ in reader.messages(connections)), dtype=np.int64)
    return np.concatenate([np.zeros(0, dtype=np.int64), *(np.sort(np.asarray(some, dtype=np.int64)) for some in times)])


def _indexed(reader: AnyReader, connections: Collection[Connection]) -> list[list[int] | Times] | None:
    """Times by file of the bag; None where a file has no index."""
    topic, kind = next(iter((c.topic, c.msgtype) for c in connections))
    found: list[list[int] | Times] = []
    for bag in map(_storage, reader.readers):
        for file in getattr(bag, "storages", [bag]):
            ids = [c.id for c in file.connections if (c.topic, c.msgtype) == (topic, kind)]
            times = _times_of_file(file, ids)
            if times is None:
                return None
            found.append(times)
    return found


def _storage(reader: Any) -> Any:
    """What reads the file: ROS 2 readers wrap it, ROS 1 readers are it."""
    return getattr(reader, "storage", reader)


def _times_of_file(file: Any, ids: list[int]) -> list[int] | Times | None:
    if hasattr(file, "indexes"):  # ROS 1
        return [entry.time for number in ids for entry in file.indexes[number]]
    if hasattr(file, "dbconn"):  # sqlite3
        marks = ",".join("?" * len(ids))  # question marks only, so that the next line joins no value into SQL
        return [row[0] for row in file.dbconn.execute(f"SELECT timestamp FROM messages WHERE topic_id IN ({marks})", ids)]  # nosec B608
    if getattr(file, "chunks", None):  # MCAP
        places = [chunk.message_index_offsets[number] for chunk in file.chunks for number in ids if number in chunk.message_index_offsets]
        return np.concatenate([np.zeros(0, dtype=np.int64), *(_mcap_times(file.bio, place) for place in places)])
    return None


def _mcap_times(file: Any, place: int) -> Times:
    file.seek(place)
    start = file.read(BEFORE_ENTRIES)
    if len(start) < BEFORE_ENTRIES or start[0] != MESSAGE_INDEX:
        raise ValueError(f"expected an index of messages at byte {place}, got {start[:1].hex() or 'the end of the file'}")
    entries = np.frombuffer(file.read(int.from_bytes(start[11:], "little")), dtype="<u8").reshape(-1, 2)
    return entries[:, 0].astype(np.int64)
