"""Chooses the runner; the only place that knows all of them."""

from __future__ import annotations

from pathlib import Path

from copilot4d_core.deploy.runner import Runner

PACKAGED_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "mini.safetensors"


def open_runner(weights: Path | None = None) -> Runner:
    """Runner of a weights file; None takes the weights that come with the package.

    Raises:
        ValueError: the file is missing or is not a weights file of this version.
    """
    from copilot4d_core.deploy.torch_runner import torch_runner

    return torch_runner(PACKAGED_WEIGHTS if weights is None else weights)
