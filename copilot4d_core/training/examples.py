# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Scans to training examples: choose, augment, draw rays.

Unusual: example `k` of a run depends on the seed and `k` alone, so a resumed run sees the same data as an
uninterrupted one and workers need no shared state.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from copilot4d_core.config import Config, TrainingConfig
from copilot4d_core.data.rays import empty_rays, rays_from_points
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.data.sources import open_all, open_scans
from copilot4d_core.grid import BoolArray, FloatArray, Grid

SHIFT_XY_M, SHIFT_Z_M = 3.0, 0.3
"""Largest shift of a scan; our choice: the region's content moves, so that places are not learned by heart."""
OTHER_MOUNT_Z_M = 1.7
"""Largest shift in height of the examples that are to look as from a low robot or a truck (`training.other_mount_share`)."""
ANY_TURN_RAD, SMALL_TURN_RAD = math.pi, math.radians(10.0)
"""Largest turn of the examples that are turned by any angle (`training.turned_share`), and of the others."""
SCALE = 0.05
KEEP_AT_LEAST = 0.3
"""Smallest share of points that stays in the input of a thinned example (`training.thinned_share`)."""


class Example(NamedTuple):
    """One scan, ready for a training step."""

    points_m: FloatArray
    """(N, 3) float32, inside the region: the encoder's input."""
    occupancy_YXZ: BoolArray
    """Voxels that hold a point of the scan."""
    origin_R3: FloatArray
    direction_R3: FloatArray
    depth_R: FloatArray
    """Metres; 0 for a beam that returned nothing."""
    returned_R: BoolArray
    jitter_R: FloatArray
    name: str
    """Source and scan, to name it when something is wrong with it."""


class Examples(Dataset[Example]):
    """The examples of a run by their number, counted from its start; from several sources, drawn by the square root of their size.

    A drive of 500 nearly equal scans should not drown one of 10, and neither should it count the same.
    """

    def __init__(self, config: Config, paths: list[Path], topic: str | None, simulated: Path | None = None, simulated_share: float = 0.0,
                 sensor: BeamPattern | None = None) -> None:
        """Open the sources.

        Args:
            config: settings.
            paths: files, folders, downloads or bags.
            topic: topic of the bags among them.
            simulated: bag of simulated scans, from which a share of the examples comes.
            simulated_share: 0 to 1.
            sensor: which recorded all of the paths; None finds out scan by scan where no beam met anything.
        Raises:
            ValueError: no path, or a source without scans.
        """
        if not paths:
            raise ValueError("training data: expected at least one file, folder or bag, got none; pass --data PATH")
        self.config, self.grid = config, Grid(config)
        self.sources = open_all(paths, topic)
        for path, source in zip(paths, self.sources, strict=True):
            if not len(source):
                raise ValueError(f"{path}: expected scans to train on, found none")
        shares = np.sqrt([len(source) for source in self.sources])
        self.shares = shares / shares.sum()
        self.sensors: list[BeamPattern | None] = [sensor] * len(self.sources)
        if simulated is not None:
            self.sources.append(open_scans(simulated))
            self.sensors.append(None)
            self.shares = np.append(self.shares * (1 - simulated_share), simulated_share)

    def __len__(self) -> int:
        return self.config.training.steps * self.config.training.batch_scans

    def __getitem__(self, number: int) -> Example:
        return self.example(number, thin=True)

    def example(self, number: int, *, thin: bool) -> Example:
        """Example of a number; `thin` leaves points out of the input of some, as training wants."""
        rng = np.random.default_rng([self.config.training.seed, number])
        while True:
            chosen = int(rng.choice(len(self.sources), p=self.shares))
            source = self.sources[chosen]
            scan = _augmented(source[int(rng.integers(len(source)))], rng, self.config.training)
            inside = self.grid.inside(scan.points_m)
            if inside.sum() >= 2 and self.grid.inside(scan.origins_m).all():
                return self._example(scan, inside, rng, thin, self.sensors[chosen])._replace(name=f"{source.name}: {scan.name}")

    def _example(self, scan: Scan, inside: BoolArray, rng: np.random.Generator, thin: bool, sensor: BeamPattern | None) -> Example:
        settings = self.config.training
        points = scan.points_m[inside]
        chosen = rng.permutation(len(points))[: settings.rays_per_scan]
        rays, depth = rays_from_points(points[chosen], scan.point_origins_m[inside][chosen])
        empty = empty_rays(scan, self.grid, sensor) if settings.empty_rays_per_scan else None
        pick = rng.permutation(len(empty.directions))[: settings.empty_rays_per_scan] if empty else np.zeros(0, dtype=int)
        origins = [rays.origins_m] + ([empty.origins_m[pick]] if empty else [])
        directions = [rays.directions] + ([empty.directions[pick]] if empty else [])
        count = len(depth) + len(pick)
        returned = np.arange(count) < len(depth)
        return Example(
            points_m=_thinned(points, rng, settings.thinned_share) if thin else points, occupancy_YXZ=self.grid.occupancy(points),
            origin_R3=np.concatenate(origins), direction_R3=np.concatenate(directions),
            depth_R=np.concatenate([depth, np.zeros(len(pick), dtype=np.float32)]).astype(np.float32),
            returned_R=returned, jitter_R=rng.random(count, dtype=np.float32), name=scan.name)


def _augmented(scan: Scan, rng: np.random.Generator, settings: TrainingConfig) -> Scan:
    """Turn about z, mirror, scale and shift the scan; its origins move along."""
    angle = rng.uniform(-1, 1) * (ANY_TURN_RAD if rng.random() < settings.turned_share else SMALL_TURN_RAD)
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    if rng.random() < 0.5:
        turn[:, 1] *= -1
    turn *= rng.uniform(1 - SCALE, 1 + SCALE)
    shift_z_m = OTHER_MOUNT_Z_M if rng.random() < settings.other_mount_share else SHIFT_Z_M
    shift = rng.uniform([-SHIFT_XY_M, -SHIFT_XY_M, -shift_z_m], [SHIFT_XY_M, SHIFT_XY_M, shift_z_m])
    matrix, offset = turn.T.astype(np.float32), shift.astype(np.float32)
    return scan._replace(points_m=scan.points_m @ matrix + offset, origins_m=scan.origins_m @ matrix + offset)


def _thinned(points: FloatArray, rng: np.random.Generator, share: float) -> FloatArray:
    """In some examples only a share of the points goes into the encoder, as from a sensor with fewer beams."""
    if rng.random() >= share:
        return points
    kept = points[rng.random(len(points)) < rng.uniform(KEEP_AT_LEAST, 1.0)]
    return kept if len(kept) else points
