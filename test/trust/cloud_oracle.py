# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a PointCloud2 says, read the slow way: from the message's definition with struct, a value at a time.

Source: sensor_msgs/msg/PointCloud2 and PointField; the rest is the package's contract as its README and docstrings state it.
What goes in: a message. What comes out: its points, or everything that is wrong with it. Shares no line with the package's reader.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}
"""struct's code of each PointField datatype."""
INTENSITY = ("intensity", "i", "reflectivity", "signal")
Point = tuple[float, float, float]


class Reading(NamedTuple):
    """What a reader must make of a message."""

    problems: list[str]
    """Regular expressions: a refusal must match one of them; empty: it must be read."""
    points: list[Point]
    """Finite and not (0, 0, 0), as float32, in order."""
    intensity: list[float] | None
    """Of the same points."""
    dropped: int


def read(message: Any) -> Reading:
    """Read a message, or say what is wrong with it."""
    chosen = _chosen(message)
    problems = [*_field_problems(message, chosen), *_size_problems(message)]
    if problems:
        return Reading(problems, [], None, 0)
    order = ">" if message.is_bigendian else "<"
    data, row_step = bytes(message.data), message.row_step or message.width * message.point_step
    points: list[Point] = []
    intensity: list[float] = []
    dropped = 0
    for row in range(message.height if message.width else 0):
        for column in range(message.width):
            start = row * row_step + column * message.point_step
            values = [_float32(struct.unpack_from(order + CODES[field.datatype], data, start + field.offset)[0]) for field in chosen.values()]
            if all(map(math.isfinite, values[:3])) and any(values[:3]):
                points.append((values[0], values[1], values[2]))
                intensity += values[3:]
            else:
                dropped += 1
    return Reading([], points, intensity if len(chosen) == 4 else None, dropped)


def _chosen(message: Any) -> dict[str, Any]:
    """The fields that count: x, y, z and the first of the names of an intensity; None where there is none."""
    names = [field.name for field in message.fields]
    wanted = [*"xyz", *[name for name in INTENSITY if name in names][:1]]
    return {name: next((field for field in message.fields if field.name == name), None) for name in wanted}


def _field_problems(message: Any, chosen: dict[str, Any]) -> list[str]:
    problems = []
    for name, field in chosen.items():
        if field is None:
            problems.append(rf"missing .*\b{name}\b")
            continue
        several = sum(other.name == name for other in message.fields) > 1
        wrong_type = field.datatype not in CODES or (name in "xyz" and CODES[field.datatype] not in "fd")
        beyond = not wrong_type and field.offset + struct.calcsize("<" + CODES[field.datatype]) > message.point_step
        if several or wrong_type or field.count > 1 or beyond:
            problems.append(f"field {name}:")
    return problems


def _size_problems(message: Any) -> list[str]:
    problems = []
    packed = message.width * message.point_step
    if message.point_step == 0 or message.point_step > 2**31 - 1:
        problems.append("point_step")
    if message.row_step and message.row_step < packed:
        problems.append("row_step of at least")
    if len(message.data) < message.height * (message.row_step or packed):
        problems.append("bytes of data")
    return problems


def _float32(value: float) -> float:
    """Rounded as IEEE 754 says; infinity beyond its range."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
