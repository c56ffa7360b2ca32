# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for PointCloud2 messages, good and bad: a layout that a driver might publish, then up to three things gone wrong.

What comes out: sensor_msgs/PointCloud2. The bytes are written with struct, not with the package.
"""

from __future__ import annotations

import array
import random
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from sensor_msgs.msg import PointCloud2, PointField

from trust.cloud_oracle import CODES, INTENSITY, Point

SIZES = {datatype: struct.calcsize("<" + code) for datatype, code in CODES.items()}
DENORMAL, LARGEST = 1e-45, 3.4028234663852886e38
SPECIAL = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), DENORMAL, -DENORMAL, 1.1754942e-38, LARGEST, -LARGEST, 1e300, 5e-324, 10.0, -10.0,
           9.999999, -10.000001, 2.25, -2.25, 1e4, 1e5)
"""Edges of numbers, and of the region of the model `tiny`: 10 m to each side, 2.25 m up and down."""
EDGES = (0, 1, 2, 3, 4, 7, 8, 12, 16, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1)
UINT32 = st.sampled_from(EDGES) | st.integers(0, 64) | st.integers(0, 2**32 - 1)
EXTRAS = st.sampled_from([*INTENSITY, "ring", "t", "time", "rgb", "", "X", "x ", "é", "intensity2", "a" * 300])
INSIDE = st.floats(-10, 10, exclude_max=True, width=32)
COORDINATE = INSIDE | INSIDE | INSIDE | st.sampled_from(SPECIAL) | st.floats(width=32)
POINT = st.tuples(COORDINATE, COORDINATE, st.floats(-2.25, 2.25, exclude_max=True, width=32) | COORDINATE)


@st.composite
def _points(draw: st.DrawFn, count: int) -> list[Point]:
    kind = draw(st.sampled_from(["each", "each", "bulk", "one cell", "outside"]))
    if kind == "each" and count <= 16:
        return draw(st.lists(POINT, min_size=count, max_size=count))
    if kind == "one cell":
        return [draw(POINT)] * count
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    low, high = (11.0, 90.0) if kind == "outside" else (-10.0, 10.0)
    return [(rng.uniform(low, high), rng.uniform(low, high), rng.uniform(-2.25, 2.25)) for _ in range(count)]


@st.composite
def readable_clouds(draw: st.DrawFn) -> Any:
    """Clouds that the definition allows and the package reads."""
    height, width = draw(st.sampled_from([(1, 1), (1, 0), (0, 5), (0, 0), (1, 3), (1, 12), (1, 250), (2, 3), (4, 2), (3, 1)]))
    points = draw(_points(height * width))
    fields, step = draw(_fields())
    padding = draw(st.sampled_from([0, 0, 1, 7, 100]))
    big = draw(st.booleans())
    row_step = width * step + padding
    data = bytearray(draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * (height * row_step))
    rng = random.Random(len(points))
    for index, point in enumerate(points):
        start = index // width * row_step + index % width * step
        for field in fields:
            value = dict(zip("xyz", point, strict=True)).get(field.name)
            _put(data, start + field.offset, field.datatype, value if value is not None else rng.randrange(100), big)
    written = 0 if padding == 0 and draw(st.integers(0, 7)) == 0 else row_step
    message = PointCloud2(height=height, width=width, fields=fields, is_bigendian=big, point_step=step, row_step=written,
                          is_dense=draw(st.booleans()))
    message.data = array.array("B", data)
    _head(draw, message)
    return message


def _head(draw: st.DrawFn, message: Any) -> None:
    """Stamps in any order, and a frame that changes."""
    message.header.stamp.sec = draw(st.sampled_from([0, 1, 100, 101, 1_700_000_000, 2**31 - 1, -(2**31)]))
    message.header.stamp.nanosec = draw(st.sampled_from([0, 1, 999_999_999, 2**32 - 1]))
    message.header.frame_id = draw(st.sampled_from(["lidar", "", "/lidar", "a/b", "é" * 100]))


@st.composite
def _fields(draw: st.DrawFn) -> tuple[list[Any], int]:
    """Fields in any order with gaps, and the step of a point."""
    names = draw(st.permutations([*"xyz", *draw(st.lists(EXTRAS, max_size=3, unique=True))]))
    kind = draw(st.sampled_from([7, 7, 8, 0]))
    fields, offset = [], 0
    for name in names:
        own = kind if name in ("x", "y", "z") and kind else draw(st.sampled_from([7, 8] if name in ("x", "y", "z") else list(CODES)))
        offset += draw(st.sampled_from([0, 0, 0, 1, 4]))
        fields.append(PointField(name=name, offset=offset, datatype=own, count=draw(st.sampled_from([1, 1, 1, 0]))))
        offset += SIZES[own]
    return fields, offset + draw(st.sampled_from([0, 0, 1, 4, 13]))


def _put(data: bytearray, at: int, datatype: int, value: float, big: bool) -> None:
    code = (">" if big else "<") + CODES[datatype]
    try:
        struct.pack_into(code, data, at, value)
    except OverflowError:  # a float64 that float32 does not hold
        struct.pack_into(code, data, at, float("inf"))


def _any_field(draw: st.DrawFn, message: Any) -> Any:
    """One of the fields; a stray one where there is none."""
    return draw(st.sampled_from(message.fields)) if message.fields else PointField()


def _duplicate(draw: st.DrawFn, message: Any) -> None:
    field = _any_field(draw, message)
    copy = PointField(name=field.name, offset=draw(UINT32), datatype=field.datatype, count=field.count)
    message.fields = [*message.fields, copy][::draw(st.sampled_from([1, -1]))]


def _drop(draw: st.DrawFn, message: Any) -> None:
    field = _any_field(draw, message)
    message.fields = [other for other in message.fields if other is not field] if draw(st.integers(0, 9)) else []


def _set(name: str, values: st.SearchStrategy[Any]) -> Callable[[st.DrawFn, Any], None]:
    return lambda draw, message: setattr(message, name, draw(values))


def _set_of_field(name: str, values: st.SearchStrategy[Any]) -> Callable[[st.DrawFn, Any], None]:
    return lambda draw, message: setattr(_any_field(draw, message), name, draw(values))


def _near(name: str) -> Callable[[st.DrawFn, Any], None]:
    return lambda draw, message: setattr(message, name, max(0, min(2**32 - 1, getattr(message, name) + draw(st.integers(-9, 9)))))


def _truncate(draw: st.DrawFn, message: Any) -> None:
    message.data = message.data[:draw(st.integers(0, len(message.data)))]


def _lengthen(draw: st.DrawFn, message: Any) -> None:
    message.data = message.data + array.array("B", bytes(draw(st.integers(1, 500))))


FAULTS: dict[str, Callable[[st.DrawFn, Any], None]] = {
    "point_step": _set("point_step", UINT32), "point_step near": _near("point_step"), "row_step": _set("row_step", UINT32),
    "row_step near": _near("row_step"), "height": _set("height", UINT32), "width": _set("width", UINT32), "width near": _near("width"),
    "data truncated": _truncate, "data too long": _lengthen, "endianness": _set("is_bigendian", st.booleans()),
    "field type": _set_of_field("datatype", st.integers(0, 255)), "field count": _set_of_field("count", UINT32),
    "field offset": _set_of_field("offset", UINT32), "field name": _set_of_field("name", EXTRAS | st.sampled_from("xyz")),
    "field twice": _duplicate, "field missing": _drop}


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Any, list[str]]:
    """Any cloud, and the names of what was done to it."""
    message = draw(readable_clouds())
    faults = draw(st.lists(st.sampled_from(sorted(FAULTS)), max_size=3))
    for fault in faults:
        FAULTS[fault](draw, message)
    return message, faults


def points_cloud(points: Any, stamp_s: int = 1) -> Any:
    """A plain cloud of (N, 3) float32 points, for sizes that no strategy draws."""
    message = PointCloud2(height=1, width=len(points), point_step=12, row_step=12 * len(points), is_dense=True)
    message.fields = [PointField(name=name, offset=4 * index, datatype=7, count=1) for index, name in enumerate("xyz")]
    message.header.stamp.sec = stamp_s
    message.data = array.array("B")
    message.data.frombytes(points.tobytes())
    return message
