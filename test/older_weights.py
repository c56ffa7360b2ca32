# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A weights file as versions wrote it that did not know today's newer settings yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from copilot4d_core.config import Config
from copilot4d_core.model_file import read_tensors
from copilot4d_core.tensor_file import write_arrays


def write_older_weights(path: Path, source: Path) -> list[str]:
    """Write the weights of `source` without the settings that files of before lack; returns those, as `section.key`."""
    arrays, header = read_tensors(source)
    without = []
    for section in dataclasses.fields(Config):
        if isinstance(header["config"][section.name], dict):
            for key in dataclasses.fields(section.default_factory()):  # type: ignore[misc]
                if "before" in key.metadata:
                    header["config"][section.name].pop(key.name, None)
                    without.append(f"{section.name}.{key.name}")
    write_arrays(path, arrays, header)
    return without
