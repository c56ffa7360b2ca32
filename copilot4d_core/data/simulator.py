# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A LiDAR simulator: a spinning sensor on a vehicle that drives along a random street.

What goes in: a seed. What comes out: scans as a real drive gives them, or a ROS 2 bag of them.
Unusual: what a beam meets is exact geometry (`raycast.py`); range noise and lost returns are then added by a simple law
of light: the weaker the echo (far, grazing, dark), the likelier it is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.raycast import Doubles, Scene, cast
from copilot4d_core.data.scan import Rays, Scan, scan_from_points
from copilot4d_core.data.street import LANE_M, random_street
from copilot4d_core.grid import BoolArray, FloatArray

NS_PER_S = 1_000_000_000
EPOCH_NS = 1_700_000_000 * NS_PER_S
"""Stamp of the first scan of every drive."""
TOPIC = "/points"
FRAME_ID = "lidar"
ECHO_AT_100M = 3.0
"""Strength of the echo of a white surface met squarely at 100 m; a beam is lost with probability exp(-strength)."""
CALIBRATION_DEG = 0.05
"""Spread of the beams' elevations around the data sheet's."""


@dataclass(frozen=True)
class SensorModel:
    """A spinning LiDAR. Elevations, columns and range as in the makers' data sheets; noise is our choice."""

    elevations_deg: tuple[float, ...]
    """Highest first."""
    columns: int
    range_noise_m: float = 0.02
    max_range_m: float = 100.0
    min_range_m: float = 0.9
    rate_hz: float = 10.0

    def directions(self, turn_rad: float = 0.0) -> Doubles:
        """Beams in the sensor's frame, (rows * columns, 3), row by row; column 0 looks backwards and columns run clockwise.

        Args:
            turn_rad: angle by which the whole pattern is turned about z.
        """
        elevation = np.deg2rad(np.array(self.elevations_deg))[:, None]
        azimuth = (turn_rad + np.pi - 2 * np.pi / self.columns * np.arange(self.columns))[None, :]
        up = np.broadcast_to(np.sin(elevation), (len(self.elevations_deg), self.columns))
        return np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), up], axis=-1).reshape(-1, 3)


def _evenly(high: float, low: float, rows: int) -> tuple[float, ...]:
    return tuple(float(e) for e in np.linspace(high, low, rows))


SENSORS = {
    "hdl64": SensorModel(_evenly(2.0, -8.33, 32) + _evenly(-8.83, -24.33, 32), columns=2083),
    "hdl32": SensorModel(_evenly(10.67, -30.67, 32), columns=1084, rate_hz=20.0),
    "vlp16": SensorModel(_evenly(15.0, -15.0, 16), columns=1800, range_noise_m=0.03),
    "os1_64": SensorModel(_evenly(22.5, -22.5, 64), columns=1024, range_noise_m=0.03),
}


class Sweep(NamedTuple):
    """Every beam of one turn of the sensor, in the sensor's frame."""

    rays: Rays
    distance_m: FloatArray
    """(R,) float32, metres; NaN for a beam that came back with nothing."""
    is_empty: BoolArray
    """(R,): beams that met nothing within the sensor's range; a lost echo is no empty beam."""
    intensity: FloatArray
    """(R,) float32, 0 to 1; 0 for a beam that came back with nothing."""


class Roof(NamedTuple):
    """The own vehicle's roof, level below the sensor: beams that meet it come back with nothing."""

    front_m: float
    back_m: float
    half_width_m: float
    below_m: float
    """From the sensor down to the roof."""

    def hides(self, directions: Doubles) -> BoolArray:
        """Which of the beams (R, 3) in the sensor's frame meet the roof: (R,) bool."""
        falling = directions[:, 2] < 0
        reach = self.below_m / np.maximum(-directions[:, 2], 1e-9)
        x, y = reach * directions[:, 0], reach * directions[:, 1]
        return np.asarray(falling & (x < self.front_m) & (x > -self.back_m) & (np.abs(y) < self.half_width_m), dtype=bool)


class Pose(NamedTuple):
    """Where the sensor is in the world: a point of the sensor's frame is rotation @ point + position_m there."""

    rotation: Doubles
    """(3, 3)."""
    position_m: Doubles
    """(3,)."""


def pose_from_angles(position_m: Doubles, yaw_rad: float, pitch_rad: float, roll_rad: float) -> Pose:
    """Pose of a sensor that is turned by roll about x, then pitch about y, then yaw about z."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw_rad, pitch_rad, roll_rad))
    yaw = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return Pose(yaw @ pitch @ roll, np.asarray(position_m, dtype=np.float64))


def simulate_sweep(scene: Scene, sensor: SensorModel, pose: Pose, rng: np.random.Generator, *,
                   roof: Roof | None = None, with_noise: bool = True) -> Sweep:
    """One turn of the sensor in a scene that stands still meanwhile.

    Args:
        scene: what there is, in the world frame.
        sensor: the beams.
        pose: where the sensor is.
        rng: noise, lost returns, crowns and the angle at which the turn starts.
        roof: what hides the ground near the own vehicle; None for nothing.
        with_noise: False gives exact distances, no lost return, and the pattern unturned.
    """
    directions = sensor.directions(rng.uniform(0, 2 * np.pi / sensor.columns) if with_noise else 0.0)
    hits = cast(scene, pose.position_m, directions @ pose.rotation.T, rng)
    distance = hits.distance_m
    met = (distance >= sensor.min_range_m) & (distance <= sensor.max_range_m)
    is_empty = distance > sensor.max_range_m
    if roof is not None:
        hidden = roof.hides(directions)
        met, is_empty = met & ~hidden, is_empty & ~hidden
    if with_noise:
        with np.errstate(divide="ignore"):
            echo = ECHO_AT_100M * hits.brightness * np.where(met, (100.0 / distance) ** 2, 0.0)
        met &= rng.uniform(size=len(distance)) > np.exp(-echo)
        distance = distance + rng.normal(0, sensor.range_noise_m, len(distance))
    intensity = np.where(met, hits.brightness, 0.0).astype(np.float32)
    rays = Rays(np.zeros((len(directions), 3), dtype=np.float32), directions.astype(np.float32))
    return Sweep(rays, np.where(met, distance, np.nan).astype(np.float32), is_empty, intensity)


def simulate_sweeps(seed: int, num_scans: int, sensor: str | None = None) -> Iterator[tuple[int, Sweep]]:
    """The sweeps of one drive with their stamps in nanoseconds; they hold the beams that met nothing, too.

    Args:
        seed: the same seed gives the same street, sensor and noise.
        num_scans: how many.
        sensor: a key of `SENSORS`; None draws one.
    Raises:
        ValueError: unknown sensor, or fewer scans than one.
    """
    if sensor is not None and sensor not in SENSORS:
        raise ValueError(f"simulator: expected a sensor of {', '.join(SENSORS)}, got {sensor!r}")
    if num_scans < 1:
        raise ValueError(f"simulator: expected at least 1 scan, got {num_scans}")
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(list(SENSORS)))
    return _sweeps(rng, num_scans, _calibrated(SENSORS[sensor or drawn], rng))


def _calibrated(model: SensorModel, rng: np.random.Generator) -> SensorModel:
    """One made sensor of a model: its beams are not where the data sheet says."""
    shift = rng.normal(0, CALIBRATION_DEG, len(model.elevations_deg))
    return replace(model, elevations_deg=tuple(float(e) for e in np.array(model.elevations_deg) + shift))


def _sweeps(rng: np.random.Generator, num_scans: int, model: SensorModel) -> Iterator[tuple[int, Sweep]]:
    speed_mps, height_m, reach_m = rng.uniform(3.0, 14.0), rng.uniform(1.6, 2.2), model.max_range_m
    street = random_street(rng, -reach_m, speed_mps * num_scans / model.rate_hz + reach_m, speed_mps)
    roof = Roof(rng.uniform(0.5, 1.2), rng.uniform(1.0, 2.0), rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.9))
    mount_pitch, mount_roll = rng.normal(0, np.deg2rad(0.8), 2)
    weave_m, weave_rad_s = rng.uniform(0, 0.3), rng.uniform(0.2, 0.8)
    for index in range(num_scans):
        time_s = index / model.rate_hz
        x, y = speed_mps * time_s, -LANE_M + weave_m * np.sin(weave_rad_s * time_s)
        yaw = np.arctan2(weave_m * weave_rad_s * np.cos(weave_rad_s * time_s), speed_mps)
        pitch, roll = rng.normal([mount_pitch, mount_roll], np.deg2rad(0.2))
        pose = pose_from_angles(np.array([x, y, street.ground.height_m(y) + height_m]), yaw, pitch, roll)
        yield EPOCH_NS + round(time_s * NS_PER_S), simulate_sweep(street.scene(time_s, x, reach_m), model, pose, rng, roof=roof)


def simulate_drive(seed: int, num_scans: int, sensor: str | None = None) -> Iterator[Scan]:
    """The scans of one drive, in the sensor's frame (x forward, y left, z up), intensity 0 to 1.

    Args and errors: as for `simulate_sweeps`.
    """
    for index, (stamp_ns, sweep) in enumerate(simulate_sweeps(seed, num_scans, sensor)):
        met = np.isfinite(sweep.distance_m)
        points_m = sweep.rays.directions[met] * sweep.distance_m[met, None]
        yield scan_from_points(f"simulated_{seed}#{index}", points_m, sweep.intensity[met], raw_bytes=16 * len(points_m),
                               stamp_ns=stamp_ns, frame_id=FRAME_ID)


def write_demo_bag(path: Path, num_scans: int = 30, seed: int = 0, sensor: str = "hdl64") -> int:
    """Write a simulated drive as a ROS 2 bag with one PointCloud2 topic, `TOPIC`.

    Returns:
        Number of messages.
    Raises:
        ValueError: the folder exists already, or as for `simulate_sweeps`.
    """
    return write_cloud_bag(path, TOPIC, simulate_drive(seed, num_scans, sensor))
