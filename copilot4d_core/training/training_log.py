# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a run says about each step: `losses.csv`, a line a step, and TensorBoard, every few steps.

Unusual: a resumed run takes out the lines after its checkpoint, so that the file never holds a step twice, and an
interrupted run leaves the lines of an uninterrupted one, to the last digit.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from pathlib import Path
from typing import Any, TextIO

import lightning
from lightning.pytorch.callbacks import Callback

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.tokenizer.tokenizer_losses import TokenizerLosses
from copilot4d_core.training.training_module import TrainingModule

TENSORBOARD_EVERY_STEPS = 20


class TrainingLog(Callback):
    """Writes on rank 0."""

    def __init__(self, path: Path) -> None:
        """Set up; `path` is the CSV file."""
        self.path = path
        self.file: TextIO | None = None
        self.step_s: list[float] = []
        self.last_s = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self.last_s = time.monotonic()
        if trainer.is_global_zero:
            columns = ["step", *_values(module), "skipped"]
            keep_steps(self.path, columns, module.steps_done)
            self.file = self.path.open("a", encoding="utf-8", newline="")

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *unused: Any) -> None:
        now_s = time.monotonic()
        self.step_s.append(now_s - self.last_s)
        self.last_s = now_s
        if self.file is None:
            return
        values = _values(module)
        # Nine digits hold a float32 exactly.
        row = [module.steps_done, *(f"{value:.9g}" for value in values.values()), "; ".join(module.bad_batches.last_names)]
        csv.writer(self.file, lineterminator="\n").writerow(row)
        self.file.flush()  # to the operating system, where a kill of this process does not reach it
        if module.steps_done % TENSORBOARD_EVERY_STEPS == 0:
            for name, value in {**values, "skipped": module.bad_batches.skipped}.items():
                trainer.logger.experiment.add_scalar(name, value, module.steps_done)  # type: ignore[union-attr]

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        self._close()

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._close()
        if self.file is not None and self.step_s:
            median_s = statistics.median(self.step_s)
            print(f"{len(self.step_s)} steps, median {median_s:.3g} s: {module.config.training.batch_scans / median_s:.3g} scans per second")

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()


def keep_steps(path: Path, columns: list[str], last_step: int) -> None:
    """Make `path` a table that ends with a step: the lines after it, and one that a kill cut off, are taken out.

    A column that an earlier version did not write is empty in its lines.

    Raises:
        ValueError: the table has a column that this version does not write.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    kept = "".join(line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= last_step)
    written = next(csv.reader(lines[:1]), columns)
    if gone := [name for name in written if name not in columns]:
        raise ValueError(f"{path}: expected the columns {', '.join(columns)}, got {', '.join(gone)}, too; another version of copilot4d began "
                         "this run: go on with that one, or name a new folder")
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv.DictReader(io.StringIO(kept), written))
    with replacing_file(path) as file:
        file.write(table.getvalue().encode())


def _values(module: TrainingModule) -> dict[str, float]:
    losses = dict(zip((f"loss/{name}" for name in TokenizerLosses._fields), module.last_losses_T.tolist(), strict=True))
    codebook = {f"codebook/{name}": value.item() for name, value in module.tokenizer.quantizer.statistics().items()}
    return {**losses, "learning_rate": module.optimizer.param_groups[0]["lr"], **codebook}
