# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`run.json` of a run: what it is trained on, from where it started and how long it took. The model card is made from it.

Unusual: a run that is resumed with other data is refused, because example `k` would no longer be the one that it was.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.model_file import read_model, read_tensors
from copilot4d_core.tokenizer import ranks
from copilot4d_core.training.examples import Examples
from copilot4d_core.training.run_data import Simulated

FILE = "run.json"
FIXED = ("data", "simulated")
"""What must stay over the parts of a run."""


class RunRecord:
    """Kept by rank 0; written with every checkpoint, so that its seconds belong to the steps of the checkpoint."""

    def __init__(self, out: Path, start: Path | None, simulated: Simulated, precision: str, resumed: bool) -> None:
        """Remember where and from what; see `train` for the arguments."""
        self.path, self.resumed = out / FILE, resumed
        self.tree: dict[str, Any] = {
            "schema_version": 1, "torch": torch.__version__, "precision": precision, "start": None if start is None else _identity(start),
            "simulated": {"percent": simulated.percent, "sensors": list(simulated.sensors)} if simulated.percent else None}
        self.seconds_before, self.began_s = 0.0, time.monotonic()

    def begin(self, examples: Examples) -> None:
        """Note the sources of the examples, or compare them with those of the parts before.

        Raises:
            ValueError: the run is resumed, and has other data or started from another model.
        """
        self.tree["processes"] = ranks.world_size()
        self.tree["data"] = [{"name": source.name, "scans": len(source), "share": round(float(share), 4)}
                             for source, share in zip(examples.sources, examples.shares, strict=True)]
        if self.resumed and self.path.is_file():
            before = json.loads(self.path.read_text())
            different = [f"{key}: {before.get(key)} there, {self.tree[key]} here" for key in FIXED if before.get(key) != self.tree[key]]
            if different:
                raise ValueError(f"{self.path.parent}: the run was started with other data ({'; '.join(different)}); name the same --data and "
                                 "--simulate, or another --out")
            if self.tree["start"] not in (None, before["start"]):
                raise ValueError(f"{self.path.parent}: the run was started from {_words(before['start'])}, not from {_words(self.tree['start'])}; "
                                 "leave --start out to resume it, or name another --out")
            self.tree["start"] = before["start"]
            self.seconds_before = float(before["seconds"])
        self.began_s = time.monotonic()

    def write(self, steps_done: int) -> None:
        """Write what is true after so many steps."""
        tree = {**self.tree, "steps": steps_done, "seconds": round(self.seconds_before + time.monotonic() - self.began_s, 1)}
        with replacing_file(self.path) as file:
            file.write((json.dumps(tree, indent=2, allow_nan=False) + "\n").encode())


def _identity(path: Path) -> dict[str, Any]:
    """Name of a model to start from: its id, for a checkpoint the step."""
    tensors, header = read_tensors(path)
    if "random.torch" in tensors:
        return {"file": path.name, "run": path.absolute().parent.name, "step": int(header["step"])}
    return {"file": path.name, "model_id": read_model(path).model_id}


def _words(start: dict[str, Any] | None) -> str:
    return "random numbers" if start is None else " ".join(f"{key} {value}" for key, value in start.items())
