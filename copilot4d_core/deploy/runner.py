# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The one contract between a trained tokenizer and everything that uses it.

What goes in: points of one scan, or a token grid and rays. What comes out: tokens, or depth and opacity per ray.
Unusual: the node, the command line and the evaluation know only this; torch, ONNX Runtime and TensorRT stand behind it.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from copilot4d_core.config import Config
from copilot4d_core.data.rays import Rays
from copilot4d_core.grid import FloatArray, Grid

if TYPE_CHECKING:
    from copilot4d_core.deploy.token_prior import TokenPrior

TokenArray = npt.NDArray[np.uint16]


class Returns(NamedTuple):
    """Up to two returns of each ray, the nearer one first; see `kernels/ray_returns.py` for what a return is.

    They hold what the depths leave out: a ray whose opacity is below the threshold, so that its depth is NaN, may have returns, too.
    """

    distance_m: FloatArray
    """(2, R) float32, metres; NaN for none. A ray with one return has it first."""
    weight: FloatArray
    """(2, R) float32: the share of the ray that ends there, 0 to 1; 0 for none. Both together are at most the opacity."""


class Rendering(NamedTuple):
    """What each ray met. Every array is (R,) float32."""

    expected_m: FloatArray
    """Equation 4 divided by the opacity: the mean of what the ray may meet; NaN where the opacity is below the threshold."""
    opacity: FloatArray
    """Sum of the weights, 0 to 1."""
    median_m: FloatArray
    """Of the surface at which the summed weight reaches one half, or the strongest where it does not; NaN for nothing. See
    `kernels/ray_median.py`."""
    strongest_m: FloatArray
    """Distance of the largest weight; NaN for nothing."""
    returns: Returns | None = None
    """Only where they were asked for."""

    @property
    def depth_m(self) -> FloatArray:
        """The depth that is published, evaluated and drawn: the median.

        Equation 4 gives a point in mid-air for a ray that may meet either of two surfaces; the median lies on one.
        """
        return self.median_m


class Runner(Protocol):
    """A loaded model; a context manager that gives its device memory back on exit."""

    config: Config
    """Settings of the model."""
    model_id: str
    """Preset and the first 12 hexadecimal digits of the weights' SHA-256, such as `mini-0123456789ab`."""
    backend: str
    """What runs the networks, for people: `onnx`, `onnx int8`, `torch`, or `tensorrt` with the engines' hashes."""
    prior: TokenPrior | None
    """Of the model's tokens, for `tokens_to_bytes`; None where it has none."""

    def encode(self, points_m: FloatArray) -> TokenArray:
        """Tokens of one scan.

        Args:
            points_m: (N, 3) float32, metres, sensor frame; points outside the region are left out.
        Returns:
            (H, W) uint16; row = y, column = x.
        """
        ...

    def decode(self, tokens: TokenArray, rays: Rays, with_returns: bool = False) -> Rendering:
        """What each ray meets, with the skip mask that the tokens predict.

        Args:
            tokens: (H, W) uint16.
            rays: R rays in the frame of the encoded points.
            with_returns: also gather the returns of each ray.
        Returns:
            R results in the order of the rays.
        """
        ...

    def depth(self, tokens: TokenArray, rays: Rays) -> FloatArray:
        """The `depth_m` of `decode`, (R,) float32, and nothing else: faster, because a ray stops where its median is known."""
        ...

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the last call per stage: voxelize, encode (to the nearest code), decode, render."""
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class EncodedCloud(NamedTuple):
    """What a `CloudRunner` made of a cloud."""

    tokens: TokenArray
    returns: int
    """Points that are finite, not exactly (0, 0, 0), and no nearer than asked for; the others were left out."""
    in_region: int
    """Returns in the region."""


@runtime_checkable
class CloudRunner(Protocol):
    """A runner that finds the returns of a cloud while it voxelises them, so that nobody need look at every point before."""

    takes_clouds: bool
    """Whether it does, with its model."""

    def encode_cloud(self, points_m: FloatArray, min_range_m: float) -> EncodedCloud:
        """As `Runner.encode` of the returns alone; a cloud without any is an empty scan.

        Args:
            points_m: (N, 3) float32, metres; at least one.
            min_range_m: nearer points are no returns; 0: any may be.
        Raises:
            ValueError: no points, not (N, 3), or a model with which the runner takes no clouds.
        """
        ...


def check_points(points_m: FloatArray) -> None:
    """Refuse what no runner can encode.

    Raises:
        ValueError: no points, not (N, 3), or coordinates that are NaN or infinite.
    """
    check_shape(points_m)
    xyz_m = points_m[:, :3]
    if not np.isfinite([xyz_m.min(), xyz_m.max()]).all():  # both are NaN if one value is; no array of flags, and 50 times as fast
        raise broken_points(points_m)


def check_shape(points_m: FloatArray) -> None:
    """As `check_points`, but for the values."""
    if points_m.ndim != 2 or points_m.shape[1] < 3:
        raise ValueError(f"points: expected shape (N, 3), got {points_m.shape}")
    if not len(points_m):
        raise ValueError("points: expected at least one point, got an empty cloud")


def broken_points(points_m: FloatArray) -> ValueError:
    """What `check_points` says of values that are NaN or infinite."""
    broken = int((~np.isfinite(points_m[:, :3])).any(axis=1).sum())
    return ValueError(f"points: expected finite coordinates, {broken} of {len(points_m)} points hold NaN or infinity; drop them first")


def check_token_grid(tokens: TokenArray, config: Config, model_id: str) -> None:
    """Refuse what no runner can decode.

    Raises:
        ValueError: a grid of another shape, or a token that the codebook does not have.
    """
    expected = Grid(config).tokens_HW
    if tokens.shape != expected:
        raise ValueError(f"tokens: expected shape {expected} for model {model_id}, got {tokens.shape}")
    size = config.quantizer.codebook_size
    if tokens.max() >= size:
        raise ValueError(f"tokens: expected values below {size}, the codebook of model {model_id}, got {int(tokens.max())}")
