# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A virtual pinhole camera: depth images from any viewpoint, as `depth_image_proc` and RViz expect them.

What goes in: the camera's matrix and where it is. What comes out: one ray a pixel, and depth along the optical axis.
Frames follow REP-103: the sensor's has x forward, y left, z up; the camera's optical frame z forward, x right, y down.
Unusual: the middle of pixel (column u, row v) has the image coordinates (u, v), whole numbers, as in CameraInfo and
OpenCV. The optical axis of an image of 320 columns therefore goes through its middle with cx = 159.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.rotation import Doubles, rotation_from_quaternion
from copilot4d_core.data.scan import Rays
from copilot4d_core.grid import FloatArray

ORTHONORMAL_WITHIN = 1e-5
"""Rounding of a rotation in single precision."""

OPTICAL_IN_FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Columns: the axes of the optical frame (right, down, forward) of a camera that looks along +x with +z up."""


@dataclass(frozen=True, eq=False)
class CameraPose:
    """Where a camera is: a point of its optical frame is rotation @ point + position_m in the sensor's frame."""

    position_m: Doubles
    """(3,)."""
    rotation: Doubles
    """(3, 3), orthonormal, right-handed."""

    def __post_init__(self) -> None:
        position_m, rotation = np.asarray(self.position_m, dtype=np.float64), np.asarray(self.rotation, dtype=np.float64)
        if position_m.shape != (3,) or not np.isfinite(position_m).all():
            raise ValueError(f"camera pose: expected a position of 3 finite numbers in metres, got {position_m.tolist()}")
        if rotation.shape != (3, 3) or not _is_rotation(rotation):
            raise ValueError("camera pose: expected an orthonormal right-handed 3 x 3 rotation (unit columns at right angles, "
                             f"determinant +1), got {rotation.tolist()}")
        object.__setattr__(self, "position_m", position_m)
        object.__setattr__(self, "rotation", rotation)


def _is_rotation(matrix: Doubles) -> bool:
    return bool(np.abs(matrix @ matrix.T - np.eye(3)).max() <= ORTHONORMAL_WITHIN and np.linalg.det(matrix) > 0)


def camera_pose_from_angles(position_m: Sequence[float], roll_deg: float, pitch_deg: float, yaw_deg: float) -> CameraPose:
    """Pose of a camera that looks along +x at angles 0, turned by roll about x, then pitch about y, then yaw about z.

    Positive yaw looks left, positive pitch looks down, positive roll leans to the right (REP-103).

    Args:
        position_m: x, y, z in the sensor's frame.
    Raises:
        ValueError: a number is NaN or infinite, or the position has not 3 numbers.
    """
    if not all(map(math.isfinite, (roll_deg, pitch_deg, yaw_deg))):
        raise ValueError(f"camera pose: expected finite roll, pitch and yaw in degrees, got {roll_deg}, {pitch_deg} and {yaw_deg}")
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in map(math.radians, (roll_deg, pitch_deg, yaw_deg)))
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return CameraPose(np.asarray(position_m, dtype=np.float64), yaw @ pitch @ roll @ OPTICAL_IN_FORWARD)


def camera_pose_from_quaternion(position_m: Sequence[float], quaternion_xyzw: Sequence[float]) -> CameraPose:
    """Pose from the transform of the camera's optical frame in the sensor's frame, as TF gives it.

    A camera that looks along +x has the quaternion (-0.5, 0.5, -0.5, 0.5).

    Args:
        position_m: x, y, z in the sensor's frame.
        quaternion_xyzw: x, y, z, w of unit length.
    Raises:
        ValueError: not 4 numbers of length 1, or the position has not 3 finite ones.
    """
    try:
        rotation = rotation_from_quaternion(quaternion_xyzw)
    except ValueError as error:
        raise ValueError(f"camera pose: {error}") from error
    return CameraPose(np.asarray(position_m, dtype=np.float64), rotation)


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """A camera without distortion; a `RayPattern` whose rays start at the camera."""

    width: int
    height: int
    fx: float
    """Focal length in pixels, along a row; fy along a column."""
    fy: float
    cx: float
    """Image coordinate of the optical axis: column; cy: row. It may lie outside the image."""
    cy: float
    pose: CameraPose

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera: expected width and height of at least 1 pixel, got {self.width} and {self.height}")
        if not (self.fx > 0 and self.fy > 0 and math.isfinite(self.fx) and math.isfinite(self.fy)):
            raise ValueError(f"camera: expected fx and fy above 0, in pixels, got {self.fx} and {self.fy}")
        if not (math.isfinite(self.cx) and math.isfinite(self.cy)):
            raise ValueError(f"camera: expected finite cx and cy, in pixels, got {self.cx} and {self.cy}")

    @property
    def rows(self) -> int:
        """Rows of the depth image."""
        return self.height

    @property
    def columns(self) -> int:
        """Columns of the depth image."""
        return self.width

    def rays(self, origin_m: FloatArray) -> Rays:
        """One ray through the middle of each pixel, row by row; all start at the camera.

        Args:
            origin_m: (3,) float32, metres: where the sensor's origin is in the frame of the rays; zeros in the sensor's own frame.
        Returns:
            height * width rays.
        """
        directions = (self._optical_directions @ self.pose.rotation.T).astype(np.float32)
        start_m = (origin_m + self.pose.position_m).astype(np.float32)
        return Rays(np.tile(start_m, (len(directions), 1)), directions)

    def z_depth_m(self, distance_m: npt.NDArray[np.floating]) -> FloatArray:
        """Depth along the optical axis from distance along the ray: what a 32FC1 depth image holds (REP-118).

        Args:
            distance_m: (height * width,) or (height, width), metres, in the order of the rays; NaN for nothing.
        Returns:
            float32, metres, of the same shape; NaN stays NaN.
        Raises:
            ValueError: not one distance a pixel.
        """
        if distance_m.shape not in ((self.height * self.width,), (self.height, self.width)):
            raise ValueError(f"camera: expected one distance a pixel, {self.height} x {self.width}, got shape {distance_m.shape}")
        return (distance_m * self._optical_directions[:, 2].reshape(distance_m.shape)).astype(np.float32)

    @cached_property
    def _optical_directions(self) -> Doubles:
        """(height * width, 3) unit vectors in the optical frame."""
        x, y = np.meshgrid((np.arange(self.width) - self.cx) / self.fx, (np.arange(self.height) - self.cy) / self.fy)
        directions = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        return np.asarray(directions / np.linalg.norm(directions, axis=1, keepdims=True), dtype=np.float64)
