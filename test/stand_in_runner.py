# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for a model whose reconstruction is known: it remembers the cloud and returns its exact depths, changed on purpose.

A ray meets the remembered point nearest in direction; the depth is the point's distance plus a constant, or NaN for chosen rays.
"""

from __future__ import annotations

from types import TracebackType

import numpy as np
from scipy.spatial import cKDTree

from copilot4d_core.config import Config, preset
from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.deploy.runner import Rendering, TokenArray
from copilot4d_core.grid import BoolArray, FloatArray, Grid

MODEL_ID = "tiny-0123456789ab"
NEAR_DIRECTION = 0.02
"""Directions closer than this (about a degree) meet the same point."""


class StandInRunner:
    """Token 1 where the cloud has points, 0 elsewhere; depths are exact plus `error_m`."""

    def __init__(self, error_m: float = 0.0, misses: slice = slice(0), model_id: str = MODEL_ID) -> None:
        self.config: Config = preset("tiny")
        self.model_id = model_id
        self.backend = "stand-in"
        self.prior = None
        self.error_m, self.misses = error_m, misses
        self.closed = False
        self.cloud_m: FloatArray = np.zeros((0, 3), dtype=np.float32)

    @property
    def stage_ms(self) -> dict[str, float]:
        return {}

    def encode(self, points_m: FloatArray) -> TokenArray:
        grid = Grid(self.config)
        self.cloud_m = points_m[grid.inside(points_m)]
        return grid.occupied_tokens(points_m).astype(np.uint16)

    def decode(self, tokens: TokenArray, rays: Rays) -> Rendering:
        depth = np.full(len(rays.directions), np.nan, dtype=np.float32)
        if len(self.cloud_m):
            known, distance_m = rays_from_points(self.cloud_m, rays.origins_m[0])
            apart, index = cKDTree(known.directions).query(rays.directions)
            depth = np.where(apart < NEAR_DIRECTION, distance_m[index] + self.error_m, np.nan).astype(np.float32)
        depth[self.misses] = np.nan
        return Rendering(depth, np.isfinite(depth).astype(np.float32), depth, depth)

    def depth(self, tokens: TokenArray, rays: Rays) -> FloatArray:
        return self.decode(tokens, rays).depth_m

    def __enter__(self) -> StandInRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closed = True


class MaskedStandInRunner(StandInRunner):
    """Also renders with a given mask: then without any error, and only where the mask has a cell."""

    def decode_with_mask(self, tokens: TokenArray, rays: Rays, mask: BoolArray) -> Rendering:
        if mask.shape != Grid(self.config).mask_cells_YXZ or not mask.any():
            raise AssertionError(f"mask of shape {mask.shape} with {mask.sum()} cells")
        exact = StandInRunner()
        exact.cloud_m = self.cloud_m
        return exact.decode(tokens, rays)
