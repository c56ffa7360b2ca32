# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d fit-prior`: the prior of a model's tokens, from scans.

What goes in: a runner and scans to fit to and to judge on. What comes out: a prior file, and its bytes a scan.
Unusual: fitted without torch: the network is small, its gradient is written by hand, and a run takes minutes on two CPU cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.deploy.prior_file import PriorArrays, write_prior
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.deploy.token_prior import TokenPrior, load_prior
from copilot4d_core.deploy.token_stream import tokens_to_bytes
from copilot4d_core.evaluation.report import DataSet
from copilot4d_core.grid import IntArray
from copilot4d_core.training.prior_classes import divide
from copilot4d_core.training.prior_network import Parameters, PriorNetwork, first_parameters
from copilot4d_core.training.prior_quantization import quantize
from copilot4d_core.training.prior_scans import Group, groups, tokens_of

LEARNING_RATE, WARMUP_STEPS, BETA1, BETA2, EPSILON = 4e-3, 100, 0.9, 0.99, 1e-8
BATCH_GRIDS = 4
LARGEST_CODEBOOK = 8192
"""Its classes are read from a square table of all pairs of tokens: 0.5 GB at this size, 8.6 GB with 32,768 tokens."""
CLASS_GRIDS, SHOWN_GRIDS = 1500, 16
"""Grids that the classes are read from, and that show how large the hidden units become."""


class Settings(NamedTuple):
    """How a prior is fitted."""

    copies: int
    """Turned and shifted copies of every scan."""
    simulate: int
    """Simulated scans."""
    steps: int
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ValueError: a number below what makes sense.
        """
        for name, least in (("copies", 0), ("simulate", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name}: expected at least {least}, got {getattr(self, name)}")


class Cost(NamedTuple):
    """What the scans of a data set cost as token streams, headers included."""

    name: str
    scans: int
    packed_bytes: float
    """A scan at a fixed rate."""
    mean_bytes: float
    """A scan with the prior."""
    largest_bytes: int


def fit_prior(runner: Runner, data: list[DataSet], judges: list[DataSet], out: Path, settings: Settings) -> list[Cost]:
    """Fit a prior, write it and measure it.

    Args:
        data: scans to fit to.
        judges: scans to measure on; nothing is fitted to them.
        out: file to write.
    Returns:
        Costs of the judges' scans; of those fitted to, where there are no judges.
    Raises:
        ValueError: a model with too many different tokens, or a data set without a scan inside the model's region.
    """
    if (size := runner.config.quantizer.codebook_size) > LARGEST_CODEBOOK:
        raise ValueError(f"fit-prior: expected a model of at most {LARGEST_CODEBOOK:,} different tokens, got {size:,}; its grids travel at the "
                         "fixed rate, without a prior")
    rng = np.random.default_rng(settings.seed)
    judged = {judge.name: tokens_of(runner, judge, 0, rng, _track) for judge in judges}
    found = groups(runner, data, settings.copies, settings.simulate, rng, _track)
    arrays = fit(found, size, settings.steps, rng)
    write_prior(out, arrays, runner.model_id, {"grids": {group.name: len(group.tokens) for group in found}, **settings._asdict()})
    prior = load_prior(out, runner.model_id)
    return [_cost(name, tokens, runner, prior) for name, tokens in (judged or {group.name: group.tokens for group in found}).items()]


def print_costs(costs: list[Cost], out: Path) -> None:
    """Print a row for every data set, and where the prior is."""
    table = Table(title=f"{out}: {out.stat().st_size:,} bytes")
    for column in ("data set", "scans", "bytes at a fixed rate", "with the prior, mean", "largest"):
        table.add_column(column, justify="left" if column == "data set" else "right")
    for cost in costs:
        table.add_row(cost.name, str(cost.scans), f"{cost.packed_bytes:,.0f}", f"{cost.mean_bytes:,.0f}", f"{cost.largest_bytes:,}")
    Console().print(table)


def write_costs(costs: list[Cost], model_id: str, path: Path) -> None:
    """Write them as JSON, with the model whose tokens they are of."""
    with replacing_file(path) as file:
        file.write((json.dumps({"schema_version": 1, "model_id": model_id, "costs": [cost._asdict() for cost in costs]}, indent=2) + "\n").encode())


def fit(found: list[Group], codebook_size: int, steps: int, rng: np.random.Generator) -> PriorArrays:
    """Arrays of a prior that is fitted to groups of grids."""
    tokens = np.concatenate([group.tokens for group in found])
    weights = np.concatenate([np.full(len(group.tokens), group.weight / len(group.tokens)) for group in found])
    weights /= weights.sum()
    code_order, sizes = divide(tokens[rng.choice(len(tokens), CLASS_GRIDS, p=weights)], codebook_size, int(rng.integers(2**31)))
    ranks = np.argsort(code_order).astype(np.int32)[tokens.reshape(len(tokens), -1)]
    network = PriorNetwork(tokens.shape[1], tokens.shape[2], sizes)
    first = first_parameters(np.bincount(ranks.reshape(-1), minlength=codebook_size), len(sizes), rng)
    parameters = _descend(network, ranks, weights, first, steps, rng)
    return quantize(parameters, network, ranks[rng.choice(len(ranks), SHOWN_GRIDS, p=weights)], code_order, sizes)


def _descend(network: PriorNetwork, ranks: IntArray, weights: npt.NDArray[np.float64], parameters: Parameters, steps: int,
             rng: np.random.Generator) -> Parameters:
    """Adam (Kingma and Ba, arXiv:1412.6980) with a warm-up and a cosine to 0."""
    mean = {name: np.zeros_like(value) for name, value in parameters.items()}
    square = {name: np.zeros_like(value) for name, value in parameters.items()}
    for step in _track(range(steps), "fit"):
        gradient = network.losses(parameters, ranks[rng.choice(len(ranks), BATCH_GRIDS, p=weights)]).gradient
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + np.cos(np.pi * step / steps))
        for name, value in gradient.items():
            mean[name] += (1 - BETA1) * (value - mean[name])
            square[name] += (1 - BETA2) * (value**2 - square[name])
            change = rate * mean[name] / (1 - BETA1 ** (step + 1)) / (np.sqrt(square[name] / (1 - BETA2 ** (step + 1))) + EPSILON)
            parameters[name] -= change.astype(np.float32)
    return parameters


def _cost(name: str, tokens: TokenArray, runner: Runner, prior: TokenPrior) -> Cost:
    packed, coded = (np.array([len(tokens_to_bytes(grid, runner.model_id, runner.config, way)) for grid in tokens]) for way in (None, prior))
    return Cost(name, len(tokens), float(packed.mean()), float(coded.mean()), int(coded.max()))


def _track(indices: Iterable[int], name: str) -> Iterable[int]:
    return track(indices, description=name, console=Console(stderr=True), transient=True)
