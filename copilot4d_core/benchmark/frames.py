# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The clouds of a benchmark, in memory before anything is timed, and the rays that are rendered for each.

What goes in: a bag or files of scans, or nothing for a simulated drive. What comes out: arrays.
Unusual: a cloud is brought to a wanted number of points by a fixed rule, so that times over points are of the same scene.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from copilot4d_core.data.rays import Rays
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.data.sources import open_scans
from copilot4d_core.grid import FloatArray

STREET, SENSOR = 1000, "hdl64"
"""Seed and sensor of the simulated drive, the demo's; the packaged weights were trained on streets of seeds 0 to 95."""
BEAMS = 64
SPREAD_M = 0.05
"""Copies of a point are moved by up to so much along each axis, or they would all share its voxel."""


class Frames(NamedTuple):
    """Clouds that are processed over and over."""

    source: str
    """Where they come from, for people."""
    clouds_m: list[FloatArray]
    """(N, 3) float32, metres, sensor frame."""

    @property
    def points(self) -> int:
        """Median of the clouds."""
        return int(np.median([len(cloud_m) for cloud_m in self.clouds_m]))


def load_frames(path: Path | None, topic: str | None, count: int, points: int | None) -> Frames:
    """Read or simulate clouds.

    Args:
        path: what `open_scans` opens; None simulates a drive.
        topic: PointCloud2 topic of a bag.
        count: at most so many, from the beginning.
        points: points of each cloud, see `resampled`; None leaves them as they are.
    Raises:
        ValueError: nothing readable there, no point in a scan, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"--frames: expected at least 1, got {count}")
    if points is not None and points < 1:
        raise ValueError(f"--points: expected at least 1, got {points}")
    if path is None:
        source, scans = "simulated drive", simulate_drive(STREET, count, SENSOR)
    else:
        opened = open_scans(path, topic)
        source, scans = opened.name, itertools.islice(opened, count)
    clouds_m = [scan.points_m for scan in scans]
    empty = sum(len(cloud_m) == 0 for cloud_m in clouds_m)
    if empty or not clouds_m:
        raise ValueError(f"{source}: expected scans with points, {empty} of {len(clouds_m)} have none; name other data")
    return Frames(source, clouds_m if points is None else [resampled(cloud_m, points) for cloud_m in clouds_m])


def resampled(points_m: FloatArray, count: int) -> FloatArray:
    """A cloud with so many points: fewer are taken evenly over their order, more are copies moved by up to `SPREAD_M`.

    Args:
        points_m: (N, 3) float32, N at least 1.
    Returns:
        (count, 3) float32; the first N are the cloud itself where it has fewer.
    """
    have = len(points_m)
    if count <= have:
        return np.ascontiguousarray(points_m[np.arange(count) * have // count])
    copies = points_m[np.arange(have, count) % have]
    moved = copies + np.random.default_rng(0).uniform(-SPREAD_M, SPREAD_M, copies.shape).astype(np.float32)
    return np.concatenate([points_m, moved])


def pattern_rays(count: int) -> Rays:
    """Rays of the node's depth image, 64 beams, with as many columns as the number asks for.

    Raises:
        ValueError: no multiple of 64.
    """
    if count < BEAMS or count % BEAMS:
        raise ValueError(f"--rays: expected a multiple of {BEAMS}, the beams of the depth image, got {count}")
    return SphericalPattern(BEAMS, count // BEAMS).rays(np.zeros(3, dtype=np.float32))
