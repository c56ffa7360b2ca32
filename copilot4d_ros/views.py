"""What is rendered of a token grid: a turn of the sensor as depth image and points, and a virtual camera; knows no node.

What goes in: tokens, and what somebody looks at. What comes out: arrays. Unusual: one decoding serves all views.
"""

from __future__ import annotations

import enum
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
    """Depth image and points of the sensor's pattern."""
    camera: bool
    """Depth image of the virtual camera."""


class Rendered(NamedTuple):
    """Depths in metres, float32, NaN for nothing; None for what was not wanted."""

    depth_m: FloatArray | None = None
    """(rows, columns), along the ray."""
    points_m: FloatArray | None = None
    """(rows, columns, 3)."""
    camera_depth_m: FloatArray | None = None
    """(height, width), along the camera's optical axis."""


class Views:
    """One runner, one pattern of rays and one virtual camera."""

    def __init__(self, runner: Runner, pattern: RayPattern, camera: PinholeCamera) -> None:
        self._runner, self._camera = runner, camera
        self._shape = pattern.rows, pattern.columns
        turn, view = (each.rays(np.zeros(3, dtype=np.float32)) for each in (pattern, camera))
        both = Rays(np.concatenate([turn.origins_m, view.origins_m]), np.concatenate([turn.directions, view.directions]))
        self._rays = {(True, False): turn, (False, True): view, (True, True): both}

    def warm_up(self, tokens: TokenArray) -> None:
        """Render once, so that the first frame does not wait for kernels to compile or memory to be laid out."""
        self._runner.decode(tokens, self._rays[True, False])

    def render(self, tokens: TokenArray, wanted: Wanted) -> tuple[Rendered, dict[str, float]]:
        """What is wanted, and the milliseconds of each stage; the tokens are decoded once, or not at all.

        Raises:
            ValueError: tokens that the runner refuses.
        """
        if not (wanted.turn or wanted.camera):
            return Rendered(), {}
        rays = self._rays[wanted.turn, wanted.camera]
        distance_m: FloatArray = getattr(self._runner.decode(tokens, rays), f"{wanted.mode.value}_m")
        count = self._shape[0] * self._shape[1] if wanted.turn else 0
        rendered = Rendered()
        if wanted.turn:
            points_m = (rays.origins_m[:count] + rays.directions[:count] * distance_m[:count, None]).astype(np.float32, copy=False)
            rendered = rendered._replace(depth_m=distance_m[:count].reshape(self._shape), points_m=points_m.reshape(*self._shape, 3))
        if wanted.camera:
            rendered = rendered._replace(camera_depth_m=self._camera.z_depth_m(distance_m[count:]).reshape(self._camera.rows, self._camera.columns))
        return rendered, {stage: ms for stage, ms in self._runner.stage_ms.items() if stage in ("decode", "render")}
