# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 messages to points and back, for every layout that drivers publish.

What goes in: anything with the attributes of `sensor_msgs/PointCloud2` (no ROS import). What comes out: packed float32.
Unusual: the message's bytes are viewed in place whatever their alignment, byte order and padding; one copy is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.scan import kept_points
from copilot4d_core.grid import FloatArray

DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""NumPy type of each `sensor_msgs/PointField` datatype number."""
FLOAT32 = 7
INTENSITY_NAMES = ("intensity", "i", "reflectivity", "signal")
LARGEST_POINT_STEP = 2**31 - 1
"""No NumPy type is larger."""


class Field(Protocol):
    """As `sensor_msgs/PointField`."""

    name: str
    offset: int
    datatype: int
    count: int


class CloudMessage(Protocol):
    """As `sensor_msgs/PointCloud2`."""

    header: Any
    height: int
    width: int
    fields: Sequence[Any]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: Any


@dataclass(frozen=True)
class FieldDescription:
    """One field of a cloud, as `sensor_msgs/PointField`."""

    name: str
    offset: int
    datatype: int
    count: int


class CloudLayout(NamedTuple):
    """How to read the points of one publisher, checked once."""

    fingerprint: tuple[Any, ...]
    """What the layout was made from; a message with another fingerprint needs another layout."""
    dtype: np.dtype[np.void]
    """One point with its padding: fields x, y, z and, where the message has one, intensity."""
    has_intensity: bool

    @property
    def float32_offsets(self) -> tuple[int, int, int] | None:
        """Where x, y and z lie in a point if all are float32 in the byte order of this machine, else None."""
        fields = self.dtype.fields
        assert fields is not None
        native = np.dtype(np.float32)
        if any(fields[name][0] != native for name in "xyz"):
            return None
        x, y, z = (fields[name][1] for name in "xyz")
        return x, y, z

    @property
    def text(self) -> str:
        """The layout in one line, such as `x f4@0, y f4@4, z f4@8, step 16, little-endian`."""
        fields, step, is_bigendian = self.fingerprint
        listed = [f"{name} {DATATYPES.get(datatype, datatype)}@{offset}" for name, offset, datatype, _ in fields]
        return ", ".join([*listed, f"step {step}", "big-endian" if is_bigendian else "little-endian"])


def _fingerprint(message: CloudMessage) -> tuple[Any, ...]:
    fields = tuple((f.name, f.offset, f.datatype, f.count) for f in message.fields)
    return fields, message.point_step, bool(message.is_bigendian)


def layout_from_message(message: CloudMessage, known: CloudLayout | None = None) -> CloudLayout:
    """Check the fields of a message and say how to read them.

    Args:
        message: a PointCloud2.
        known: layout of an earlier message of this publisher; returned as it is when it still fits.
    Raises:
        ValueError: point_step is too large, or x, y or z is missing, not float32 or float64, an array, or beyond the point; names the field.
    """
    fingerprint = _fingerprint(message)
    if known is not None and known.fingerprint == fingerprint:
        return known
    if message.point_step > LARGEST_POINT_STEP:
        raise ValueError(f"PointCloud2: expected a point_step of at most {LARGEST_POINT_STEP}, got {message.point_step}")
    fields = {f.name: f for f in message.fields}
    missing = [name for name in "xyz" if name not in fields]
    if missing:
        raise ValueError(f"PointCloud2: expected the fields x, y and z, missing {', '.join(missing)}; "
                         f"got {', '.join(fields) or 'no field'}")
    chosen = {name: fields[name] for name in "xyz"}
    intensity = next((fields[name] for name in INTENSITY_NAMES if name in fields), None)
    if intensity is not None:
        chosen["intensity"] = intensity
    names = [f.name for f in message.fields]
    for field in chosen.values():
        if names.count(field.name) > 1:
            raise ValueError(f"PointCloud2: field {field.name}: expected it once, got it {names.count(field.name)} times")
    order = ">" if message.is_bigendian else "<"
    formats = [order + _checked(name, field, message.point_step) for name, field in chosen.items()]
    dtype = np.dtype({"names": list(chosen), "formats": formats, "offsets": [f.offset for f in chosen.values()],
                      "itemsize": message.point_step})
    return CloudLayout(fingerprint, dtype, intensity is not None)


def _checked(name: str, field: Field, point_step: int) -> str:
    kind = DATATYPES.get(field.datatype)
    if kind is None:
        raise ValueError(f"PointCloud2: field {field.name}: expected a datatype of 1 to 8, got {field.datatype}")
    if name in ("x", "y", "z") and kind not in ("f4", "f8"):
        raise ValueError(f"PointCloud2: field {field.name}: expected float32 (7) or float64 (8), got datatype {field.datatype}")
    # 0 is what some drivers write for one.
    if field.count not in (0, 1):
        raise ValueError(f"PointCloud2: field {field.name}: expected a count of 1, got {field.count}")
    size = np.dtype(kind).itemsize
    if field.offset < 0 or field.offset + size > point_step:
        raise ValueError(f"PointCloud2: field {field.name}: bytes {field.offset} to {field.offset + size} "
                         f"lie beyond point_step {point_step}")
    return kind


def layout_notes(message: CloudMessage) -> list[str]:
    """What a publisher does otherwise than most, and how it is read: for its users to know, once."""
    notes = []
    if message.is_bigendian:
        notes.append("is_bigendian is true: every value is swapped")
    if message.row_step == 0 and message.width:
        notes.append("row_step is 0: read as width * point_step")
    if len(message.data) > message.height * (message.row_step or message.width * message.point_step):
        notes.append("data is longer than height * row_step: the rest is not read")
    return notes


def checked_bytes(message: CloudMessage) -> tuple[npt.NDArray[np.uint8], int]:
    """Bytes of the message and the bytes of one row, checked before anything is allocated."""
    height, width, step = message.height, message.width, message.point_step
    if height < 0 or width < 0 or step <= 0:
        raise ValueError("PointCloud2: expected height and width of at least 0 and point_step above 0, "
                         f"got {height}, {width} and {step}")
    row_step = message.row_step or width * step
    if row_step < width * step:
        raise ValueError(f"PointCloud2: expected row_step of at least width * point_step = {width * step}, got {row_step}")
    data = np.frombuffer(message.data, dtype=np.uint8)
    if len(data) < height * row_step:
        raise ValueError(f"PointCloud2: expected {height * row_step} bytes of data (height {height} * row_step {row_step}), "
                         f"got {len(data)}")
    return data, row_step


def points_from_message(message: CloudMessage, layout: CloudLayout | None = None) -> tuple[FloatArray, FloatArray | None, int]:
    """Real returns of a message.

    Args:
        message: a PointCloud2.
        layout: from `layout_from_message`, to check the fields only once.
    Returns:
        Points (N, 3) float32 in the message's unit (metres) and frame; intensity (N,) float32 in the publisher's scale,
        None without such a field; number of points dropped because they were not finite or exactly (0, 0, 0).
    Raises:
        ValueError: the layout cannot be read, or there is less data than the message says.
    """
    layout = layout_from_message(message, layout)
    data, row_step = checked_bytes(message)
    cloud: npt.NDArray[np.void] = np.ndarray((message.height, message.width), dtype=layout.dtype, buffer=data,
                                             strides=(row_step, message.point_step))
    points_m = np.empty((message.height * message.width, 3), dtype=np.float32)
    grid_m = points_m.reshape(message.height, message.width, 3)
    # A float64 beyond float32 becomes infinity, which is dropped below.
    with np.errstate(over="ignore", invalid="ignore"):
        for axis, name in enumerate("xyz"):
            grid_m[..., axis] = cloud[name]
        intensity = cloud["intensity"].astype(np.float32).ravel() if layout.has_intensity else None
    kept = kept_points(points_m)
    dropped = int(np.count_nonzero(~kept))
    if dropped == 0:
        return points_m, intensity, 0
    # Each point as one item of 12 bytes: NumPy copies those in a tenth of the time of rows of three.
    whole = points_m.view("V12")[:, 0][kept].view(np.float32).reshape(-1, 3)
    return whole, None if intensity is None else intensity[kept], dropped


def data_from_points(points_m: FloatArray, intensity: FloatArray | None) -> tuple[list[FieldDescription], bytes]:
    """Fields and data of a PointCloud2 with x, y, z and, when given, intensity, all little-endian float32.

    Args:
        points_m: (N, 3) float32, metres.
        intensity: (N,) float32 or None.
    Returns:
        The fields, and N * 16 bytes (N * 12 without intensity): `point_step` is 4 bytes a field.
    Raises:
        ValueError: the arrays do not belong together.
    """
    if points_m.ndim != 2 or points_m.shape[1] != 3 or (intensity is not None and intensity.shape != points_m.shape[:1]):
        raise ValueError(f"PointCloud2: expected points (N, 3) and intensity (N,), got {points_m.shape} and "
                         f"{None if intensity is None else intensity.shape}")
    names = ["x", "y", "z"] if intensity is None else ["x", "y", "z", "intensity"]
    values = points_m if intensity is None else np.column_stack([points_m, intensity])
    return [FieldDescription(name, 4 * i, FLOAT32, 1) for i, name in enumerate(names)], values.astype("<f4").tobytes()
