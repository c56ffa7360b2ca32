# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench --core`: a runner without ROS, peak throughput first, then latency at a fixed rate, each stage beside its floor.

What goes in: a model, frames in memory, rays. What comes out: one `Measured` for each runner.
Unusual: the frame is counted and the machine's rates are measured after the frames ran, so that nothing of it is in times or memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from copilot4d_core.benchmark.frame_counts import frame_counts, model_sizes
from copilot4d_core.benchmark.frames import Frames
from copilot4d_core.benchmark.identity import identity
from copilot4d_core.benchmark.latency import at_rate, peak_hz, percentiles
from copilot4d_core.benchmark.machine_rates import MachineRates, machine_rates
from copilot4d_core.benchmark.model_choice import ModelChoice
from copilot4d_core.benchmark.onnx_operations import network_work
from copilot4d_core.benchmark.process_load import ProcessLoad, peak_rss_mib
from copilot4d_core.benchmark.result import Measured
from copilot4d_core.benchmark.work import STAGES, Work, floors_ms, stage_work
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.exported_model import open_model
from copilot4d_core.deploy.onnx_runner import open_session
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.grid import BoolArray, FloatArray, Grid

WARM_UP = 3
"""Frames that are processed before anything is timed: kernels compile and memory is laid out."""
PEAK_S = 5.0
"""About how long the peak throughput is measured; no longer than the fixed rate."""


class Asked(NamedTuple):
    """What a run measures."""

    model: ModelChoice
    frames: Frames
    rays: Rays
    int8: bool
    rate_hz: float
    """Above 0, as are the seconds."""
    seconds: float


class _Frame:
    """One runner with the frames: processes a frame by its number."""

    def __init__(self, runner: Any, asked: Asked) -> None:
        self.runner, self._rays, self._clouds = runner, asked.rays, asked.frames.clouds_m
        self.tokens_ms: list[float] = []
        grid = Grid(runner.config)
        self._masks = [grid.pool_mask(grid.occupancy(cloud)) for cloud in self._clouds] if asked.model.is_random else None

    def __call__(self, number: int) -> Mapping[str, float]:
        which = number % len(self._clouds)
        start_s = time.perf_counter()
        tokens = self.runner.encode(self._clouds[which])
        self.tokens_ms.append((time.perf_counter() - start_s) * 1e3)
        if self._masks is None:
            self.depth_m = self.runner.depth(tokens, self._rays)
        else:
            self.depth_m = self.runner.decode_with_mask(tokens, self._rays, self._masks[which]).depth_m
        self.tokens = tokens
        spent_ms = self.runner.stage_ms
        return {stage: spent_ms[stage] for stage in STAGES}


def measure_core(asked: Asked, runner_name: str, rates: Callable[[], MachineRates] = machine_rates,
                 tell: Callable[[str], None] | None = None) -> Measured:
    """Run one runner.

    Raises:
        ValueError: the model or the runner cannot be had here.
    """
    with open_runner(asked.model.path, runner_name, asked.int8, tell=tell) as runner:
        frame = _Frame(runner, asked)
        peak_hz(frame, WARM_UP)
        throughput_hz = peak_hz(frame, min(max(3, int(min(PEAK_S, asked.seconds) * peak_hz(frame, 1))), 1000))
        frame.tokens_ms.clear()
        load = ProcessLoad(os.getpid())
        timed = at_rate(frame, asked.rate_hz, max(1, round(asked.rate_hz * asked.seconds)), between=load.sample)
        spent, peak_mib, tokens_ms = load.load(), peak_rss_mib(), percentiles(frame.tokens_ms, 50, 90, 99)
        frame(0)  # the first frame is the one that is counted
        backend, is_on_gpu = runner.backend, runner_is_on_gpu(runner.backend)
        config, tokens, median_m = runner.config, frame.tokens, frame.depth_m
        model_id = runner.model_id
    works, counts = frame_work(asked.model, asked.frames.clouds_m[0], asked.rays, tokens, median_m)
    measured_rates = None if is_on_gpu else rates()
    more = {"throughput_hz": throughput_hz, "tokens_ms": tokens_ms, "rss_peak_mib": peak_mib,
            "work": {stage: work._asdict() for stage, work in works.items()}, "counts": counts,
            "machine": None if measured_rates is None else measured_rates._asdict()}
    settings = {"model": model_id, "preset": config.name, "is_random": asked.model.is_random, "mask": asked.model.mask,
                "source": asked.frames.source, "frames": len(asked.frames.clouds_m), "points": asked.frames.points,
                "rays": len(asked.rays.directions), "int8": asked.int8, "seconds": asked.seconds}
    floors = {} if measured_rates is None else floors_ms(works, measured_rates)
    return Measured("core", backend, timed, asked.rate_hz, spent, settings, identity(), floors, more)


def timed_frames(asked: Asked, runner_name: str, warm_up: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each stage of the first frames, after some that count nowhere, one right after the other."""
    with open_runner(asked.model.path, runner_name, asked.int8) as runner:
        frame = _Frame(runner, asked)
        spent = [frame(number) for number in range(warm_up + repeats)][warm_up:]
    return {stage: [ms[stage] for ms in spent] for stage in STAGES}


def runner_is_on_gpu(backend: str) -> bool:
    """Whether the rates of this machine's processor say nothing about a runner."""
    return backend.startswith("tensorrt")


def frame_work(model: ModelChoice, points_m: FloatArray, rays: Rays, tokens: Any, median_m: FloatArray) -> tuple[dict[str, Work], dict[str, int]]:
    """Bytes and operations of each stage for a frame, and the counts that they come from.

    Args:
        tokens: of that frame.
        median_m: what its rays met.
    """
    exported = open_model(model.path)
    grid = Grid(exported.config)
    mask = grid.pool_mask(grid.occupancy(points_m)) if model.is_random else predicted_mask(exported.decoder, tokens, grid)
    counts = frame_counts(points_m, mask, rays, median_m, grid)
    works = stage_work(counts, model_sizes(exported.config, exported.kernels), network_work(exported.encoder), network_work(exported.decoder))
    return works, counts._asdict()


def first_frame_work(model: ModelChoice, frames: Frames, rays: Rays) -> tuple[dict[str, Work], dict[str, int]]:
    """The same for the first frame, which is encoded and decoded for it on the CPU."""
    points_m = frames.clouds_m[0]
    with open_runner(model.path, "onnx") as runner:
        frame = _Frame(runner, Asked(model, frames, rays, False, 1.0, 1.0))
        frame(0)
    return frame_work(model, points_m, rays, frame.tokens, frame.depth_m)


def cpu_floors_ms(model: ModelChoice, frames: Frames, rays: Rays) -> dict[str, float]:
    """Floor of each stage for the first frame on this machine's processor."""
    return floors_ms(first_frame_work(model, frames, rays)[0], machine_rates())


def predicted_mask(decoder: bytes, tokens: Any, grid: Grid) -> BoolArray:
    """The skip mask of a token grid, from the decoder's own logits, (Y, X, Z) bool."""
    settings = grid.config.spatial_skip
    if not settings.enabled:
        return np.ones(grid.mask_cells_YXZ, dtype=bool)
    (logits,) = open_session(decoder).run(["skip_logits"], {"tokens": tokens.astype(np.int32)})
    return np.asarray(logits > np.log(settings.threshold / (1 - settings.threshold)), dtype=bool)
