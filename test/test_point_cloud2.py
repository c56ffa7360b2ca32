# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 bytes written by hand, in every layout that drivers publish, against the points they stand for."""

from __future__ import annotations

import array
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from copilot4d_core.data.point_cloud2 import data_from_points, layout_from_message, layout_notes, points_from_message

INT8, UINT8, INT16, UINT16, INT32, UINT32, FLOAT32, FLOAT64 = range(1, 9)
POINTS = [(1.5, -2.25, 0.5), (10.0, 20.0, -1.0), (-3.0, 4.0, 100.0)]


def cloud(data: bytes, fields: list[tuple[str, int, int]], point_step: int, width: int, height: int = 1,
          row_step: int | None = None, big: bool = False) -> Any:
    named = [SimpleNamespace(name=name, offset=offset, datatype=datatype, count=1) for name, offset, datatype in fields]
    return SimpleNamespace(height=height, width=width, fields=named, is_bigendian=big, point_step=point_step,
                           row_step=width * point_step if row_step is None else row_step, data=data)


def xyz(datatype: int = FLOAT32, size: int = 4) -> list[tuple[str, int, int]]:
    return [("x", 0, datatype), ("y", size, datatype), ("z", 2 * size, datatype)]


def packed(points: list[tuple[float, float, float]] = POINTS) -> bytes:
    return b"".join(struct.pack("<3f", *p) for p in points)


@pytest.mark.parametrize(("kind", "offsets", "step", "height"), [
    ("f4", (0, 4, 8, 12), 16, 1), ("f4", (0, 4, 8, 16), 32, 1), ("f4", (0, 4, 8, 12), 22, 1), ("f8", (0, 8, 16, 24), 34, 1),
    ("f4", (8, 4, 0, 12), 16, 5)])
def test_the_reader_of_ros_agrees_where_it_is_right(kind: str, offsets: tuple[int, ...], step: int, height: int) -> None:
    # It ignores row_step, swaps big-endian bytes in the message itself, and keeps points at the origin: none of that is here.
    theirs = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="sensor_msgs_py is part of a ROS 2 installation; it is not on PyPI")
    from sensor_msgs.msg import PointCloud2, PointField

    names = ("x", "y", "z", "intensity")
    dtype = np.dtype({"names": names, "formats": [f"<{kind}"] * 4, "offsets": offsets, "itemsize": step})
    points = np.zeros(60, dtype=dtype)
    for name in names:
        points[name] = np.random.default_rng(len(name) + offsets[0]).normal(size=60)
    points["y"][7] = np.nan
    number = {"f4": FLOAT32, "f8": FLOAT64}[kind]
    message = PointCloud2(height=height, width=60 // height, point_step=step, row_step=step * 60 // height, is_dense=False,
                          fields=[PointField(name=n, offset=o, datatype=number, count=1) for n, o in zip(names, offsets, strict=True)],
                          data=array.array("B", points.tobytes()))
    read = theirs.read_points(message, field_names=names, skip_nans=True)
    points_m, intensity, dropped = points_from_message(message)
    assert dropped == 1 and intensity is not None
    np.testing.assert_array_equal(points_m, np.stack([read[n].astype(np.float32).ravel() for n in "xyz"], axis=1))
    np.testing.assert_array_equal(intensity, read["intensity"].astype(np.float32).ravel())


def test_velodyne_points_of_22_bytes() -> None:
    # x, y, z, intensity float32, ring uint16 at 16, time float32 at 18: no point but the first is aligned.
    data = b"".join(struct.pack("<4fHf", *p, 7.0 + i, i, 0.25) for i, p in enumerate(POINTS))
    assert len(data) == 3 * 22
    message = cloud(data, [*xyz(), ("intensity", 12, FLOAT32), ("ring", 16, UINT16), ("time", 18, FLOAT32)], 22, 3)
    points_m, intensity, dropped = points_from_message(message)
    assert points_m.dtype == np.float32 and points_m.flags.c_contiguous
    assert points_m.tolist() == [list(p) for p in POINTS]
    assert intensity is not None and intensity.tolist() == [7.0, 8.0, 9.0] and dropped == 0


def test_hesai_points_of_26_bytes() -> None:
    data = b"".join(struct.pack("<4fHd", *p, 5.0, 1, 1e9) for p in POINTS)
    message = cloud(data, [*xyz(), ("intensity", 12, FLOAT32), ("ring", 16, UINT16), ("timestamp", 18, FLOAT64)], 26, 3)
    points_m, intensity, _ = points_from_message(message)
    assert points_m.tolist() == [list(p) for p in POINTS]
    assert intensity is not None and intensity.tolist() == [5.0, 5.0, 5.0]


def test_ouster_points_of_48_bytes_with_padding_and_reflectivity() -> None:
    data = b"".join(struct.pack("<3f4xfIHBxHxxI12x", *p, 3.0, 1, 200, 4, 5, 6)[:48] for p in POINTS)
    assert len(data) == 3 * 48
    message = cloud(data, [*xyz(), ("reflectivity", 24, UINT16)], 48, 3)
    points_m, intensity, _ = points_from_message(message)
    assert points_m.tolist() == [list(p) for p in POINTS]
    assert intensity is not None and intensity.tolist() == [200.0] * 3


def test_fields_out_of_order_with_gaps() -> None:
    data = b"".join(struct.pack("<xf2xffx", z, x, y) for x, y, z in POINTS)
    points_m, intensity, _ = points_from_message(cloud(data, [("z", 1, FLOAT32), ("x", 7, FLOAT32), ("y", 11, FLOAT32)], 16, 3))
    assert points_m.tolist() == [list(p) for p in POINTS] and intensity is None


def test_big_endian() -> None:
    data = b"".join(struct.pack(">3fH", *p, 258) for p in POINTS)
    points_m, intensity, _ = points_from_message(cloud(data, [*xyz(), ("intensity", 12, UINT16)], 14, 3, big=True))
    assert points_m.tolist() == [list(p) for p in POINTS]
    assert intensity is not None and intensity.tolist() == [258.0] * 3


def test_float64_coordinates() -> None:
    data = b"".join(struct.pack("<3d", *p) for p in POINTS)
    assert points_from_message(cloud(data, xyz(FLOAT64, 8), 24, 3))[0].tolist() == [list(p) for p in POINTS]


def test_float64_beyond_float32_is_dropped() -> None:
    data = struct.pack("<3d", 1e300, 0, 0) + struct.pack("<3d", 1, 2, 3)
    points_m, _, dropped = points_from_message(cloud(data, xyz(FLOAT64, 8), 24, 2))
    assert points_m.tolist() == [[1, 2, 3]] and dropped == 1


@pytest.mark.parametrize(("datatype", "code", "value"), [
    (INT8, "b", -5), (UINT8, "B", 250), (INT16, "h", -300), (UINT16, "H", 60000), (INT32, "i", -70000), (UINT32, "I", 70000),
    (FLOAT32, "f", 0.5), (FLOAT64, "d", 0.25)])
@pytest.mark.parametrize("name", ["intensity", "i", "reflectivity", "signal"])
def test_intensity_of_every_type_and_name(name: str, datatype: int, code: str, value: float) -> None:
    data = struct.pack(f"<3f{code}", 1, 2, 3, value)
    _, intensity, _ = points_from_message(cloud(data, [*xyz(), (name, 12, datatype)], len(data), 1))
    assert intensity is not None and intensity.dtype == np.float32 and intensity.tolist() == [float(value)]


def test_the_field_named_intensity_comes_first() -> None:
    data = struct.pack("<3f2B", 1, 2, 3, 9, 4)
    _, intensity, _ = points_from_message(cloud(data, [*xyz(), ("reflectivity", 12, UINT8), ("intensity", 13, UINT8)], 14, 1))
    assert intensity is not None and intensity.tolist() == [4.0]


def test_organised_cloud_with_padded_rows() -> None:
    rows = [[(1.0, 2.0, 3.0), (4.0, 5.0, 6.0)], [(7.0, 8.0, 9.0), (10.0, 11.0, 12.0)]]
    data = b"".join(packed(row) + b"\xff" * 5 for row in rows)
    points_m, _, _ = points_from_message(cloud(data, xyz(), 12, 2, height=2, row_step=29))
    assert points_m.tolist() == [list(p) for row in rows for p in row]


def test_row_step_zero_means_packed_rows() -> None:
    assert points_from_message(cloud(packed(), xyz(), 12, 3, row_step=0))[0].tolist() == [list(p) for p in POINTS]


def test_bytes_behind_the_last_row_are_not_read_and_are_told() -> None:
    message = cloud(packed() + b"rest", xyz(), 12, 3)
    assert points_from_message(message)[0].tolist() == [list(p) for p in POINTS]
    assert layout_notes(message) == ["data is longer than height * row_step: the rest is not read"]
    assert layout_notes(cloud(packed(), xyz(), 12, 3)) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda d: array.array("B", d),
                                  lambda d: np.frombuffer(d, np.uint8)])
def test_data_of_every_kind_of_buffer(kind: Any) -> None:
    assert points_from_message(cloud(kind(packed()), xyz(), 12, 3))[0].tolist() == [list(p) for p in POINTS]


def test_points_without_a_return_are_dropped_and_counted() -> None:
    nan, inf = float("nan"), float("inf")
    points = [(0.0, 0.0, 0.0), (1.0, 2.0, 3.0), (nan, 1.0, 1.0), (1.0, -inf, 1.0), (1.0, 1.0, inf), (0.0, 0.0, -0.0),
              (0.0, 0.0, 1.0)]
    data = b"".join(struct.pack("<4f", *p, i) for i, p in enumerate(points))
    points_m, intensity, dropped = points_from_message(cloud(data, [*xyz(), ("intensity", 12, FLOAT32)], 16, 7))
    assert points_m.tolist() == [[1, 2, 3], [0, 0, 1]] and dropped == 5
    assert intensity is not None and intensity.tolist() == [1.0, 6.0]


@pytest.mark.parametrize(("width", "height"), [(0, 1), (0, 0), (5, 0)])
def test_empty_cloud(width: int, height: int) -> None:
    points_m, intensity, dropped = points_from_message(cloud(b"", [*xyz(), ("intensity", 12, FLOAT32)], 16, width, height))
    assert points_m.shape == (0, 3) and intensity is not None and intensity.shape == (0,) and dropped == 0


def test_the_result_does_not_share_the_message_memory() -> None:
    data = bytearray(packed())
    points_m, _, _ = points_from_message(cloud(data, xyz(), 12, 3))
    data[:] = bytes(len(data))
    assert points_m.tolist() == [list(p) for p in POINTS]


def test_layout_is_kept_until_it_changes() -> None:
    first = cloud(packed(), xyz(), 12, 3)
    layout = layout_from_message(first)
    assert layout_from_message(first, layout) is layout
    shifted = b"".join(struct.pack("<xxxx3f", *p) for p in POINTS)
    other = cloud(shifted, [("x", 4, FLOAT32), ("y", 8, FLOAT32), ("z", 12, FLOAT32)], 16, 3)
    assert layout_from_message(other, layout) is not layout
    assert points_from_message(other, layout)[0].tolist() == [list(p) for p in POINTS]


@pytest.mark.parametrize(("change", "words"), [
    ({"fields": [("x", 0, FLOAT32), ("y", 4, FLOAT32)]}, ["missing z"]),
    ({"fields": []}, ["missing x, y, z", "no field"]),
    ({"fields": [("x", 0, INT32), ("y", 4, FLOAT32), ("z", 8, FLOAT32)]}, ["field x", "float32"]),
    ({"fields": [("x", 0, FLOAT32), ("y", 4, 9), ("z", 8, FLOAT32)]}, ["field y", "9"]),
    ({"fields": [("x", 0, FLOAT32), ("y", 4, FLOAT32), ("z", 10, FLOAT32)]}, ["field z", "14", "point_step 12"]),
    ({"fields": [*xyz(), ("intensity", 9, FLOAT32)]}, ["field intensity", "13"]),
    ({"fields": [*xyz(), ("x", 0, FLOAT32)]}, ["field x", "once"]),
    ({"row_step": 35}, ["row_step", "36", "35"]),
    ({"row_step": 40}, ["40 bytes", "got 36"]),
    ({"width": 4}, ["48 bytes", "got 36"]),
    ({"width": 2**31, "height": 2**31}, ["got 36"]),
    ({"width": -1}, ["width", "-1"]),
    ({"point_step": 2**31, "width": 0, "data": b""}, ["point_step", "2147483648"]),
    ({"point_step": 2**32 - 1}, ["point_step", "4294967295"]),
])
def test_refusals_name_what_is_wrong(change: dict[str, Any], words: list[str]) -> None:
    arguments: dict[str, Any] = {"data": packed(), "fields": xyz(), "point_step": 12, "width": 3, **change}
    with pytest.raises(ValueError) as refusal:
        points_from_message(cloud(**arguments))
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


@pytest.mark.parametrize("field", [0, 1, 2])
def test_an_array_of_coordinates_is_refused(field: int) -> None:
    message = cloud(packed(), xyz(), 12, 3)
    message.fields[field].count = 3
    with pytest.raises(ValueError, match=f"field {'xyz'[field]}: expected a count of 1, got 3"):
        layout_from_message(message)


def test_writer_gives_the_bytes_of_a_packed_cloud() -> None:
    points_m = np.array(POINTS, dtype=np.float32)
    fields, data = data_from_points(points_m, np.array([7, 8, 9], dtype=np.float32))
    described = [(f.name, f.offset, f.datatype, f.count) for f in fields]
    assert described == [("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1), ("intensity", 12, 7, 1)]
    assert data == b"".join(struct.pack("<4f", *p, 7.0 + i) for i, p in enumerate(POINTS))
    fields, data = data_from_points(points_m, None)
    assert len(fields) == 3 and data == packed()


def test_writer_refuses_arrays_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match=r"\(2,\)"):
        data_from_points(np.zeros((3, 3), dtype=np.float32), np.zeros(2, dtype=np.float32))
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        data_from_points(np.zeros((3, 4), dtype=np.float32), None)
