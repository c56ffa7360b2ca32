# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Messages against bytes written out by hand."""

from __future__ import annotations

import array
import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sensor_msgs", reason="no ROS 2 here: pip install '.[ros]'")

from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from copilot4d_core.config import preset
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_ros.depth_colours import depth_colours
from copilot4d_ros.messages import (
    array_from_image,
    byte_array,
    cloud_from_points,
    cloud_from_record,
    image_from_colours,
    image_from_depth,
    image_from_tokens,
    stamp_ns,
)
from copilot4d_ros.model_info import model_info

HEADER = Header(frame_id="/odd frame", stamp=Time(sec=3, nanosec=7))


def test_tokens_are_little_endian_rows() -> None:
    message = image_from_tokens(np.array([[1, 2, 3], [256, 65535, 0]], dtype=np.uint16), HEADER)
    assert message.header == HEADER
    assert (message.height, message.width, message.step, message.encoding, message.is_bigendian) == (2, 3, 6, "16UC1", 0)
    assert isinstance(message.data, array.array) and message.data.typecode == "B", "anything else is copied byte by byte"
    assert bytes(message.data) == b"\x01\x00\x02\x00\x03\x00" b"\x00\x01\xff\xff\x00\x00"


def test_depth_is_little_endian_metres() -> None:
    message = image_from_depth(np.array([[1.0], [np.nan]], dtype=np.float32), HEADER)
    assert (message.height, message.width, message.step, message.encoding) == (2, 1, 4, "32FC1")
    assert bytes(message.data)[:4] == b"\x00\x00\x80\x3f"
    assert np.isnan(np.frombuffer(bytes(message.data)[4:], "<f4")[0])


def test_a_transposed_view_is_written_in_its_own_order() -> None:
    tokens = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.uint16).T
    assert bytes(image_from_tokens(tokens, HEADER).data)[::2] == bytes([1, 3, 5, 2, 4, 6])


def test_images_read_back_with_padding_and_byte_order() -> None:
    padded = Image(height=2, width=1, encoding="16UC1", step=3, is_bigendian=1, data=[1, 2, 99, 3, 4, 99])
    np.testing.assert_array_equal(array_from_image(padded), [[0x0102], [0x0304]])
    depth_m = np.array([[0.5, np.nan], [80.0, 1e-3]], dtype=np.float32)
    np.testing.assert_array_equal(array_from_image(image_from_depth(depth_m, HEADER)), depth_m)


@pytest.mark.parametrize(("message", "expected"), [
    (Image(height=1, width=1, encoding="rgb8", step=3, data=[0, 0, 0]), "got 'rgb8'"),
    (Image(height=2, width=1, encoding="16UC1", step=2, data=[0, 0]), "got step 2 and 2 bytes"),
    (Image(height=1, width=2, encoding="16UC1", step=2, data=[0, 0]), "at least 4 bytes"),
])
def test_wrong_images_are_refused(message: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        array_from_image(message)


@pytest.mark.parametrize("make", [
    lambda: image_from_tokens(np.zeros((2, 2), dtype=np.int64), HEADER),
    lambda: image_from_depth(np.zeros((2, 2, 1), dtype=np.float32), HEADER),
    lambda: cloud_from_points(np.zeros((4, 3), dtype=np.float32), HEADER),
    lambda: cloud_from_points(np.zeros((2, 2, 3), dtype=np.float64), HEADER),
])
def test_wrong_arrays_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"expected .* got"):
        make()


def test_a_cloud_is_organised_and_not_dense() -> None:
    points_m = np.array([[[1.0, 0.0, 0.0], [np.nan] * 3]], dtype=np.float32)
    message = cloud_from_points(points_m, HEADER)
    assert message.header == HEADER
    assert (message.height, message.width, message.point_step, message.row_step, message.is_dense) == (1, 2, 12, 24, False)
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [("x", 0, 7, 1), ("y", 4, 7, 1), ("z", 8, 7, 1)]
    assert bytes(message.data)[:12] == b"\x00\x00\x80\x3f" + bytes(8)
    assert np.isnan(np.frombuffer(bytes(message.data)[12:], "<f4")).all()


def test_points_may_carry_an_error() -> None:
    points_m = np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], dtype=np.float32)
    message = cloud_from_points(points_m, HEADER, np.array([[0.5, np.nan]], dtype=np.float32))
    assert (message.point_step, message.row_step) == (16, 32)
    assert (message.fields[3].name, message.fields[3].offset, message.fields[3].datatype) == ("error_m", 12, 7)
    np.testing.assert_array_equal(np.frombuffer(bytes(message.data), "<f4"), [1, 2, 3, 0.5, 4, 5, 6, np.nan])
    with pytest.raises(ValueError, match="expected an error float32 of shape"):
        cloud_from_points(points_m, HEADER, np.zeros((2, 1), dtype=np.float32))


def test_colours_are_red_green_blue() -> None:
    message = image_from_colours(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8), HEADER)
    assert (message.encoding, message.height, message.width, message.step, bytes(message.data)) == ("rgb8", 1, 2, 6, bytes([1, 2, 3, 4, 5, 6]))
    with pytest.raises(ValueError, match="expected uint8"):
        image_from_colours(np.zeros((1, 2), dtype=np.uint8), HEADER)


def test_a_depth_has_the_same_colour_in_every_picture() -> None:
    depth_m = np.array([[0.0, 25.0, 50.0, 400.0, np.nan]], dtype=np.float32)
    near, middle, far, farther, nothing = depth_colours(depth_m, 50.0)[0].tolist()
    assert nothing == [0, 0, 0] and far == farther
    # Turbo runs from blue over green to red.
    assert near[2] > near[1] and max(middle) == middle[1] and far[0] > max(far[1:])
    assert depth_colours(depth_m / 2, 25.0)[0].tolist()[:3] == [near, middle, far]


def test_no_bytes_at_all() -> None:
    assert byte_array(np.empty((0, 3), dtype=np.float32)) == array.array("B")


def test_a_recorded_cloud_keeps_every_field() -> None:
    field = PointField(name="x", offset=5, datatype=8, count=2)
    record = PointCloud2(header=HEADER, height=1, width=2, fields=[field], is_bigendian=True, point_step=3, row_step=7)
    record.is_dense = True
    record.data = array.array("B", range(7))
    assert cloud_from_record(record) == record
    assert stamp_ns(cloud_from_record(record).header) == 3_000_000_007


def test_info_describes_the_grid_of_the_paper() -> None:
    # CoPilot4D, figure 6: 160 m x 160 m in 128 x 128 tokens of 1.25 m, 1024 codes.
    info = json.loads(json.dumps(model_info(preset("paper"), "paper-0", SphericalPattern())))
    assert (info["grid"], info["cell_size_m"], info["codebook_size"]) == ([128, 128], [1.25, 1.25], 1024)
    assert (info["region_min_m"], info["region_max_m"]) == ([-80.0, -80.0, -4.5], [80.0, 80.0, 4.5])


def test_info_says_how_the_beams_of_a_sensor_file_start() -> None:
    sensor = BeamPattern("Test", "by hand", (3.0, -7.5), 1800, 90.0, azimuth_offsets_deg=(1.4, -1.4), origin_heights_m=(0.2, 0.1))
    image = json.loads(json.dumps(model_info(preset("tiny"), "tiny-0", sensor)))["depth_image"]
    assert (image["elevations_deg"], image["azimuth_offsets_deg"], image["origin_heights_m"]) == ([3.0, -7.5], [1.4, -1.4], [0.2, 0.1])
