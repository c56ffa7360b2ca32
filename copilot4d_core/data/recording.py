# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A recording that survives the death of its writer: an MCAP file in small chunks, each written as soon as it is due.

Source: the MCAP format specification (version 0; mcap.dev/spec). Profile `ros2`, messages in CDR, no compression: tokens are coded already.
What goes in: serialised messages. What comes out: a file that every MCAP reader reads once it is finished; `finish` does that for
one whose writer was killed. Unusual: what is read back is checked chunk by chunk, and of an unfinished file all whole chunks are read.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, DATA_END = 1, 2, 3, 4, 5, 6, 7, 8, 11, 15
PROFILE, LIBRARY = "ros2", "copilot4d"
LONGEST_CHUNK_S = 0.5
"""What a kill may cost, beside the message that is being written; a power cut loses no more."""
LARGEST_CHUNK_BYTES = 2**20


class RecordedMessage(NamedTuple):
    """One message of a recording."""

    topic: str
    kind: str
    """Such as `std_msgs/msg/String`."""
    definition: str
    time_ns: int
    """When it was recorded."""
    data: bytes
    """In CDR."""


class _Chunk(NamedTuple):
    """A chunk that is in the file."""

    start_ns: int
    end_ns: int
    offset: int
    length: int
    indexes: dict[int, int]
    """Where the index of each channel's messages is."""
    index_length: int
    size: int
    """Of its records."""


class Recording:
    """Writes an MCAP file; `close` finishes it. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Begin a new file.

        Raises:
            FileExistsError: there is one of that name.
            OSError: the folder takes no file.
        """
        self.path = path
        self._schemas: dict[str, bytes] = {}
        self._channels: dict[str, bytes] = {}
        self._untold: dict[int, bytes] = {}
        self._chunks: list[_Chunk] = []
        self._counts: Counter[int] = Counter()
        self._records, self._times = bytearray(), list[tuple[int, int, int]]()
        self._due_s = 0.0
        self._file = path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # says that it is being written; goes with the process
        self._write(MAGIC + _record(HEADER, _text(PROFILE) + _text(LIBRARY)))

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def channel(self, topic: str, kind: str, definition: str) -> int:
        """Number of a topic's channel; the same for the same topic.

        Args:
            kind: such as `std_msgs/msg/String`.
            definition: of the message and of all that it holds, as in `.msg` files.
        """
        if topic not in self._channels:
            number = 1 + list(self._schemas).index(kind) if kind in self._schemas else len(self._schemas) + 1
            if kind not in self._schemas:
                self._schemas[kind] = _record(SCHEMA, struct.pack("<H", number) + _text(kind) + _text("ros2msg") + _text(definition))
            own = len(self._channels) + 1
            content = struct.pack("<HH", own, number) + _text(topic) + _text("cdr") + struct.pack("<I", 0)
            self._channels[topic] = _record(CHANNEL, content)
            self._untold[own] = self._schemas[kind] + self._channels[topic]
        return 1 + list(self._channels).index(topic)

    def write(self, channel: int, time_ns: int, data: bytes) -> None:
        """Take a message; it is in the file after `LONGEST_CHUNK_S` at the latest, if `flush_due` is called.

        Raises:
            OSError: the disk is full, or gone.
        """
        if not self._records:
            self._due_s = time.monotonic() + LONGEST_CHUNK_S
        self._records += self._untold.pop(channel, b"")
        self._times.append((channel, time_ns, len(self._records)))
        self._counts[channel] += 1
        self._records += _record(MESSAGE, struct.pack("<HIQQ", channel, self._counts[channel] - 1, time_ns, time_ns) + data)
        if len(self._records) >= LARGEST_CHUNK_BYTES:
            self.flush()

    def flush_due(self) -> None:
        """Write what has waited long enough; to be called several times in `LONGEST_CHUNK_S`."""
        if self._records and time.monotonic() >= self._due_s:
            self.flush()

    def flush(self) -> None:
        """Write what waits, down to the disk."""
        if not self._records:
            return
        times = [time_ns for _, time_ns, _ in self._times]
        head = struct.pack("<QQQI", min(times), max(times), len(self._records), zlib.crc32(self._records)) + _text("")
        offset = self._file.tell()
        chunk = _record(CHUNK, head + struct.pack("<Q", len(self._records)) + self._records)
        index, indexes = b"", dict[int, int]()
        for channel in sorted({channel for channel, _, _ in self._times}):
            entries = b"".join(struct.pack("<QQ", time_ns, at) for own, time_ns, at in self._times if own == channel)
            indexes[channel] = offset + len(chunk) + len(index)
            index += _record(MESSAGE_INDEX, struct.pack("<HI", channel, len(entries)) + entries)
        self._write(chunk + index)
        os.fdatasync(self._file.fileno())
        self._chunks.append(_Chunk(min(times), max(times), offset, len(chunk), indexes, len(index), len(self._records)))
        self._records, self._times = bytearray(), []

    def close(self) -> None:
        """Write what waits and the summary that readers look for."""
        if self._file.closed:
            return
        try:
            self.flush()
            self._write(_record(DATA_END, struct.pack("<I", 0)))
            start = self._file.tell()
            summary = b"".join([*self._schemas.values(), *self._channels.values(), *map(_chunk_index, self._chunks),
                                self._statistics()])
            footer = struct.pack("<BQQQ", FOOTER, 20, start, 0)
            self._write(summary + footer + struct.pack("<I", zlib.crc32(footer, zlib.crc32(summary))) + MAGIC)
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def _statistics(self) -> bytes:
        counts = b"".join(struct.pack("<HQ", channel, count) for channel, count in sorted(self._counts.items()))
        start_ns, end_ns = min((chunk.start_ns for chunk in self._chunks), default=0), max((chunk.end_ns for chunk in self._chunks), default=0)
        return _record(STATISTICS, struct.pack("<QHIIIIQQI", self._counts.total(), len(self._schemas), len(self._channels), 0, 0, len(self._chunks),
                                               start_ns, end_ns, len(counts)) + counts)


def recorded(path: Path) -> Iterator[RecordedMessage]:
    """All whole messages of a recording in the order of writing, of one that was never finished, too.

    Raises:
        ValueError: no recording of this package, or a finished one that is damaged; the message names the file.
        OSError: the file cannot be read.
    """
    schemas: dict[int, tuple[str, str]] = {}
    channels: dict[int, tuple[str, int]] = {}
    try:
        for chunk in _chunks(path):
            for number, content in _inside(chunk):
                if number == SCHEMA:
                    name, _, definition = _texts(content, 2, 3)
                    schemas[_number(content, 0)] = name, definition
                elif number == CHANNEL:
                    channels[_number(content, 0)] = _texts(content, 4, 1)[0], _number(content, 2)
                elif number == MESSAGE:
                    topic, schema = channels[_number(content, 0)]
                    yield RecordedMessage(topic, *schemas[schema], struct.unpack_from("<Q", content, 6)[0], content[22:])
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a recording of copilot4d, got: {error!r}") from error


def finish(path: Path) -> int:
    """Finish a recording whose writer was killed, so that every reader takes it; a finished one is left as it is.

    Returns:
        Messages in it.
    Raises:
        ValueError: no recording of this package, or one that is still being written; the message names the file.
        OSError: no room for the finished file, which takes the place of the other when it is whole.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path}: expected a recording that nobody writes any more, its recorder still runs; stop it first") from None
        if _is_finished(file):
            return sum(1 for _ in recorded(path))
        part, count = path.with_name(f".{path.name}.{os.getpid()}.part"), 0
        try:
            with Recording(part) as whole:
                for message in recorded(path):
                    whole.write(whole.channel(message.topic, message.kind, message.definition), message.time_ns, message.data)
                    count += 1
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return count


def _chunks(path: Path) -> Iterator[bytes]:
    """Content of the chunks; of an unfinished file of those that are whole."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path}: expected a recording (MCAP), it does not begin as one")
        size, is_finished = os.fstat(file.fileno()).st_size, _is_finished(file)
        file.seek(len(MAGIC))
        while len(head := file.read(9)) == 9 and head[0] != DATA_END:
            length = int.from_bytes(head[1:], "little")
            content = file.read(length) if length <= size - file.tell() else b""
            is_known = len(content) == length and head[0] in (HEADER, CHUNK, MESSAGE_INDEX)
            if is_known and head[0] == HEADER and _texts(content, 0, 2) != [PROFILE, LIBRARY]:
                raise ValueError(f"{path}: expected a recording of the node token_recorder, it is an MCAP file of another program")
            if is_known and (head[0] != CHUNK or _is_whole(content)):
                yield from (content,) if head[0] == CHUNK else ()
            elif is_finished:
                raise ValueError(f"{path}: expected whole records, that before byte {file.tell()} is damaged; the file was altered")
            elif not is_known:
                return


def _is_finished(file: BinaryIO) -> bool:
    footer_bytes = 9 + 20 + len(MAGIC)
    file.seek(0, os.SEEK_END)
    if file.tell() < footer_bytes + len(MAGIC):
        return False
    file.seek(-footer_bytes, os.SEEK_END)
    end = file.read()
    return end[0] == FOOTER and end.endswith(MAGIC)


def _is_whole(chunk: bytes) -> bool:
    """Whether a chunk, ours and so not compressed, has the size and the checksum that it says."""
    size, checksum, compression, length = struct.unpack_from("<QIIQ", chunk.ljust(40, b"\0"), 16)
    return bool(compression == 0 and size == length == len(chunk) - 40 and zlib.crc32(memoryview(chunk)[40:]) == checksum)


def _inside(chunk: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of the records in a chunk."""
    at = 40
    while at < len(chunk):
        number, length = struct.unpack_from("<BQ", chunk, at)
        yield number, chunk[at + 9:at + 9 + length]
        at += 9 + length


def _chunk_index(chunk: _Chunk) -> bytes:
    places = b"".join(struct.pack("<HQ", channel, at) for channel, at in chunk.indexes.items())
    return _record(CHUNK_INDEX, struct.pack("<QQQQI", chunk.start_ns, chunk.end_ns, chunk.offset, chunk.length, len(places)) + places
                   + struct.pack("<Q", chunk.index_length) + _text("") + struct.pack("<QQ", chunk.size, chunk.size))


def _record(number: int, content: bytes) -> bytes:
    return struct.pack("<BQ", number, len(content)) + content


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _texts(content: bytes, at: int, count: int) -> list[str]:
    """Texts that follow each other."""
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", content, at)
        found.append(content[at + 4:at + 4 + length].decode())
        at += 4 + length
    return found


def _number(content: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", content, at)[0])
