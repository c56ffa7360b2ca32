# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How many processes a launcher started this run with, and what Lightning must know to join them.

`torchrun` and Slurm's `srun` start the same command once a process and describe the whole in the environment. Started
by neither, a run has one process.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy


class Launched(NamedTuple):
    """Processes of a run."""

    per_node: int
    nodes: int

    def trainer_options(self) -> dict[str, Any]:
        """Arguments of `lightning.Trainer`."""
        options: dict[str, Any] = {"devices": self.per_node, "num_nodes": self.nodes}
        if self.per_node * self.nodes > 1:
            # The ranks' codebooks and banks are equal by themselves. A rank may have no ray inside its mask, so that a part of
            # the model is not used there.
            options["strategy"] = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
        if not TorchElasticEnvironment.detect() and SLURMEnvironment.detect():
            options["plugins"] = [SLURMEnvironment(auto_requeue=False)]  # A run goes on from its own checkpoint, by --resume.
        return options


def launched() -> Launched:
    """Read the environment of `torchrun` or `srun`.

    Raises:
        ValueError: Slurm's tasks are not divided over the nodes.
    """
    if TorchElasticEnvironment.detect():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return Launched(per_node, int(os.environ["WORLD_SIZE"]) // per_node)
    if not SLURMEnvironment.detect():
        return Launched(1, 1)
    tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
    per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
    if per_node * nodes != tasks:
        raise ValueError(f"Slurm: expected {nodes} nodes with equal numbers of tasks, got {tasks} tasks and {per_node} a node; "
                         "ask for them with --nodes and --ntasks-per-node")
    return Launched(per_node, nodes)
