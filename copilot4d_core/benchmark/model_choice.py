# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The model that a benchmark runs: weights as they are, or random ones of a preset that nobody has trained.

What goes in: a weights file or export folder, or the name of a preset. What comes out: a path that runners open.
Unusual: random weights predict an empty skip mask, so with them rays are rendered inside the mask of the scan itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from copilot4d_core.config import Config, preset
from copilot4d_core.deploy.exported_model import open_model
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.model_file import random_model, write_tensors


class ModelChoice(NamedTuple):
    """Where a model lies, and whether anybody has trained it."""

    path: Path
    is_random: bool

    @property
    def mask(self) -> str:
        """What is rendered, for people."""
        return "of the scan" if self.is_random else "predicted"


@contextmanager
def chosen_model(weights: Path | None, preset_name: str | None) -> Iterator[ModelChoice]:
    """The weights that are named, those of the package, or random ones of a preset in a file that goes again.

    Raises:
        ValueError: unknown preset.
    """
    if preset_name is None:
        yield ModelChoice(weights or PACKAGED_WEIGHTS, False)
        return
    with random_weights(preset(preset_name)) as path:
        yield ModelChoice(path, True)


def model_config(path: Path) -> Config:
    """Settings of a weights file or export folder.

    Raises:
        ValueError: neither, or a damaged one.
    """
    return open_model(path).config


@contextmanager
def random_weights(config: Config) -> Iterator[Path]:
    """A file of untrained weights for these settings, as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="copilot4d_bench_") as folder:
        path = Path(folder) / f"{config.name}-random.safetensors"
        write_tensors(path, random_model(config).tensors, config)
        yield path
