# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The data of one run: which examples each rank takes in each step, and the files that are made before the first one."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import lightning
import torch
from torch.utils.data import DataLoader, Sampler

from copilot4d_core.config import Config, TrainingConfig
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.data.simulator import SENSORS, simulate_drive
from copilot4d_core.training.examples import Example, Examples

SIMULATED_DRIVES, SCANS_PER_DRIVE = 48, 2
SCAN_PERIOD_NS = 100_000_000


class Simulated(NamedTuple):
    """What the simulator adds to the sources."""

    percent: int = 0
    """Of the examples."""
    sensors: tuple[str, ...] = ()
    """One a drive in turn; empty: each drive draws one of all."""


class RankBatches(Sampler[list[int]]):
    """Numbers of the examples that one rank takes: its part of batch after batch, from a step on.

    Batch `s` of a run holds the examples s x batch to (s + 1) x batch - 1, whatever the number of ranks; rank r of n takes
    the r-th of n equal parts, so that the parts in the order of the ranks are the batch.
    """

    def __init__(self, settings: TrainingConfig, first_step: int, rank: int, world_size: int) -> None:
        """Divide the batches.

        Raises:
            ValueError: the batch does not divide into equal parts.
        """
        if settings.batch_scans % world_size:
            raise ValueError(f"training.batch_scans: expected a multiple of the {world_size} processes, because only of equal parts is the mean of "
                             f"the gradients that of the batch; got {settings.batch_scans}: set it in --config, or start fewer processes")
        self.settings, self.first_step, self.rank, self.part = settings, first_step, rank, settings.batch_scans // world_size

    def __len__(self) -> int:
        return self.settings.steps - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.settings.steps):
            first = step * self.settings.batch_scans + self.rank * self.part
            yield list(range(first, first + self.part))


class RunData(lightning.LightningDataModule):
    """Opens the sources on every rank; rank 0 writes the simulated scans first, for all."""

    examples: Examples

    def __init__(self, config: Config, paths: list[Path], topic: str | None, out: Path, simulated: Simulated, first_step: int,
                 sensor: BeamPattern | None = None, workers: int = 1) -> None:
        """Remember what to open; see `train` for the arguments. The ranks share the folder `out`.

        Raises:
            ValueError: unknown simulated sensors, or such without a share of simulated scans.
        """
        unknown = [name for name in simulated.sensors if name not in SENSORS]
        if unknown:
            raise ValueError(f"--simulate-sensors: expected some of {', '.join(SENSORS)}, got {', '.join(unknown)}")
        if simulated.sensors and not simulated.percent:
            raise ValueError("--simulate-sensors: expected a share of simulated scans beside it, got none; pass --simulate PERCENT")
        super().__init__()
        self.prepare_data_per_node = False
        self.config, self.paths, self.topic, self.out, self.simulated = config, paths, topic, out, simulated
        self.first_step, self.sensor, self.workers = first_step, sensor, workers

    def prepare_data(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.simulated.percent:
            _write_simulated_bag(self._simulated, self.config.training.seed, self.simulated.sensors)

    def setup(self, stage: str) -> None:
        self.examples = Examples(self.config, self.paths, self.topic, self._simulated if self.simulated.percent else None,
                                 self.simulated.percent / 100, self.sensor)

    def train_dataloader(self) -> DataLoader[Example]:
        assert self.trainer is not None
        batches = RankBatches(self.config.training, self.first_step, self.trainer.global_rank, self.trainer.world_size)
        return example_loader(self.examples, batches, self.workers)

    @property
    def _simulated(self) -> Path:
        return self.out / "simulated"


def example_loader(examples: Examples, batches: Iterable[list[int]], workers: int) -> DataLoader[Example]:
    """Batches made by processes that start from a server without threads.

    A process forked from this one can hang before its first line: the threads of torch.distributed hold locks of Python at any moment, and nobody
    in the child gives them back.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["copilot4d_core.training.examples"])
    # Own generator: the loader must not draw from the global one, whose state belongs to the checkpoint.
    return DataLoader(examples, batch_sampler=batches, collate_fn=list, num_workers=workers, prefetch_factor=4, generator=torch.Generator(),
                      multiprocessing_context=context)


def _write_simulated_bag(path: Path, seed: int, sensors: tuple[str, ...]) -> None:
    """Bag of simulated scans from many short drives; written once."""
    if (path / "metadata.yaml").exists():
        return
    shutil.rmtree(path, ignore_errors=True)  # what an interrupted start left
    names = sensors or (None,)
    drives = (simulate_drive(seed * SIMULATED_DRIVES + drive, SCANS_PER_DRIVE, names[drive % len(names)]) for drive in range(SIMULATED_DRIVES))
    scans = (scan for drive in drives for scan in drive)
    write_cloud_bag(path, "/points", (scan._replace(stamp_ns=i * SCAN_PERIOD_NS) for i, scan in enumerate(scans)))
