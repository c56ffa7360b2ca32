# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d train`: sources, Lightning trainer, checkpoints and pictures; in one process or, started by a launcher, in many."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from copilot4d_core.config import Config
from copilot4d_core.config_file import dict_from_config
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.tokenizer.weights_file import save_weights
from copilot4d_core.training.calibration import skip_threshold, with_threshold
from copilot4d_core.training.checkpoint import load_checkpoint, save_checkpoint, start_from
from copilot4d_core.training.launched import launched
from copilot4d_core.training.reconstruction_pictures import ReconstructionPictures
from copilot4d_core.training.run_data import RunData, Simulated
from copilot4d_core.training.run_record import RunRecord
from copilot4d_core.training.training_log import TrainingLog
from copilot4d_core.training.training_module import TrainingModule

CHECKPOINT_EVERY_S = 120.0
"""So much work a kill may cost. Time and not steps, because a step takes milliseconds or minutes; what a run computes does not
depend on when it is written."""
PICTURES_EVERY_STEPS = 500
CALIBRATION_SCANS = 32


class AtomicCheckpoints(Callback):
    """Writes `checkpoint.safetensors` before the first step and every few minutes, and `weights.safetensors` beside it; at the end with a
    calibrated mask. Rank 0's state is that of all ranks, so it alone writes."""

    def __init__(self, config: Config, out: Path, data: RunData, record: RunRecord) -> None:
        self.config, self.out, self.data, self.record = config, out, data, record
        self.written_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.is_global_zero:
            for unfinished in self.out.glob(".*.part"):
                unfinished.unlink()  # what a kill left while a file was written
            self.record.begin(self.data.examples)
            (self.out / "config.json").write_text(json.dumps(dict_from_config(self.config), indent=2) + "\n")
            self._write(trainer, module)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *unused: Any) -> None:
        is_last = module.steps_done == self.config.training.steps
        if trainer.is_global_zero and not is_last and time.monotonic() - self.written_s >= CHECKPOINT_EVERY_S:
            self._write(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self.config.spatial_skip.enabled:
            model = module.tokenizer.eval()
            scans = [self.data.examples.example(number, thin=False) for number in range(CALIBRATION_SCANS)]
            model.config = with_threshold(self.config, skip_threshold(model, scans, self.config.spatial_skip.recall))
        self._write(trainer, module)

    def _write(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        trainer.logger.experiment.flush()  # type: ignore[union-attr]  # The curves up to here must outlive a kill, too.
        save_weights(self.out / "weights.safetensors", module.tokenizer, step=module.steps_done)
        self.record.write(module.steps_done)
        # The checkpoint last: one of all steps says that the run has nothing left to do.
        save_checkpoint(self.out / "checkpoint.safetensors", module)
        self.written_s = time.monotonic()


def train(config: Config, data: list[Path], out: Path, *, resume: bool = False, topic: str | None = None, simulate: int = 0,
          simulate_sensors: Sequence[str] = (), start: Path | None = None, sensor: BeamPattern | None = None, bf16: bool = False, workers: int = 1,
          callbacks: Sequence[Callback] = ()) -> None:
    """Train a tokenizer and write checkpoints, weights, settings and logs below `out`.

    Started by `torchrun` or `srun`, every process calls this; they share each batch and the folder `out`.

    Args:
        config: settings; `training.steps` is the whole run, resumed parts included.
        data: files, folders, downloads or bags of scans.
        out: folder of the run.
        resume: go on from `out/checkpoint.safetensors`; where there is none yet, the run starts.
        topic: topic of the bags.
        simulate: share of the examples that come from the LiDAR simulator, percent.
        simulate_sensors: names of the simulator's sensors, one a drive in turn; empty: each drive draws one of all.
        start: weights or checkpoint whose model the run starts from; None starts from random numbers. With `resume` it must be the one that
            the run did start from.
        sensor: which recorded all of `data`; None finds out scan by scan where no beam met anything.
        bf16: the Swin trunks multiply in bfloat16.
        workers: processes that read scans and make examples of them; how many does not change the examples.
        callbacks: more of them, called before those that write checkpoints and pictures.
    Raises:
        ValueError: no worker, no data, an unknown simulated sensor, a checkpoint of other settings, data or start, a folder that holds a run
            when `resume` is false, a batch that does not divide over the processes, or too many steps in a row that were not finite.
    """
    if workers < 1:
        raise ValueError(f"--workers: expected at least 1, got {workers}")
    _be_quiet()
    lightning.seed_everything(config.training.seed, verbose=False)
    module = TrainingModule(config, bf16)
    resumed = _restore(module, out / "checkpoint.safetensors", resume, start)
    simulated = Simulated(simulate, tuple(simulate_sensors))
    run_data = RunData(config, data, topic, out, simulated, module.steps_done, sensor, workers)
    record = RunRecord(out, start, simulated, "bf16" if bf16 else "fp32", resumed)
    logger = TensorBoardLogger(out, name="tensorboard", version="", purge_step=module.steps_done + 1 if resumed else None)
    trainer = lightning.Trainer(
        accelerator="cpu", **launched().trainer_options(), max_epochs=1, logger=logger, use_distributed_sampler=False,
        enable_checkpointing=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=[*callbacks, TrainingLog(out / "losses.csv"), AtomicCheckpoints(config, out, run_data, record),
                   ReconstructionPictures(run_data, PICTURES_EVERY_STEPS),
                   RichProgressBar() if sys.stderr.isatty() else TQDMProgressBar(refresh_rate=50)])
    trainer.fit(module, datamodule=run_data)


def _restore(module: TrainingModule, checkpoint: Path, resume: bool, start: Path | None) -> bool:
    """Give the module the state that the run goes on from; returns whether it is that of a checkpoint."""
    out, steps = checkpoint.parent, module.config.training.steps
    if not checkpoint.exists():
        if start is not None:
            start_from(start, module)
        if resume:
            print(f"copilot4d: {checkpoint}: no checkpoint yet, the run starts", file=sys.stderr)
        return False
    if not resume:
        raise ValueError(f"{out}: expected a new folder, it holds a run; pass --resume to go on with it or name another --out")
    load_checkpoint(checkpoint, module)
    if module.steps_done >= steps:
        raise ValueError(f"{out}: expected an unfinished run, all of its {steps} steps are done; name another --out, "
                         "and go on from these weights with --start")
    return True


def _be_quiet() -> None:
    """Keep what Lightning says about itself, and about torch's newest names, out of the progress bar."""
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
