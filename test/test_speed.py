# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Bars of speed, as ratios measured in one run: what else the machine does slows both sides."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from copilot4d_core.benchmark.plain_torch import dense_feature_grid, march
from copilot4d_core.config import preset
from copilot4d_core.data.rays import rays_from_points
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.kernels.launch import num_cores
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import load_weights

RAYS = 65_536
MARCH_SPEEDUP = 30.0
DEPTH_TOLERANCE_M = 1e-4


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """The reference gets what our kernels take; other tests leave torch fewer."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_cores())
    yield
    torch.set_num_threads(before)


def seconds(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@torch.inference_mode()
def test_ray_march_beats_the_torch_reference_30_times_and_agrees_within_a_tenth_of_a_millimetre() -> None:
    """Trained weights, the predicted mask of a simulated 64-beam scan, the rays of its returns.

    The reference does the same work the plain way: it walks the mask with all rays at once, looks the samples up with
    `grid_sample` in the dense grid (built beforehand, not timed), padded to the longest ray, and multiplies with `cumprod`.
    It is timed in float32 and compared in float64, its cells and the places of its samples included: where a ray is divided between a near and
    a far surface, a walk in float32 alone moves the depth by a millimetre.
    """
    model = load_weights(PACKAGED_WEIGHTS, preset("mini"))
    grid = model.grid
    scan = next(iter(simulate_drive(11, 1, "hdl64")))
    points = scan.points_m[grid.inside(scan.points_m)]
    rays, _ = rays_from_points(np.resize(points, (RAYS, 3)), scan.origin_m)
    decoded = model.decode(model.look_up(model.tokenize(points)))
    mask = model.predicted_mask(decoded)
    normed = model.feature_grid.norm(decoded.feature_HWC).numpy()
    stages = CpuStages(kernel_weights({name: tensor.numpy() for name, tensor in model.state_dict().items()}), model.config)
    exact = copy.deepcopy(model).double()
    dense = dense_feature_grid(model, decoded.feature_HWC)

    def reference(of: Tokenizer, dense_DZYX: torch.Tensor, every: int) -> torch.Tensor:
        mlp = of.feature_grid.mlp
        return march(dense_DZYX, mlp, grid, rays.origins_m[::every], rays.directions[::every], mask, dense_DZYX.dtype).depth

    def fast() -> np.ndarray:
        rendering = stages.render(normed, mask, rays)
        return np.where(rendering.opacity >= model.config.rendering.opacity_threshold, rendering.expected_m * rendering.opacity, np.nan)

    difference = np.abs(fast()[::16] - reference(exact, dense_feature_grid(exact, decoded.feature_HWC.double()), 16).numpy())
    assert np.isfinite(difference).mean() > 0.95
    assert np.nanmax(difference) <= DEPTH_TOLERANCE_M
    pairs = [(seconds(lambda: reference(model, dense, 1), 1), seconds(fast, 3)) for _ in range(3)]
    slow_s, fast_s = np.median(pairs, axis=0)
    ratio = float(np.median([slow / quick for slow, quick in pairs]))
    print(f"\n{RAYS} rays: reference {slow_s * 1e3:.0f} ms, kernels {fast_s * 1e3:.0f} ms, {ratio:.0f}x")
    assert ratio >= MARCH_SPEEDUP


def test_seconds_is_a_median() -> None:
    waits = iter([0.0, 0.02, 0.0])
    assert seconds(lambda: time.sleep(next(waits)), 3) == pytest.approx(0.0, abs=0.01)
