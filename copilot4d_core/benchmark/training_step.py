# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One training step with the kernels and the same step with plain torch in their place: time side by side, peak memory each on its own.

What goes in: a model and a scan. What comes out: a `Comparison` of times, and MiB of both.
Unusual: memory is measured in a process of its own for each, as the most it held during the steps less what it held before the first, because
a process never gives its peak back.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from copilot4d_core.benchmark import plain_torch
from copilot4d_core.benchmark.compare import Comparison, Pair, compared
from copilot4d_core.benchmark.frames import SENSOR, STREET
from copilot4d_core.benchmark.process_load import current_rss_mib, peak_rss_mib
from copilot4d_core.config import Config
from copilot4d_core.data.simulator import write_demo_bag
from copilot4d_core.grid import BoolArray, FloatArray
from copilot4d_core.model_file import read_model
from copilot4d_core.tokenizer.neural_feature_grid import RenderedRays
from copilot4d_core.tokenizer.swin_transformer import SwinBlock
from copilot4d_core.tokenizer.tokenizer import Decoded, Tokenizer
from copilot4d_core.tokenizer.weights_file import tokenizer_from_model
from copilot4d_core.training.examples import Example, Examples
from copilot4d_core.training.optimizer import optimizer_for
from copilot4d_core.training.training_module import TrainingModule

RAYS = 4096
MEMORY_STEPS = 2
"""The second step has what the optimiser keeps, too."""


class Points(NamedTuple):
    """What the plain step hands on in place of voxel lists."""

    points_m: FloatArray


class PlainTokenizer(Tokenizer):
    """The tokenizer with its sparse stages in plain torch: the same numbers, weights and gradients."""

    def voxelize(self, points_m: FloatArray) -> Points:  # type: ignore[override]
        return Points(points_m)

    def encode_patches(self, voxels: Points) -> Tensor:  # type: ignore[override]
        return plain_torch.patch_map(self, torch.from_numpy(voxels.points_m))

    def render(self, decoded: Decoded, mask_YXZ: BoolArray, origin_R3: FloatArray, direction_R3: FloatArray,
               jitter_R: FloatArray | None = None) -> RenderedRays:
        """Equation 4 through the dense feature grid; samples lie in the middle of their intervals, whatever the jitter."""
        origin, direction = torch.from_numpy(origin_R3), torch.from_numpy(direction_R3)
        with torch.no_grad():
            distance_RS, count_R = plain_torch.sample_distances(origin, direction, torch.from_numpy(mask_YXZ), self.grid)
        dense = plain_torch.dense_feature_grid(self, decoded.feature_HWC)
        position = origin[:, None] + distance_RS[..., None] * direction[:, None]
        logit_RS = self.feature_grid.mlp(plain_torch.query_dense(dense, position.reshape(-1, 3), self.grid)).view(distance_RS.shape)
        rendered = plain_torch.render_equation_4(logit_RS, distance_RS, torch.arange(distance_RS.shape[1]) < count_R[:, None])
        return RenderedRays(distance_RS, rendered.weights, rendered.depth, rendered.opacity)


def training_module(weights: Path, is_plain: bool) -> TrainingModule:
    """A module with trained weights, past its warm-up, `RAYS` rays a scan and no others.

    Raises:
        ValueError: no weights file.
    """
    model = read_model(weights)
    module = TrainingModule(_settings(model.config))
    settings = module.config.training
    if is_plain:
        module.tokenizer = PlainTokenizer(module.config)
        for block in module.tokenizer.modules():
            if isinstance(block, SwinBlock):
                block.trains_in_kernels = False
        module.optimizer = optimizer_for(module.tokenizer, settings)
    module.tokenizer.load_state_dict(tokenizer_from_model(model).state_dict())
    module.steps_done = settings.warmup_steps
    return module


def _settings(config: Config) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, rays_per_scan=RAYS, empty_rays_per_scan=0, batch_scans=1))


def step(module: TrainingModule, example: Example) -> float:
    """Losses, gradients and one step of the optimiser; the total loss."""
    total = module.losses([example])[0].total
    module.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.tokenizer.parameters(), module.config.training.gradient_clip)
    module.optimizer.step()
    return float(total.detach())


def training_example(weights: Path) -> Example:
    """A simulated 64-beam scan, its samples in the middle of their intervals."""
    with tempfile.TemporaryDirectory(prefix="copilot4d_bench_") as folder:
        write_demo_bag(Path(folder) / "scan", num_scans=1, seed=STREET, sensor=SENSOR)
        example = Examples(_settings(read_model(weights).config), [Path(folder) / "scan"], None).example(0, thin=False)
    return example._replace(jitter_R=np.full(len(example.depth_R), 0.5, dtype=np.float32))


def training_pair(weights: Path) -> Pair:
    """The two steps."""
    example = training_example(weights)
    runs: list[Callable[[], float]] = []
    for is_plain in (False, True):
        module = training_module(weights, is_plain)
        runs.append(lambda module=module: step(module, example))  # type: ignore[misc]
    return Pair(f"training step, {RAYS:,} rays", "the step in plain torch", runs[0], runs[1], "of the loss")


class Memory(NamedTuple):
    """Most memory during the steps less that before the first, MiB."""

    kernels_mib: float
    plain_mib: float


def training_memory(weights: Path) -> Memory:
    """Peak memory of both steps."""
    return Memory(*(step_memory_mib(weights, is_plain) for is_plain in (False, True)))


def step_memory_mib(weights: Path, is_plain: bool) -> float:
    """Peak memory of one of the steps, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_step_mib, (weights, is_plain))


def _step_mib(weights: Path, is_plain: bool) -> float:
    example, module = training_example(weights), training_module(weights, is_plain)
    before_mib = current_rss_mib()
    for _ in range(MEMORY_STEPS):
        step(module, example)
    return peak_rss_mib() - before_mib


def compared_training(weights: Path, repeats: int) -> tuple[Comparison, Memory]:
    """Time of both steps and memory of both."""
    return compared(training_pair(weights), repeats), training_memory(weights)
