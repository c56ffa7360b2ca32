# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What is rendered of a token grid: a turn of the sensor as depth image and points, and virtual cameras; knows no node.

What goes in: tokens, and what somebody looks at. What comes out: arrays. Unusual: one decoding serves all views.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from copilot4d_core.data.camera import PinholeCamera
from copilot4d_core.data.rays import Rays
from copilot4d_core.data.sensors import RayPattern
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.grid import FloatArray


class DepthMode(str, enum.Enum):
    """Which depth of a ray is published."""

    EXPECTED = "expected"
    MEDIAN = "median"
    STRONGEST = "strongest"


class Wanted(NamedTuple):
    """What is to be rendered; nothing costs nothing."""

    mode: DepthMode
    turn: bool
    """Depth image of the sensor's pattern."""
    points: bool
    """The same as points."""
    cameras: Mapping[str, PinholeCamera]
    """Depth images of virtual cameras, by name."""

    @property
    def nothing(self) -> bool:
        """Whether nobody looks."""
        return not (self.turn or self.points or self.cameras)


class Rendered(NamedTuple):
    """Depths in metres, float32, NaN for nothing; None for what was not wanted."""

    depth_m: FloatArray | None
    """(rows, columns), along the ray."""
    points_m: FloatArray | None
    """(rows, columns, 3)."""
    cameras_m: Mapping[str, FloatArray]
    """(height, width) each, along the camera's optical axis."""
    probe_m: FloatArray | None = None
    """(R,), along the rays that were asked for beside the views; always the median."""


NOTHING = Rendered(None, None, {})


class Views:
    """One runner, the rays of one sensor, and those of the cameras that were last looked through."""

    def __init__(self, runner: Runner, pattern: RayPattern) -> None:
        self._runner = runner
        self._shape = pattern.rows, pattern.columns
        self._turn = pattern.rays(np.zeros(3, dtype=np.float32))
        self._known: tuple[bool, list[PinholeCamera], Rays] = True, [], self._turn

    def warm_up(self, tokens: TokenArray) -> None:
        """Render once either way, so that no frame waits for kernels to compile or memory to be laid out, whatever mode is set later."""
        self._runner.depth(tokens, self._turn)
        self._runner.decode(tokens, self._turn)

    def render(self, tokens: TokenArray, wanted: Wanted, probe: Rays | None = None) -> tuple[Rendered, dict[str, float]]:
        """What is wanted, and the milliseconds of each stage; the tokens are decoded once, or not at all.

        Args:
            probe: rays to render beside the views.
        Raises:
            ValueError: tokens that the runner refuses.
        """
        if wanted.nothing and probe is None:
            return NOTHING, {}
        turn = wanted.turn or wanted.points
        bundles = [] if wanted.nothing else [self._rays(turn, list(wanted.cameras.values()))]
        rays = _joined(bundles if probe is None else [*bundles, probe])
        distance_m, median_m = self._look(tokens, rays, wanted.mode)
        count = self._shape[0] * self._shape[1] if turn else 0
        depth_m = distance_m[:count].reshape(self._shape) if wanted.turn or wanted.points else None
        points_m = None
        if wanted.points:
            points_m = rays.origins_m[:count] + rays.directions[:count] * distance_m[:count, None]
            points_m = points_m.astype(np.float32, copy=False).reshape(*self._shape, 3)
        cameras_m = {}
        for name, camera in wanted.cameras.items():
            end = count + camera.height * camera.width
            cameras_m[name] = camera.z_depth_m(distance_m[count:end]).reshape(camera.height, camera.width)
            count = end
        probe_m = None if probe is None else median_m[count:]
        return Rendered(depth_m, points_m, cameras_m, probe_m), {s: ms for s, ms in self._runner.stage_ms.items() if s in ("decode", "render")}

    def _look(self, tokens: TokenArray, rays: Rays, mode: DepthMode) -> tuple[FloatArray, FloatArray]:
        """The depth of that mode, and the median, which alone costs less."""
        if mode is DepthMode.MEDIAN:
            median_m = self._runner.depth(tokens, rays)
            return median_m, median_m
        rendering = self._runner.decode(tokens, rays)
        return (rendering.expected_m if mode is DepthMode.EXPECTED else rendering.strongest_m), rendering.median_m

    def _rays(self, turn: bool, cameras: list[PinholeCamera]) -> Rays:
        """Rays of all views in a row; made again only when somebody looks at something else, or a camera moves."""
        known_turn, known_cameras, rays = self._known
        if turn != known_turn or [*map(id, cameras)] != [*map(id, known_cameras)]:
            rays = _joined([self._turn] * turn + [camera.rays(np.zeros(3, dtype=np.float32)) for camera in cameras])
            self._known = turn, cameras, rays
        return rays


def _joined(bundles: list[Rays]) -> Rays:
    if len(bundles) == 1:
        return bundles[0]
    return Rays(np.concatenate([rays.origins_m for rays in bundles]), np.concatenate([rays.directions for rays in bundles]))
