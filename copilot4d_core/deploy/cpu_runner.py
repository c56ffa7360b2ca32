# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the runners share whose networks run on the CPU: checks, sparse stages, and the time of each stage.

What goes in: points, or tokens and rays. What comes out: tokens, or what each ray meets. A runner adds its two networks.
"""

from __future__ import annotations

import abc
from types import TracebackType

from copilot4d_core.config import Config
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import KernelWeights
from copilot4d_core.deploy.runner import EncodedCloud, Rendering, TokenArray, broken_points, check_shape, check_token_grid
from copilot4d_core.deploy.stage_clock import StageClock
from copilot4d_core.deploy.token_prior import TokenPrior
from copilot4d_core.grid import BoolArray, FloatArray


class CpuRunner(abc.ABC):
    """See `Runner` for the contract."""

    def __init__(self, config: Config, model_id: str, weights: KernelWeights, backend: str) -> None:
        self.config, self.model_id, self.backend = config, model_id, backend
        self.prior: TokenPrior | None = None  # `open_runner` knows where it lies
        self._stages, self._clock = CpuStages(weights, config), StageClock()

    def __enter__(self) -> CpuRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None  # memory of the CPU goes with the object

    @abc.abstractmethod
    def _tokens(self, patches_HWC: FloatArray) -> TokenArray:
        """Encoder: patch map to tokens, (H, W) uint16."""

    @abc.abstractmethod
    def _decoded(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        """Decoder: tokens to the map after the feature grid's norm, (H, W, C), and the pooled skip logits, (Y, X, Z)."""

    @property
    def stage_ms(self) -> dict[str, float]:
        return self._clock.ms

    def encode(self, points_m: FloatArray) -> TokenArray:
        """Tokens of one scan, (H, W) uint16; row = y, column = x.

        Raises:
            ValueError: no points, not (N, 3), or coordinates that are NaN or infinite.
        """
        check_shape(points_m)
        with self._clock("voxelize"):
            patches = self._stages.patch_map(points_m)
        if self._stages.seen.broken:
            raise broken_points(points_m)
        with self._clock("encode"):
            return self._tokens(patches)

    @property
    def takes_clouds(self) -> bool:
        """See `CloudRunner`."""
        return self._stages.takes_clouds

    def encode_cloud(self, points_m: FloatArray, min_range_m: float) -> EncodedCloud:
        """See `CloudRunner`."""
        check_shape(points_m)
        with self._clock("voxelize"):
            patches = self._stages.patch_map(points_m, min_range_m)
        _, returns, in_region = self._stages.seen
        with self._clock("encode"):
            return EncodedCloud(self._tokens(patches), returns, in_region)

    def decode(self, tokens: TokenArray, rays: Rays, with_returns: bool = False) -> Rendering:
        """What each ray meets, with the skip mask that the tokens predict.

        Raises:
            ValueError: a grid of another shape, or a token that the codebook does not have.
        """
        return self._render(tokens, rays, None, with_returns)

    def decode_with_mask(self, tokens: TokenArray, rays: Rays, mask: BoolArray, with_returns: bool = False) -> Rendering:
        """As `decode`, with a given skip mask, (Y, X, Z) bool."""
        return self._render(tokens, rays, mask, with_returns)

    def depth(self, tokens: TokenArray, rays: Rays) -> FloatArray:
        """The `depth_m` of `decode` alone, (R,); raises as `decode` does."""
        features, skip = self._features(tokens)
        with self._clock("render"):
            return self._stages.depth(features, skip, rays)

    def _render(self, tokens: TokenArray, rays: Rays, mask: BoolArray | None, with_returns: bool) -> Rendering:
        features, skip = self._features(tokens)
        with self._clock("render"):
            return self._stages.render(features, skip if mask is None else mask, rays, with_returns)

    def _features(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        check_token_grid(tokens, self.config, self.model_id)
        with self._clock("decode"):
            return self._decoded(tokens)
