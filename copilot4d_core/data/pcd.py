# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""PCD files: ascii, binary and binary_compressed, any fields around x, y, z.

Source: "The PCD (Point Cloud Data) file format", Point Cloud Library; versions 0.6 and 0.7.
What goes in: a file. What comes out: a `Scan`.
Unusual: nothing the header says is believed; every size is held against the bytes that are there before memory is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.lzf import decompress
from copilot4d_core.data.point_cloud2 import INTENSITY_NAMES
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.grid import FloatArray

MAX_HEADER_BYTES = 64 * 1024
KINDS = {"F4": "<f4", "F8": "<f8", "I1": "i1", "I2": "<i2", "I4": "<i4", "I8": "<i8",
         "U1": "u1", "U2": "<u2", "U4": "<u4", "U8": "<u8"}
"""NumPy type of each TYPE and SIZE."""


class _Header(NamedTuple):
    names: list[str]
    kinds: list[str]
    counts: list[int]
    points: int
    data: str

    def column(self, index: int) -> int:
        """Values of a point before this field."""
        return sum(self.counts[:index])

    def offset(self, index: int) -> int:
        """Bytes of a point before this field."""
        return sum(np.dtype(kind).itemsize * count for kind, count in list(zip(self.kinds, self.counts, strict=True))[:index])


def read_pcd(path: Path) -> Scan:
    """Scan of one PCD file.

    Raises:
        ValueError: the header is broken or does not fit the bytes that follow, there is no x, y or z, the cloud has a
            viewpoint other than its own frame's origin, or a value cannot be read.
    """
    data = path.read_bytes()
    try:
        header, body = _header(data)
        points_m, intensity = _points(header, body)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return scan_from_points(path.stem, points_m, intensity, raw_bytes=len(body), path=path)


def _header(data: bytes) -> tuple[_Header, bytes]:
    entries: dict[str, list[str]] = {}
    position = 0
    while "DATA" not in entries:
        end = data.find(b"\n", position, MAX_HEADER_BYTES)
        if end < 0:
            raise ValueError("expected a PCD header that ends with a DATA line, found none in the first "
                             f"{min(len(data), MAX_HEADER_BYTES)} bytes")
        words = data[position:end].decode("ascii", errors="replace").split()
        position = end + 1
        if words and not words[0].startswith("#"):
            entries[words[0].upper()] = words[1:]
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "WIDTH", "HEIGHT", "POINTS") if key not in entries]
    if missing:
        raise ValueError(f"expected the header lines FIELDS, SIZE, TYPE, WIDTH, HEIGHT, POINTS, missing {', '.join(missing)}")
    return _checked_header(entries), data[position:]


def _checked_header(entries: dict[str, list[str]]) -> _Header:
    names = entries["FIELDS"]
    sizes, types, counts = entries["SIZE"], entries["TYPE"], entries.get("COUNT", ["1"] * len(names))
    if not len(names) == len(sizes) == len(types) == len(counts):
        raise ValueError(f"expected as many SIZE, TYPE and COUNT as FIELDS ({len(names)}), "
                         f"got {len(sizes)}, {len(types)} and {len(counts)}")
    kinds = [type_.upper() + size for type_, size in zip(types, sizes, strict=True)]
    for name, kind in zip(names, kinds, strict=True):
        if kind not in KINDS:
            raise ValueError(f"field {name}: expected TYPE F, I or U with SIZE 1 to 8, got {kind[0]} and {kind[1:]}")
    points, width, height = (_whole(key, entries[key]) for key in ("POINTS", "WIDTH", "HEIGHT"))
    if width * height != points:
        raise ValueError(f"expected POINTS of WIDTH * HEIGHT = {width} * {height}, got {points}")
    _refuse_viewpoint(entries.get("VIEWPOINT", []))
    numbers = [_whole(f"COUNT of {name}", [count]) for name, count in zip(names, counts, strict=True)]
    return _Header(names, [KINDS[k] for k in kinds], numbers, points, " ".join(entries["DATA"]).lower())


def _whole(key: str, words: list[str]) -> int:
    if len(words) != 1 or not words[0].isdecimal():
        raise ValueError(f"{key}: expected one whole number of at least 0, got {' '.join(words)!r}")
    return int(words[0])


def _refuse_viewpoint(words: list[str]) -> None:
    """Refuse a sensor pose: tools disagree on whether the points are already in its frame."""
    try:
        values = [float(word) for word in words] or [0, 0, 0, 1, 0, 0, 0]
    except ValueError:
        values = []
    if values != [0, 0, 0, 1, 0, 0, 0]:
        raise ValueError(f"expected VIEWPOINT 0 0 0 1 0 0 0 (points in the sensor's frame), got {' '.join(words)!r}; "
                         "transform the points into the sensor's frame first")


def _points(header: _Header, body: bytes) -> tuple[FloatArray, FloatArray | None]:
    readers = {"ascii": _ascii_column, "binary": _binary_column, "binary_compressed": _compressed_column}
    if header.data not in readers:
        raise ValueError(f"expected DATA {', '.join(readers)}, got {header.data!r}")
    missing = [name for name in "xyz" if name not in header.names]
    if missing:
        raise ValueError(f"expected the fields x, y and z, missing {', '.join(missing)}; got {', '.join(header.names)}")
    wanted = [header.names.index(name) for name in "xyz"]
    wanted += [header.names.index(name) for name in INTENSITY_NAMES if name in header.names][:1]
    for index in wanted:
        if header.counts[index] != 1 or (index in wanted[:3] and "f" not in header.kinds[index]):
            raise ValueError(f"field {header.names[index]}: expected one value a point (x, y, z of TYPE F), "
                             f"got COUNT {header.counts[index]} of {header.kinds[index]}")
    columns = readers[header.data](header, body, wanted)
    with np.errstate(over="ignore"):
        values = [column.astype(np.float32) for column in columns]
    return np.stack(values[:3], axis=1), values[3] if len(values) > 3 else None


def _ascii_column(header: _Header, body: bytes, wanted: list[int]) -> list[npt.NDArray[np.generic]]:
    rows = [row for row in (line.split() for line in body.splitlines()) if row]
    length = header.column(len(header.names))
    if len(rows) != header.points:
        raise ValueError(f"expected {header.points} lines of points as POINTS says, got {len(rows)}")
    for number, row in enumerate(rows):
        if len(row) != length:
            raise ValueError(f"expected {length} values in each line, point {number} has {len(row)}")
    return [np.array([float(row[header.column(index)]) for row in rows], dtype=np.float64) for index in wanted]


def _binary_column(header: _Header, body: bytes, wanted: list[int]) -> list[npt.NDArray[np.generic]]:
    step = header.offset(len(header.names))
    size = header.points * step
    # The Point Cloud Library fills the last page of a file with zeros.
    if len(body) < size or body[size:].strip(b"\0"):
        raise ValueError(f"expected {size} bytes of points (POINTS {header.points} of {step} bytes), got {len(body)}")
    if header.points == 0:
        return [np.zeros(0, dtype=np.float32)] * len(wanted)
    return [np.ndarray(header.points, dtype=header.kinds[i], buffer=body, offset=header.offset(i), strides=(step,))
            for i in wanted]


def _compressed_column(header: _Header, body: bytes, wanted: list[int]) -> list[npt.NDArray[np.generic]]:
    if len(body) < 8:
        raise ValueError(f"expected two sizes (8 bytes) before the compressed points, got {len(body)} bytes")
    packed, size = (int(value) for value in np.frombuffer(body, dtype="<u4", count=2))
    step = header.offset(len(header.names))
    if size != header.points * step:
        raise ValueError(f"expected an uncompressed size of {header.points * step} bytes "
                         f"(POINTS {header.points} of {step} bytes), got {size}")
    if packed > len(body) - 8:
        raise ValueError(f"expected {packed} bytes of compressed points, got {len(body) - 8}")
    block = decompress(memoryview(body)[8:8 + packed], size)
    # In a compressed file all values of one field lie together.
    block_of = [memoryview(block)[header.offset(i) * header.points:header.offset(i + 1) * header.points] for i in wanted]
    return [np.frombuffer(values, dtype=header.kinds[i]) for i, values in zip(wanted, block_of, strict=True)]
