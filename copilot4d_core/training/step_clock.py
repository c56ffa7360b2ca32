# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a training step costs."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class StepClock(Callback):
    """Processor time of each step of this process, all threads; the worker that loads examples does not count."""

    def __init__(self) -> None:
        self.step_ms: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, *unused: Any) -> None:
        self._began = time.process_time()

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, *unused: Any) -> None:
        self.step_ms.append(1000 * (time.process_time() - self._began))
