# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One run in two processes: the quantiser on two ranks, and whole runs as torchrun and Slurm start them, beside one process."""

from __future__ import annotations

import csv
import math
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, distributed, multiprocessing

from copilot4d_core.config import CodebookUpdate, QuantizerConfig, QuantizerKind, TrainingConfig
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.tokenizer import ranks
from copilot4d_core.tokenizer.finite_scalar_quantizer import FiniteScalarQuantizer
from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer
from copilot4d_core.training.run_data import RankBatches

ROOT = Path(__file__).resolve().parent.parent
STEPS, START_STEP, CELLS, DIM = 14, 2, 96, 4
DEADLINE_S = 300.0
"""Tells a hang; on a quiet machine a run takes seconds."""


def quantizer(update: CodebookUpdate) -> VectorQuantizer:
    settings = QuantizerConfig(codebook_size=16, codebook_dim=DIM, update=update, dead_after_steps=3, reinit_interval_steps=4, kmeans_iterations=3,
                               bank_size_factor=4)
    return VectorQuantizer(settings, START_STEP, seed=7).train()


def steps_of(update: CodebookUpdate, rank: int, world_size: int) -> list[dict[str, Tensor]]:
    """State after each step of a quantiser that sees one rank's part of the cells; latents wander, so that codes die."""
    module, states = quantizer(update), []
    part = CELLS // world_size
    for step in range(STEPS):
        rng = np.random.default_rng(step)
        latent = torch.from_numpy((rng.normal(size=(CELLS, DIM)) * 0.3 + 2.0 * math.sin(step)).astype(np.float32))
        occupied = torch.from_numpy(rng.random(CELLS) < 0.2)
        mine = slice(rank * part, (rank + 1) * part)
        loss = module(latent[mine], occupied[mine], torch.zeros_like(occupied[mine])).loss
        if update is CodebookUpdate.GRADIENT and loss.requires_grad:
            gradient, = torch.autograd.grad(loss, module.codebook)
            with torch.no_grad():
                module.codebook -= 0.1 * ranks.total(gradient) / world_size
        states.append({name: value.clone() for name, value in module.state_dict().items()} | {"draws": module.generator.get_state()})
    return states


def use_of_scalars(rank: int, world_size: int) -> Tensor:
    """Steps for which each of nine scalar tokens was unused; the second rank's cells hold tokens that the first's do not."""
    module = FiniteScalarQuantizer(QuantizerConfig(kind=QuantizerKind.FSQ, levels=(3, 3), codebook_size=9, codebook_dim=2)).train()
    corners = torch.tensor([[-9.0, -9.0], [9.0, 9.0]])
    part = len(corners) // world_size
    for _ in range(2):
        module(corners[rank * part : (rank + 1) * part], torch.ones(part, dtype=torch.bool), torch.zeros(part, dtype=torch.bool))
    return module.unused_steps


def run_rank(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({update.value: steps_of(update, rank, 2) for update in CodebookUpdate} | {"scalars": use_of_scalars(rank, 2)}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_quantizers_of_two_ranks_are_equal_and_that_of_one_process(tmp_path: Path) -> None:
    context = multiprocessing.start_processes(run_rank, (str(tmp_path),), nprocs=2, join=False, start_method="spawn")
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while not context.join(timeout=1.0):  # returns when one has ended, and raises what a process raised
            assert time.monotonic() < deadline_s
    finally:
        for process in context.processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["scalars"].tolist() == second["scalars"].tolist() == use_of_scalars(0, 1).tolist() == [0, 2, 2, 2, 2, 2, 2, 2, 0]
    for update in CodebookUpdate:
        alone = steps_of(update, 0, 1)
        reinitialised = [int(state["last_reinit"]) for state in alone]
        assert max(reinitialised) > START_STEP + 1, "the dead-code rule must come in, not the late start alone"
        for mine, theirs, one in zip(first[update.value], second[update.value], alone, strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
            for name in ("bank", "bank_fill", "step", "last_reinit", "unused_steps", "draws"):
                assert torch.equal(mine[name], one[name]), name
            for name in ("codebook", "code_sum", "cluster_size"):
                assert torch.allclose(mine[name], one[name], rtol=1e-5, atol=1e-6), name
        # The sums are over both ranks: what one rank holds would give another codebook.
        assert not torch.allclose(first[update.value][-1]["codebook"], alone[START_STEP]["codebook"], atol=0.1)


def test_every_batch_is_divided_in_order() -> None:
    settings = TrainingConfig(batch_scans=4, steps=3)
    assert list(RankBatches(settings, 1, 0, 1)) == [[4, 5, 6, 7], [8, 9, 10, 11]]
    assert [list(RankBatches(settings, 1, rank, 2)) for rank in range(2)] == [[[4, 5], [8, 9]], [[6, 7], [10, 11]]]
    with pytest.raises(ValueError, match=r"expected a multiple of the 3 processes.*got 4"):
        RankBatches(settings, 0, 0, 3)


# What every process of a run runs: the command itself, then a file with the rank's own state. Example 7 is the second rank's in step 4.
DRIVER = """
import sys
import numpy as np
import torch
from copilot4d_core import cli
from copilot4d_core.training import examples, train
from copilot4d_core.training.checkpoint import save_checkpoint

torch.set_num_threads(1)
whole = examples.Examples.example
def example(self, number, *, thin):
    made = whole(self, number, thin=thin)
    return made._replace(name="broken", depth_R=made.depth_R * np.float32("nan")) if number == 7 and thin else made
examples.Examples.example = example
class Keeping(train.TrainingModule):
    def on_train_end(self):
        save_checkpoint(train.Path(sys.argv[-1]) / f"rank{self.global_rank}.safetensors", self)
train.TrainingModule = Keeping
if __name__ == "__main__":  # the processes that make examples import this file, too
    sys.exit(cli.main(sys.argv[1:]))
"""


def start(launcher: str, folder: Path, out: Path) -> list[subprocess.Popen[str]]:
    """The processes of a run: one, two under torchrun, or two as `srun --ntasks-per-node 2` starts them."""
    driver = ["driver.py", "train", "--config", "settings.yaml", "--data", "bag", "--out", str(out)]
    own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment = own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    commands = [([sys.executable, *driver], environment)]
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
        commands = [([*torchrun, *driver], environment)]
    elif launcher == "slurm":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1",
               "SLURM_NODEID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        commands = [([sys.executable, *driver], environment | job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in "01"]
    return [subprocess.Popen(words, env=values, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for words, values in commands]


def run(launcher: str, folder: Path) -> tuple[Path, str]:
    out = folder / launcher
    processes = start(launcher, folder, out)
    try:
        told = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(told)
    return out, "\n".join(told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    write_cloud_bag(folder / "bag", "/points", simulate_drive(3, 4, "vlp16"))
    (folder / "driver.py").write_text(DRIVER)
    (folder / "settings.yaml").write_text("preset: tiny\n"
                                          "quantizer: {dead_after_steps: 2, reinit_interval_steps: 3}\n"
                                          "training: {batch_scans: 2, steps: 8, codebook_start_step: 2}\n")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> tuple[Path, str]:
    return run("alone", folder)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_a_run_on_two_ranks_is_that_of_one_process(launcher: str, folder: Path, alone: tuple[Path, str]) -> None:
    out, told = run(launcher, folder)
    first, second = (load_file(out / f"rank{rank}.safetensors") for rank in range(2))
    assert len(first) > 100 and not [name for name in first if not torch.equal(first[name], second[name])]
    mine, one = table(out), table(alone[0])
    assert [row["step"] for row in mine] == [str(step) for step in range(1, 9)]
    assert [row["skipped"] for row in mine] == [row["skipped"] for row in one] == [""] * 3 + ["broken"] + [""] * 4
    assert told.count("step 4: the loss is not finite with broken; the batch is skipped") == 1
    # K-Means comes in after two steps, by the late start, and three steps of the codebook later, by the dead-code rule; step 4 does not count.
    assert [row["codebook/steps_since_kmeans"] for row in mine] == ["1", "2", "0", "0", "1", "2", "0", "1"]
    for row, other in zip(mine, one, strict=True):
        # Sums in another order; AdamW divides by the size of the gradient, which lifts a rounding error in a tiny one.
        assert float(row["loss/total"]) == pytest.approx(float(other["loss/total"]), rel=1e-3, nan_ok=True)
    reference = load_file(alone[0] / "rank0.safetensors")
    assert torch.allclose(first["model.quantizer.codebook"], reference["model.quantizer.codebook"], atol=1e-2)
    assert {path.name for path in out.iterdir()} == {path.name for path in alone[0].iterdir()} | {"rank1.safetensors"}
