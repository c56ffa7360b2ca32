# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Do the deployed networks say what torch says? Tokens and depths of every variant against torch in float32, on real scans.

What goes in: a model and data sets. What comes out: a table, one row a variant, with the bars that it must keep.
Unusual: depths are compared on rays that cross agreeing tokens only, because another token is another scene.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.exported_model import TIE, export_model
from copilot4d_core.deploy.kernel_networks import DecoderKernels, EncoderKernels, obstacle
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.onnx_runner import open_session, quantized
from copilot4d_core.evaluation.report import DataSet
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.model_file import Model

IntGrid = npt.NDArray[np.integer[Any]]
RAY_STEP = 0.25
"""Of a token, between two places where the tokens that a ray crosses are looked up."""
JUMP_M = 0.001
EVERY_RAY = 8
"""Depths are compared on every eighth return of a scan."""


class Variant(NamedTuple):
    """One way to run the two networks."""

    name: str
    encode: Callable[[FloatArray], IntGrid]
    decode: Callable[[IntGrid], tuple[FloatArray, FloatArray]]
    least_tokens: float
    """Bar: share of the tokens that must be torch's."""
    depth_bar_m: float | None
    """Bar: 99 % of the depths on agreeing rays differ by less; None: no bar."""
    ties_only: bool
    """Bar: another token only where two codes tie."""


class Agreement(NamedTuple):
    """What was measured of one variant."""

    name: str
    tokens: float
    """Share of equal tokens over all scans."""
    worst_scan: float
    largest_gap: float
    """Largest gap of the two best scores among the cells with another token; 0 if there is none."""
    rays: int
    """Compared rays, which cross agreeing tokens only."""
    depth_p99_m: float
    depth_max_m: float
    jumped: int
    """Rays whose depths differ by more than `JUMP_M`: tokens beside a ray reach it through the decoder's windows, and a median may jump."""
    is_kept: bool
    """Whether every bar is kept."""


def variants(model: Model) -> list[Variant]:
    """Every way to run this model on a CPU. fp16 twice: ONNX Runtime computes in float32 between casts, torch rounds every step."""
    from copilot4d_core.deploy.torch_reference import TorchReference

    exports = {precision: export_model(model, precision) for precision in ("fp32", "fp16")}
    half = TorchReference(model, half=True)

    def encoder(network: bytes) -> Callable[[FloatArray], IntGrid]:
        session = open_session(network)
        return lambda patches: np.asarray(session.run(["tokens"], {"patches": patches})[0])

    def decoder(network: bytes) -> Callable[[IntGrid], tuple[FloatArray, FloatArray]]:
        session = open_session(network)
        return lambda tokens: tuple(session.run(["features", "skip_logits"], {"tokens": tokens.astype(np.int32)}))

    full, reduced = decoder(exports["fp32"].decoder), decoder(exports["fp16"].decoder)
    own = [] if obstacle(model) else [own_kernels(model)]
    return [*own,
            Variant("onnx fp32", encoder(exports["fp32"].encoder), full, 0.9999, 0.001, True),
            Variant("onnx fp16", encoder(exports["fp16"].encoder), reduced, 0.995, None, False),
            Variant("torch fp16 encoder", lambda patches: half.tokens(patches)[0], reduced, 0.995, None, False),
            Variant("onnx int8", encoder(quantized(exports["fp32"].encoder)), full, 0.97, 0.02, False)]


def own_kernels(model: Model) -> Variant:
    """Our own kernels, which have the bars of the ONNX networks."""
    decode = DecoderKernels(model)
    return Variant("kernels", EncoderKernels(model), lambda tokens: decode(np.asarray(tokens, dtype=np.uint16)), 0.9999, 0.001, True)


def measure(model: Model, data_sets: list[DataSet]) -> list[Agreement]:
    """Compare every variant with torch on all scans, with a progress bar on stderr."""
    from copilot4d_core.deploy.torch_reference import TorchReference

    reference, ways, grid = TorchReference(model), variants(model), Grid(model.config)
    stages = CpuStages(kernel_weights(model.tensors), model.config)
    equal: dict[str, list[float]] = {way.name: [] for way in ways}
    gaps: dict[str, list[float]] = {way.name: [0.0] for way in ways}
    depths: dict[str, list[FloatArray]] = {way.name: [] for way in ways}
    places = [(data_set, index) for data_set in data_sets for index in range(0, len(data_set.source), data_set.every)]
    for data_set, index in track(places, description="agreement", console=Console(stderr=True), transient=True):
        scan = data_set.source[index]
        patches = stages.patch_map(scan.points_m).copy()
        shown = np.flatnonzero(grid.inside(scan.points_m))[::EVERY_RAY]
        rays, _ = rays_from_points(scan.points_m[shown], scan.point_origins_m[shown])
        expected, gap = reference.tokens(patches)
        depth_m = stages.render(*reference.decoded(expected), rays).depth_m
        for way in ways:
            tokens = way.encode(patches)
            same: BoolArray = np.equal(tokens, expected)
            equal[way.name].append(float(same.mean()))
            gaps[way.name].append(float(gap[~same].max(initial=0.0)))
            other_m = stages.render(*way.decode(tokens), rays).depth_m
            compared = crosses_only(same, rays, depth_m, grid) & np.isfinite(depth_m) & np.isfinite(other_m)
            depths[way.name].append(np.abs(other_m - depth_m)[compared])
    one_token = (1 + 1e-9) / (len(places) * grid.tokens_HW[0] * grid.tokens_HW[1])
    return [_agreement(way, equal[way.name], max(gaps[way.name]), np.concatenate(depths[way.name]), one_token) for way in ways]


def crosses_only(good_HW: BoolArray, rays: Rays, depth_m: FloatArray, grid: Grid) -> BoolArray:
    """Which rays cross good token cells only, from their origin to their depth.

    Args:
        good_HW: (H, W) bool on the token grid.
        depth_m: (R,) metres; NaN is a ray that meets nothing, which crosses cells up to the region's far corner.
    Returns:
        (R,) bool.
    """
    if good_HW.all():
        return np.ones(len(depth_m), dtype=bool)
    farthest = float(np.linalg.norm(grid.maximum_m[:2] - grid.minimum_m[:2]))
    end = np.where(np.isfinite(depth_m), depth_m, farthest)
    result = np.ones(len(depth_m), dtype=bool)
    for along in np.arange(0.0, farthest, RAY_STEP * min(grid.token_size_m)):
        x, y = ((rays.origins_m[:, axis] + np.minimum(along, end) * rays.directions[:, axis] - grid.minimum_m[axis]) / grid.token_size_m[axis]
                for axis in range(2))
        inside = (x >= 0) & (x < good_HW.shape[1]) & (y >= 0) & (y < good_HW.shape[0])
        result[inside] &= good_HW[y[inside].astype(int), x[inside].astype(int)]
    return result


def _agreement(way: Variant, equal: list[float], gap: float, difference_m: FloatArray, one_token: float) -> Agreement:
    # Few scans have fewer tokens than a bar of 99.99 % can count; a single token is always allowed.
    tokens, p99 = float(np.mean(equal)), float(np.quantile(difference_m, 0.99))
    bars = [tokens >= min(way.least_tokens, 1 - one_token), way.depth_bar_m is None or p99 <= way.depth_bar_m, not way.ties_only or gap <= TIE]
    return Agreement(way.name, tokens, min(equal), gap, len(difference_m), p99, float(difference_m.max()),
                     int(np.count_nonzero(difference_m > JUMP_M)), all(bars))


def print_agreement(results: list[Agreement], model_id: str, scans: int, console: Console | None = None) -> None:
    """Print the table; the last column says whether every bar is kept."""
    table = Table(title=f"{model_id} against torch float32, {scans} scans")
    for heading in ("variant", "tokens", "worst scan", "largest gap", "rays", "depth p99 (m)", "max (m)", "over 1 mm", "bars"):
        table.add_column(heading, justify="left" if heading in ("variant", "bars") else "right")
    for row in results:
        table.add_row(row.name, f"{row.tokens:.3%}", f"{row.worst_scan:.3%}", f"{row.largest_gap:.1e}", f"{row.rays:,}", f"{row.depth_p99_m:.4f}",
                      f"{row.depth_max_m:.4f}", f"{row.jumped:,}", "kept" if row.is_kept else "MISSED")
    console = console or Console()
    (console if console.is_terminal else Console(file=console.file, width=120)).print(table)
