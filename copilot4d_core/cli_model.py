# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which model a subcommand runs, and on what: the arguments, and the runner that they ask for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add --weights, --runner and --int8.

    Args:
        several: --weights may be given more than once, and name a folder of weights; see `open_chosen_runners`.
    """
    weights = "weights (.safetensors) or folder of `copilot4d export` (default: the weights in the package)"
    if several:
        parser.add_argument("--weights", type=Path, metavar="PATH", action="append",
                            help=f"{weights}; for --rate-distortion also a folder of weights, and more than once")
    else:
        parser.add_argument("--weights", type=Path, metavar="PATH", help=weights)
    parser.add_argument("--runner", default="auto", metavar="NAME", help="auto, torch, onnx, kernels or tensorrt (default auto)")
    parser.add_argument("--int8", action="store_true", help="eight-bit layers in ONNX Runtime")


def open_chosen_runner(parsed: argparse.Namespace) -> Any:
    """The runner that the arguments ask for; stderr says which one it is and why."""
    from copilot4d_core.deploy.open_runner import open_runner

    return open_runner(parsed.weights, parsed.runner, parsed.int8, tell=lambda line: print(line, file=sys.stderr))


def open_chosen_runners(parsed: argparse.Namespace) -> Iterator[Any]:
    """Runners of all weights that the arguments name, one after the other; stderr says which they are and why.

    Raises:
        ValueError: a folder that holds neither an export nor weights.
    """
    from copilot4d_core.deploy.open_runner import open_runner

    files = [None] if parsed.weights is None else [file for path in parsed.weights for file in _weights_in(path)]
    for path in files:
        yield open_runner(path, parsed.runner, parsed.int8, tell=lambda line: print(line, file=sys.stderr))


def _weights_in(path: Path) -> list[Path]:
    """The path itself, or the weights files of a folder that is no export; a checkpoint holds those of the weights beside it."""
    from copilot4d_core.deploy.manifest import MANIFEST
    from copilot4d_core.deploy.prior_file import ENDING

    if not path.is_dir() or (path / MANIFEST).is_file():
        return [path]
    files = sorted(file for file in path.glob("*.safetensors") if not file.name.endswith((ENDING, "checkpoint.safetensors")))
    if not files:
        raise ValueError(f"{path}: expected weights (.safetensors) or the files of `copilot4d export`, got neither")
    return files
