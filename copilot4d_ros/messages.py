# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Messages from arrays and arrays from image messages; nothing else here knows how a message lays out its bytes.

Unusual: `data` is always filled as `array.array('B')`. Assigning a NumPy array makes rclpy copy element by element.
Type checkers see message classes as `Any`, because ROS ships no type information for them.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from copilot4d_core.data.camera import PinholeCamera
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.deploy.token_stream import stream_format
from copilot4d_core.grid import FloatArray

_IMAGE_TYPES: dict[str, np.dtype[Any]] = {"16UC1": np.dtype(np.uint16), "32FC1": np.dtype(np.float32)}
ERROR_FIELD = "error_m"


def image_from_tokens(tokens: TokenArray, header: Any) -> Any:
    """Token grid as an image.

    Args:
        tokens: (H, W) uint16; row = y, column = x.
        header: header of the cloud; kept whole.
    Returns:
        sensor_msgs/Image, 16UC1.
    Raises:
        ValueError: another type or number of axes.
    """
    return _image(tokens, "16UC1", header)


def image_from_depth(depth_m: FloatArray, header: Any) -> Any:
    """Depth image in metres along each ray.

    Args:
        depth_m: (rows, columns) float32; NaN where the ray met nothing.
        header: header of the cloud; kept whole.
    Returns:
        sensor_msgs/Image, 32FC1.
    Raises:
        ValueError: another type or number of axes.
    """
    return _image(depth_m, "32FC1", header)


def image_from_colours(colours: npt.NDArray[np.uint8], header: Any) -> Any:
    """Colour picture.

    Args:
        colours: (rows, columns, 3) uint8 red, green and blue.
        header: header of the cloud; kept whole.
    Returns:
        sensor_msgs/Image, rgb8.
    Raises:
        ValueError: another type or shape.
    """
    if colours.dtype != np.uint8 or colours.ndim != 3 or colours.shape[2] != 3:
        raise ValueError(f"image: expected uint8 of shape (rows, columns, 3), got {colours.dtype} of shape {colours.shape}")
    rows, columns, _ = colours.shape
    return Image(header=header, height=rows, width=columns, encoding="rgb8", is_bigendian=0, step=3 * columns, data=byte_array(colours))


def compressed_tokens(data: bytes, model_id: str, header: Any) -> Any:
    """Bytes of a token grid.

    Args:
        data: from `tokens_to_bytes`.
        model_id: of the model that made them; part of the message's format.
        header: header of the cloud; kept whole.
    Returns:
        sensor_msgs/CompressedImage.
    """
    return CompressedImage(header=header, format=stream_format(model_id), data=array.array("B", data))


def camera_info(camera: PinholeCamera, header: Any) -> Any:
    """What a depth image of a virtual camera means: no distortion, one matrix.

    Args:
        header: of the image: the scan's stamp, the camera's optical frame.
    Returns:
        sensor_msgs/CameraInfo.
    """
    fx, fy, cx, cy = float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy)
    return CameraInfo(header=header, height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5,
                      k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0], r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                      p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0])


def array_from_image(message: Any) -> npt.NDArray[Any]:
    """Pixels of a 16UC1 or 32FC1 image, rows as they lie in the message.

    Returns:
        (height, width) uint16 or float32, a copy.
    Raises:
        ValueError: another encoding, or fewer bytes than the header promises.
    """
    if message.encoding not in _IMAGE_TYPES:
        raise ValueError(f"image: expected encoding {' or '.join(_IMAGE_TYPES)}, got {message.encoding!r}")
    kind = _IMAGE_TYPES[message.encoding].newbyteorder(">" if message.is_bigendian else "<")
    packed = message.width * kind.itemsize
    if message.step < packed or len(message.data) < message.step * message.height:
        raise ValueError(f"image: expected {message.height} rows of at least {packed} bytes, got step {message.step} "
                         f"and {len(message.data)} bytes in all")
    rows = np.frombuffer(message.data, dtype=np.uint8, count=message.step * message.height).reshape(message.height, message.step)
    pixels: npt.NDArray[Any] = np.ascontiguousarray(rows[:, :packed]).view(kind).astype(kind.newbyteorder("="))
    return pixels


def cloud_from_points(points_m: FloatArray, header: Any, error_m: FloatArray | None = None) -> Any:
    """Organised cloud with the fields x, y, z and, where an error is given, error_m; not dense.

    Args:
        points_m: (rows, columns, 3) float32, metres, in the frame of the header; NaN where there is no point.
        header: header of the source cloud; kept whole.
        error_m: (rows, columns) float32, metres; NaN where it is unknown.
    Returns:
        sensor_msgs/PointCloud2, 12 bytes a point, 16 with the error.
    Raises:
        ValueError: another type or shape.
    """
    if points_m.dtype != np.float32 or points_m.ndim != 3 or points_m.shape[2] != 3:
        raise ValueError(f"cloud: expected float32 of shape (rows, columns, 3), got {points_m.dtype} of shape {points_m.shape}")
    if error_m is not None and (error_m.dtype != np.float32 or error_m.shape != points_m.shape[:2]):
        raise ValueError(f"cloud: expected an error float32 of shape {points_m.shape[:2]}, got {error_m.dtype} of shape {error_m.shape}")
    rows, columns, _ = points_m.shape
    names = ["x", "y", "z"] if error_m is None else ["x", "y", "z", ERROR_FIELD]
    values = points_m if error_m is None else np.concatenate([points_m, error_m[..., None]], axis=2)
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, name in enumerate(names)]
    step = 4 * len(names)
    return PointCloud2(header=header, height=rows, width=columns, fields=fields, is_bigendian=False, point_step=step, row_step=step * columns,
                       is_dense=False, data=byte_array(values.astype("<f4", copy=False)))


def cloud_from_record(record: Any) -> Any:
    """A recorded cloud, as a bag reader gives it, as a message that can be published; bytes and layout unchanged.

    Args:
        record: has the attributes of sensor_msgs/PointCloud2, `data` as uint8 array.
    Returns:
        sensor_msgs/PointCloud2.
    """
    stamp = record.header.stamp
    header = Header(frame_id=record.header.frame_id, stamp=Time(sec=int(stamp.sec), nanosec=int(stamp.nanosec)))
    fields = [PointField(name=f.name, offset=int(f.offset), datatype=int(f.datatype), count=int(f.count)) for f in record.fields]
    cloud = PointCloud2(header=header, height=int(record.height), width=int(record.width), fields=fields,
                        is_bigendian=bool(record.is_bigendian), point_step=int(record.point_step), row_step=int(record.row_step),
                        is_dense=bool(record.is_dense))
    cloud.data = byte_array(np.asarray(record.data, dtype=np.uint8))
    return cloud


def byte_array(values: npt.NDArray[Any]) -> array.array[int]:
    """Bytes of an array in row-major order, in the one type that rclpy takes over without checking each element."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data


def stamp_ns(header: Any) -> int:
    """Header stamp in nanoseconds since the epoch."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _image(pixels: npt.NDArray[Any], encoding: str, header: Any) -> Any:
    kind = _IMAGE_TYPES[encoding]
    if pixels.dtype != kind or pixels.ndim != 2:
        raise ValueError(f"image: expected {kind} of shape (rows, columns), got {pixels.dtype} of shape {pixels.shape}")
    rows, columns = pixels.shape
    image = Image(header=header, height=rows, width=columns, encoding=encoding, is_bigendian=0, step=columns * kind.itemsize)
    image.data = byte_array(pixels.astype(kind.newbyteorder("<"), copy=False))
    return image
