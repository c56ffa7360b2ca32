# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the model makes of one scan, as a picture in TensorBoard every few hundred steps."""

from __future__ import annotations

from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback

from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.torch_runner import TorchRunner
from copilot4d_core.evaluation.pictures import depth_figure
from copilot4d_core.training.run_data import RunData

ROWS, COLUMNS = 32, 512


class ReconstructionPictures(Callback):
    """Depth image of the first scan of the first source: input, reconstruction and error, rendered as deployed."""

    def __init__(self, data: RunData, every_steps: int) -> None:
        self.data, self.every_steps = data, every_steps

    def on_train_start(self, *unused: Any) -> None:
        examples = self.data.examples
        scan = examples.sources[0][0]
        self.points_m = scan.points_m[examples.grid.inside(scan.points_m)]
        self.origin_m = scan.origin_m
        self.pattern = SphericalPattern.fit(self.points_m, self.origin_m, ROWS, COLUMNS)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *unused: Any) -> None:
        if module.steps_done % self.every_steps or not trainer.is_global_zero:
            return
        module.tokenizer.eval()
        with TorchRunner(module.tokenizer, "training") as runner:
            rendering = runner.decode(runner.encode(self.points_m), self.pattern.rays(self.origin_m))
        module.tokenizer.train()
        measured = self.pattern.range_image(self.points_m, self.origin_m)
        figure = depth_figure(measured, np.where(np.isfinite(measured), rendering.depth_m.reshape(measured.shape), np.nan))
        trainer.logger.experiment.add_figure("reconstruction", figure, module.steps_done)  # type: ignore[union-attr]
