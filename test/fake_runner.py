# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for a trained model, so that the node's tests need no weights: the token of a cell is how many points it holds.

`python fake_runner.py` runs the real node with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from copilot4d_core.config import preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.runner import Rendering, TokenArray
from copilot4d_core.grid import FloatArray, Grid

MODEL_ID = "tiny-fake"
SLOW_MS_VARIABLE = "FAKE_RUNNER_ENCODE_MS"
RENDER_MS_VARIABLE = "FAKE_RUNNER_RENDER_MS"
OPEN_MS_VARIABLE = "FAKE_RUNNER_OPEN_MS"


class FakeRunner:
    """Counts points per token cell; every ray meets something at 5 m, except those that look up."""

    def __init__(self) -> None:
        self.config = preset("tiny")
        self.model_id = MODEL_ID
        self.backend = "fake"
        self.prior = None
        self.stage_ms: dict[str, float] = {}
        self.rendered = 0
        self.is_broken = False

    def encode(self, points_m: FloatArray) -> TokenArray:
        """Number of points in each cell, at most 63. 13 points make it fail, 14 make its GPU fail for good."""
        if len(points_m) == 13:
            raise RuntimeError("fake model: 13 points")
        if self.is_broken or len(points_m) == 14:
            self.is_broken = True
            raise GpuError("GPU: fake fault; close this runner and open a new one")
        time.sleep(float(os.environ.get(SLOW_MS_VARIABLE, "0")) / 1e3)
        grid = Grid(self.config)
        inside = points_m[grid.inside(points_m)]
        cells = np.floor((inside[:, :2] - grid.minimum_m[:2]) / np.array(grid.token_size_m)).astype(int)
        tokens = np.zeros(grid.tokens_HW, dtype=np.uint16)
        np.add.at(tokens, (cells[:, 1], cells[:, 0]), 1)
        self.stage_ms = {"voxelize": 1.0, "encode": 2.0}
        return np.minimum(tokens, 63).astype(np.uint16)

    def decode(self, tokens: TokenArray, rays: Rays) -> Rendering:
        """Depth 5 m (expected), 6 m (median), 7 m (strongest); NaN for rays that look up. 15 points in a cell make it fail, 16 its GPU."""
        self.rendered += 1
        if tokens.max() == 15:
            raise RuntimeError("fake model: a cell of 15 points")
        if tokens.max() == 16:
            self.is_broken = True
            raise GpuError("GPU: fake fault of the rendering")
        time.sleep(float(os.environ.get(RENDER_MS_VARIABLE, "0")) / 1e3)
        self.stage_ms |= {"decode": 4.0, "render": 5.0}
        up = rays.directions[:, 2] > 0
        depths = [np.where(up, np.nan, d).astype(np.float32) for d in (5.0, 6.0, 7.0)]
        return Rendering(depths[0], (~up).astype(np.float32), depths[1], depths[2])

    def depth(self, tokens: TokenArray, rays: Rays) -> FloatArray:
        return self.decode(tokens, rays).depth_m

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


def open_fake_runner(weights: Path | None, runner: str = "auto", int8: bool = False, engines: Path | None = None,
                     tell: Callable[[str], None] | None = None) -> FakeRunner:
    """As `open_runner`; refuses a file that is not there."""
    time.sleep(float(os.environ.get(OPEN_MS_VARIABLE, "0")) / 1e3)
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"{weights}: expected a weights file, there is none")
    return FakeRunner()


if __name__ == "__main__":
    from copilot4d_ros.tokenizer_node import main

    main(open_model=open_fake_runner)
