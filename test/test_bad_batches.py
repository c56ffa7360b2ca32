# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Batches whose numbers are not finite: skipped, counted, named, and the end of the run when they repeat."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from copilot4d_core.config import Config, preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.model_file import read_tensors
from copilot4d_core.training import bad_batches
from copilot4d_core.training.examples import Example
from copilot4d_core.training.train import train
from copilot4d_core.training.training_module import TrainingModule

STEPS = 5
BAD = 4
"""Number of the bad step, from 1."""


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "bag"
    write_cloud_bag(path, "/points", simulate_drive(3, 4, "vlp16"))
    return path


def settings(steps: int = STEPS) -> Config:
    config = preset("tiny")
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps, codebook_start_step=2))


def nan_latent(module: TrainingModule) -> None:
    encode = module.tokenizer.encode_latent
    module.tokenizer.encode_latent = lambda patches: encode(patches) * (float("nan") if module.steps_done + 1 == BAD else 1.0)  # type: ignore[method-assign]


def nan_loss(module: TrainingModule) -> None:
    render = module.tokenizer.render

    def broken(*arguments: object) -> object:
        rays = render(*arguments)  # type: ignore[arg-type]
        return rays._replace(depth_R=rays.depth_R * float("inf")) if module.steps_done + 1 == BAD else rays

    module.tokenizer.render = broken  # type: ignore[method-assign, assignment]


def infinite_gradient(module: TrainingModule) -> None:
    bias = module.tokenizer.decoder.input.bias
    bias.register_hook(lambda gradient: gradient / 0.0 if module.steps_done + 1 == BAD else gradient)


def states(module: TrainingModule) -> dict[str, Tensor]:
    """Everything a step may change, but for its number."""
    optimizer = {f"{number}.{key}": value for number, state in enumerate(module.optimizer.state.values()) for key, value in state.items()}
    model = module.tokenizer.state_dict() | optimizer | {"draws": module.tokenizer.quantizer.generator.get_state()}
    return {name: value.detach().clone() for name, value in model.items()}


@pytest.mark.parametrize(("breaks", "what"), [(nan_latent, "the encoder's output"), (nan_loss, "the loss"), (infinite_gradient, "the gradient")])
def test_a_bad_batch_changes_nothing_and_is_named(breaks: Callable[[TrainingModule], None], what: str, drive: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    class Watched(TrainingModule):
        def __init__(self, config: Config, bf16: bool = False) -> None:
            super().__init__(config, bf16)
            breaks(self)

        def training_step(self, batch: list[Example], batch_index: int) -> None:
            before = states(self)
            super().training_step(batch, batch_index)
            seen.append((before, states(self)))

    monkeypatch.setattr("copilot4d_core.training.train.TrainingModule", Watched)
    monkeypatch.setattr("copilot4d_core.training.train.CALIBRATION_SCANS", 2)
    train(settings(), [drive], tmp_path / "run")
    changed = [[name for name in after if name not in before or not torch.equal(before[name], after[name])] for before, after in seen]
    assert not changed[BAD - 1]
    for step in set(range(1, STEPS + 1)) - {BAD}:
        assert {"encoder.merge.weight", "quantizer.bank", "quantizer.step", "draws"} <= set(changed[step - 1])
    assert "quantizer.codebook" in changed[BAD]
    with (tmp_path / "run" / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["skipped"]) for row in rows] == [step == BAD for step in range(1, STEPS + 1)]
    name = rows[BAD - 1]["skipped"]
    assert name.startswith("bag: /points#")
    assert f"step {BAD}: {what} is not finite with {name}; the batch is skipped, number 1 of this run" in capsys.readouterr().err
    tensors, header = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert header["skipped"] == [1, 0] and all(torch.from_numpy(value).isfinite().all() for value in tensors.values())


def test_bad_batches_in_a_row_end_the_run_and_the_checkpoint_stays(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingModule.losses

    def broken(self: TrainingModule, batch: list[Example]) -> object:
        losses = whole(self, batch)
        # Steps 2, 3 and 5 are bad: two in a row, then one, so that the run goes on until 8.
        bad = self.steps_done + 1 in (2, 3, 5) or self.steps_done + 1 >= 7
        return [terms._replace(total=terms.total * float("nan")) for terms in losses] if bad else losses

    monkeypatch.setattr(TrainingModule, "losses", broken)
    monkeypatch.setattr("copilot4d_core.training.train.CHECKPOINT_EVERY_S", 0.0)
    told = rf"step 9: the loss is not finite with bag: /points#\d; it is batch {bad_batches.STOP_AFTER} in a row.*--start"
    with pytest.raises(ValueError, match=told):
        train(settings(20), [drive], tmp_path / "run")
    tensors, header = read_tensors(tmp_path / "run" / "checkpoint.safetensors")
    assert (header["step"], header["skipped"]) == (8, [5, 2])
    # A resumed run counts on: one more bad batch ends it.
    with pytest.raises(ValueError, match="step 9: the loss is not finite"):
        train(settings(20), [drive], tmp_path / "run", resume=True)
    assert load_file(tmp_path / "run" / "checkpoint.safetensors").keys() == tensors.keys()
