# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench --compare`: each stage and its alternatives in one process, in the order A B A B.

What goes in: a frame and a model. What comes out: medians of both, the median of the ratios of neighbouring runs, and how far the results differ.
Unusual: what else the machine does slows both sides of a pair, so the ratio holds where single times do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from copilot4d_core.benchmark.core_benchmark import predicted_mask
from copilot4d_core.benchmark.identity import identity
from copilot4d_core.benchmark.model_choice import ModelChoice
from copilot4d_core.benchmark.numpy_patch_map import numpy_patch_map
from copilot4d_core.data.point_cloud2 import data_from_points
from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.exported_model import export_model
from copilot4d_core.deploy.kernel_networks import DecoderKernels, EncoderKernels, obstacle
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.onnx_runner import open_session
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.cloud_points import Placement, copy_returns
from copilot4d_core.kernels.ray_march import Rows
from copilot4d_core.model_file import Model, read_model


class Pair(NamedTuple):
    """Two ways to the same result."""

    what: str
    against: str
    ours: Callable[[], Any]
    other: Callable[[], Any]
    unit: str
    """Of the difference."""
    make_input: Callable[[], Any] = lambda: None
    """The stage before, run unmeasured before each run of either: in a frame, too, it has just run, and no core comes from its sleep."""


class Comparison(NamedTuple):
    """What was measured of a pair."""

    what: str
    against: str
    ours_ms: float
    other_ms: float
    ratio: float
    """Median of the other's time over ours, run by run."""
    lowest_ratio: float
    pairs: int
    difference: float
    """99th percentile of the absolute difference of both results, of tokens the share that differs; 0 is the same."""
    unit: str


REST_S = 0.05
"""Between two runs: threads of torch go on spinning for a while after their work, on the cores that the next run needs."""


def compared(pair: Pair, repeats: int, clock: Callable[[], float] = time.perf_counter, sleep: Callable[[float], None] = time.sleep) -> Comparison:
    """Run a pair: each once unmeasured, then A B A B.

    Args:
        repeats: how many pairs count.
    Raises:
        ValueError: the results have no number in common that could be compared.
    """
    difference = np.abs(np.asarray(pair.ours(), dtype=np.float64) - np.asarray(pair.other(), dtype=np.float64))
    seen = difference[np.isfinite(difference)]
    if not seen.size:
        raise ValueError(f"{pair.what} against {pair.against}: expected finite numbers to compare, both give none; choose other data or weights")
    times_s = []
    for _ in range(repeats):
        pair_s = []
        for run in (pair.ours, pair.other):
            sleep(REST_S)
            pair.make_input()
            start_s = clock()
            run()
            pair_s.append(clock() - start_s)
        times_s.append(pair_s)
    ours_s, other_s = np.array(times_s).T
    ratios = other_s / np.maximum(ours_s, 1e-9)
    return Comparison(pair.what, pair.against, 1e3 * float(np.median(ours_s)), 1e3 * float(np.median(other_s)), float(np.median(ratios)),
                      float(ratios.min()), repeats, float(np.percentile(seen, 99)), pair.unit)


def stage_pairs(chosen: ModelChoice, points_m: FloatArray, rays: int) -> list[Pair]:
    """The pairs of inference: patch map, march, both networks.

    Args:
        points_m: (N, 3) float32: the cloud of a frame.
        rays: how many are rendered, along the returns of the cloud, over and over.
    Raises:
        ValueError: torch is not installed, or the model is an export folder.
    """
    _check_torch()
    model = read_model(chosen.path)
    stages, grid = CpuStages(kernel_weights(model.tensors), model.config), Grid(model.config)
    patches = stages.patch_map(points_m).copy()
    exported = export_model(model)
    encoder, decoder = open_session(exported.encoder), open_session(exported.decoder)
    (tokens,) = encoder.run(["tokens"], {"patches": patches})
    mask = grid.pool_mask(grid.occupancy(points_m)) if chosen.is_random else predicted_mask(exported.decoder, tokens, grid)
    along, _ = rays_from_points(np.resize(points_m[grid.inside(points_m)], (rays, 3)), np.zeros(3, dtype=np.float32))
    features = decoder.run(["features"], {"tokens": tokens})[0]
    return [*_patch_pairs(model, stages, points_m), *_march_pairs(model, stages, features, mask, along), *_network_pairs(
        model, encoder, decoder, patches, tokens, lambda: stages.patch_map(points_m))]


def _check_torch() -> None:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise ValueError("bench --compare: expected torch to compare with, it is not installed; `pip install torch`")


def _patch_pairs(model: Model, stages: CpuStages, points_m: FloatArray) -> list[Pair]:
    from copilot4d_core.benchmark.plain_torch import patch_map_of

    what = "voxelize, pool, patch embedding"
    weights, grid = kernel_weights(model.tensors).pillars, Grid(model.config)
    torch_map = patch_map_of(model)
    _, data = data_from_points(points_m, np.zeros(len(points_m), dtype=np.float32))
    received, placement = np.frombuffer(bytearray(data), dtype=np.uint8), Placement(1, len(points_m), 16 * len(points_m), 16, (0, 4, 8))
    read = [points_m]

    def convert() -> None:
        read[0], _ = copy_returns(received, placement, grid, 0.0)

    return [Pair(what, "torch", lambda: stages.patch_map(read[0]), lambda: torch_map(read[0]), "", convert),
            Pair(what, "NumPy argsort, reduceat", lambda: stages.patch_map(read[0]), lambda: numpy_patch_map(read[0], weights, grid), "", convert)]


def _march_pairs(model: Model, stages: CpuStages, features: FloatArray, mask: Any, rays: Rays) -> list[Pair]:
    """The march through cells that are there, on both sides; and ours with the making of its cells, which torch's dense grid is spared."""
    from copilot4d_core.benchmark.plain_torch import march_of

    torch_march, what = march_of(model, features, mask), f"{len(rays.directions):,} rays"

    def make_cells() -> None:
        stages.fill_cells(features, mask)

    make_cells()
    return [Pair(f"march of {what}", "torch grid_sample, cumprod", lambda: stages.march(rays, Rows.DEPTH)[0], lambda: torch_march(rays), "m",
                 make_cells),
            Pair(f"cells and march of {what}", "the same, grid made before", lambda: stages.depth(features, mask, rays),
                 lambda: torch_march(rays), "m")]


def _network_pairs(model: Model, encoder: Any, decoder: Any, patches: FloatArray, tokens: Any, voxelize: Callable[[], Any]) -> list[Pair]:
    """Our kernels against torch and ONNX Runtime; for a model without kernels ONNX Runtime against torch."""
    from copilot4d_core.deploy.torch_reference import TorchReference

    reference = TorchReference(model)

    def onnx_encode() -> Any:
        return np.mean(encoder.run(["tokens"], {"patches": patches})[0] != tokens)

    def onnx_decode() -> Any:
        return decoder.run(["features", "skip_logits"], {"tokens": tokens})[0]

    def torch_encode() -> Any:
        return np.mean(reference.tokens(patches)[0] != tokens)

    def torch_decode() -> Any:
        return reference.decoded(tokens)[0]

    if obstacle(model):
        return [Pair("encode", "torch eager, ours is ONNX Runtime", onnx_encode, torch_encode, "of the tokens", voxelize),
                Pair("decode", "torch eager, ours is ONNX Runtime", onnx_decode, torch_decode, "", onnx_encode)]
    encode, decode = EncoderKernels(model), DecoderKernels(model)
    asked = np.asarray(tokens, dtype=np.uint16)

    def own_encode() -> Any:
        return np.mean(encode(patches) != tokens)

    def own_decode() -> Any:
        return decode(asked)[0]

    return [Pair("encode", "torch eager", own_encode, torch_encode, "of the tokens", voxelize),
            Pair("decode", "torch eager", own_decode, torch_decode, "", own_encode),
            Pair("encode", "ONNX Runtime", own_encode, onnx_encode, "of the tokens", voxelize),
            Pair("decode", "ONNX Runtime", own_decode, onnx_decode, "", own_encode)]


def print_comparisons(results: Sequence[Comparison], title: str, console: Console | None = None) -> None:
    """Print a row a pair."""
    console = console or Console()
    shown = console if console.is_terminal else Console(file=console.file, width=150)
    table = Table(title=title)
    for heading in ("stage", "against", "ours (ms)", "other (ms)", "ratio", "lowest", "pairs", "difference, p99"):
        table.add_column(heading, justify="left" if heading in ("stage", "against") else "right")
    for row in results:
        table.add_row(row.what, row.against, f"{row.ours_ms:.2f}", f"{row.other_ms:.2f}", f"{row.ratio:.1f}x", f"{row.lowest_ratio:.1f}x",
                      str(row.pairs), f"{row.difference:.1e} {row.unit}".rstrip())
    shown.print(table)


def comparison_tree(results: Sequence[Comparison], title: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of all pairs, for JSON; `more` beside them."""
    return {"mode": "compare", "title": title, **identity(), "pairs": [row._asdict() for row in results], **more}
