"""`copilot4d train`: sources, Lightning trainer, checkpoints and pictures."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from copilot4d_core.config import Config, dict_from_config
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.tokenizer.weights_file import save_weights
from copilot4d_core.training.calibration import skip_threshold, with_threshold
from copilot4d_core.training.checkpoint import load_checkpoint, save_checkpoint, start_from
from copilot4d_core.training.examples import Example, Examples
from copilot4d_core.training.reconstruction_pictures import ReconstructionPictures
from copilot4d_core.training.training_module import TrainingModule

CHECKPOINT_EVERY_STEPS = 250
SIMULATED_DRIVES, SCANS_PER_DRIVE = 48, 2
SCAN_PERIOD_NS = 100_000_000
PICTURES_EVERY_STEPS = 500
CALIBRATION_SCANS = 32


class AtomicCheckpoints(Callback):
    """Writes `checkpoint.safetensors` every few steps and `weights.safetensors` beside it; at the end with a calibrated mask."""

    def __init__(self, config: Config, out: Path, examples: Examples) -> None:
        self.config, self.out, self.examples = config, out, examples

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *unused: Any) -> None:
        if module.steps_done % CHECKPOINT_EVERY_STEPS == 0:
            self._write(module)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._write(module)
        model = module.tokenizer.eval()
        scans = [self.examples.example(number, thin=False) for number in range(CALIBRATION_SCANS)]
        threshold = skip_threshold(model, scans, self.config.spatial_skip.recall)
        model.config = with_threshold(self.config, threshold)
        save_weights(self.out / "weights.safetensors", model, step=module.steps_done)

    def _write(self, module: TrainingModule) -> None:
        save_checkpoint(self.out / "checkpoint.safetensors", module)
        save_weights(self.out / "weights.safetensors", module.tokenizer, step=module.steps_done)


def simulated_bag(out: Path, seed: int) -> Path:
    """Bag of simulated scans below a run's folder, from many short drives; written once."""
    path = out / "simulated"
    if not (path / "metadata.yaml").exists():
        shutil.rmtree(path, ignore_errors=True)  # what an interrupted start left
        drives = (simulate_drive(seed * SIMULATED_DRIVES + drive, SCANS_PER_DRIVE) for drive in range(SIMULATED_DRIVES))
        scans = (scan for drive in drives for scan in drive)
        write_cloud_bag(path, "/points", (scan._replace(stamp_ns=i * SCAN_PERIOD_NS) for i, scan in enumerate(scans)))
    return path


def train(config: Config, data: list[Path], out: Path, *, resume: bool = False, topic: str | None = None, simulate: int = 0,
          start: Path | None = None) -> None:
    """Train a tokenizer and write checkpoints, weights, settings and TensorBoard logs below `out`.

    Args:
        config: settings; `training.steps` is the whole run, resumed parts included.
        data: files, folders or bags of scans.
        out: folder of the run.
        resume: go on from `out/checkpoint.safetensors`.
        topic: topic of the bags.
        simulate: share of the examples that come from the LiDAR simulator, percent.
        start: weights or checkpoint whose model the run starts from; None starts from random numbers.
    Raises:
        ValueError: no data, a checkpoint of other settings, or a folder that holds a run when `resume` is false.
    """
    checkpoint = out / "checkpoint.safetensors"
    if resume and start is not None:
        raise ValueError(f"{start}: expected a new run or one to resume, got both; leave --start or --resume out")
    if checkpoint.exists() and not resume:
        raise ValueError(f"{out}: expected a new folder, it holds a run; pass --resume to go on with it or name another --out")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # keeps advertisements out of the progress bar
    lightning.seed_everything(config.training.seed, verbose=False)
    module = TrainingModule(config)
    if resume:
        load_checkpoint(checkpoint, module)
        if module.resumed_steps >= config.training.steps:
            raise ValueError(f"{out}: expected an unfinished run, all of its {config.training.steps} steps are done; name another --out, "
                             "and go on from these weights with --start")
    elif start is not None:
        start_from(start, module)
    out.mkdir(parents=True, exist_ok=True)
    examples = Examples(config, data, topic, simulated_bag(out, config.training.seed) if simulate else None, simulate / 100,
                        first=module.resumed_steps * config.training.batch_scans)
    (out / "config.json").write_text(json.dumps(dict_from_config(config), indent=2) + "\n")
    # Own generator: the loader must not draw from the global one, whose state belongs to the checkpoint.
    loader: DataLoader[Example] = DataLoader(examples, batch_size=config.training.batch_scans, collate_fn=list, num_workers=1,
                                             prefetch_factor=4, generator=torch.Generator())
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=config.training.steps - module.resumed_steps, max_epochs=1,
        gradient_clip_val=config.training.gradient_clip, logger=TensorBoardLogger(out, name="tensorboard", version=""),
        log_every_n_steps=20, enable_checkpointing=False, enable_model_summary=False,
        callbacks=[AtomicCheckpoints(config, out, examples), ReconstructionPictures(examples, PICTURES_EVERY_STEPS),
                   RichProgressBar() if sys.stderr.isatty() else TQDMProgressBar(refresh_rate=50)])
    trainer.fit(module, loader)
