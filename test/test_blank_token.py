# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token 0 for cells that hold no point and touch none that does: in torch, in our kernels and in ONNX."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_kinds import KINDS, tiny_with

from copilot4d_core.config import Config, QuantizerConfig, preset
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.exported_model import open_model
from copilot4d_core.deploy.kernel_networks import KINDS as WITH_KERNELS
from copilot4d_core.deploy.kernel_runner import kernel_runner
from copilot4d_core.deploy.onnx_runner import OnnxRunner
from copilot4d_core.deploy.torch_runner import torch_runner
from copilot4d_core.grid import Grid
from copilot4d_core.tokenizer.choose_quantizer import choose_quantizer
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import save_weights
from copilot4d_core.training.checkpoint import start_from
from copilot4d_core.training.training_module import TrainingModule


def with_blank(config: Config) -> Config:
    return dataclasses.replace(config, quantizer=dataclasses.replace(config.quantizer, blank_token=True))


def model(config: Config) -> Tokenizer:
    torch.manual_seed(0)
    made = Tokenizer(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def expected_blank(grid: Grid, points_m: np.ndarray) -> np.ndarray:
    """Cell by cell, in the words of the setting."""
    rows, columns = grid.tokens_HW
    held = grid.occupied_tokens(points_m)
    return np.array([[not any(held[y, x] for y in range(max(0, i - 1), min(rows, i + 2)) for x in range(max(0, j - 1), min(columns, j + 2)))
                      for j in range(columns)] for i in range(rows)])


def test_blank_cells_by_hand() -> None:
    tokenizer = model(with_blank(preset("tiny")))
    # 16 x 16 cells of 1.25 m; one point in row 8, column 12, another in the corner of row 0, column 15.
    points = np.array([[5.1, 0.1, 0.0], [9.9, -9.9, 0.0], [400.0, 0.0, 0.0]], dtype=np.float32)
    blank = tokenizer.blank_cells(tokenizer.encode_patches(tokenizer.voxelize(points))).numpy()
    wanted = np.ones((16, 16), dtype=bool)
    wanted[7:10, 11:14] = wanted[0:2, 14:16] = False
    assert np.array_equal(blank, wanted)
    assert np.array_equal(expected_blank(tokenizer.grid, points), wanted)
    assert not model(preset("tiny")).blank_cells(torch.zeros(32, 32, 16)).any(), "without the setting no cell is"


@pytest.mark.parametrize("kind", KINDS)
def test_every_quantizer_gives_token_0_and_its_code(kind: str) -> None:
    settings = dataclasses.replace(preset("tiny"), quantizer=KINDS[kind])
    layer = choose_quantizer(settings)
    latent, blank = torch.randn(40, KINDS[kind].codebook_dim), torch.arange(40) < 15
    occupied = ~blank
    for quiet in (layer.train()(latent, occupied, blank), layer.eval()(latent, occupied, blank)):
        assert (quiet.token_N[blank] == 0).all()
        assert quiet.token_N[~blank].unique().numel() > 1
    quiet = layer(latent, occupied, blank)
    assert torch.equal(quiet.code_ND, layer.look_up(quiet.token_N))
    assert torch.equal(quiet.token_N[~blank], layer(latent, occupied, torch.zeros_like(blank)).token_N[~blank])


def test_code_0_moves_to_what_the_blank_cells_are() -> None:
    layer = choose_quantizer(dataclasses.replace(preset("tiny"), quantizer=QuantizerConfig(codebook_size=8, codebook_dim=2))).train()
    latent = torch.cat([torch.full((300, 2), 7.0), torch.randn(20, 2)])
    blank = torch.arange(320) < 300
    for _ in range(200):
        layer(latent, ~blank, blank)
    assert layer.look_up(torch.tensor(0)).tolist() == pytest.approx([7.0, 7.0], abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_all_runners_agree(kind: str, tmp_path: Path) -> None:
    config = with_blank(tiny_with(kind))
    save_weights(tmp_path / "tiny.safetensors", model(config))
    scan = next(iter(simulate_drive(3, 1, "vlp16"))).points_m
    scan = scan[(scan[:, 0] > -3) & (scan[:, 1] > -4)]  # half of the region is empty
    blank = expected_blank(Grid(config), scan)
    assert 0.2 < blank.mean() < 0.9
    with torch_runner(tmp_path / "tiny.safetensors") as runner:
        tokens = runner.encode(scan)
    assert (tokens[blank] == 0).all() and len(np.unique(tokens[~blank])) > 3
    with OnnxRunner(open_model(tmp_path / "tiny.safetensors")) as runner:
        assert np.array_equal(runner.encode(scan), tokens)
    if config.quantizer.kind in WITH_KERNELS:
        with kernel_runner(tmp_path / "tiny.safetensors") as runner:
            assert np.array_equal(runner.encode(scan), tokens)


def test_a_run_may_start_from_a_model_that_does_without(tmp_path: Path) -> None:
    save_weights(tmp_path / "tiny.safetensors", model(preset("tiny")))
    module = TrainingModule(with_blank(preset("tiny")))
    start_from(tmp_path / "tiny.safetensors", module)
    assert torch.equal(module.tokenizer.state_dict()["encoder.merge.weight"], model(preset("tiny")).state_dict()["encoder.merge.weight"])
