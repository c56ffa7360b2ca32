# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The whole chain: order of axes and points, files, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from copilot4d_core.config import Config, preset
from copilot4d_core.data.rays import Rays
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.token_file import load_tokens, save_tokens
from copilot4d_core.deploy.torch_runner import TorchRunner, torch_runner
from copilot4d_core.tokenizer.swin_transformer import SwinBlock
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import load_weights, save_weights
from copilot4d_core.training.examples import Example
from copilot4d_core.training.training_module import TrainingModule


def wide(config: Config) -> Config:
    """The tiny preset on a region twice as long in x as in y."""
    return dataclasses.replace(config, grid=dataclasses.replace(config.grid, x_min_m=-20.0, x_max_m=20.0))


def random_model(config: Config | None = None) -> Tokenizer:
    torch.manual_seed(0)
    model = Tokenizer(config or preset("tiny")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def box(corner: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Points on the faces of a box of 2 x 2 x 1.5 m whose centre is the corner."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, size=(3000, 3)) * [1.0, 1.0, 0.75]
    face = rng.integers(0, 2, size=3000)
    points[np.arange(3000), face] = np.sign(points[np.arange(3000), face]) * 1.0
    return (points + np.array([*corner, 0.0])).astype(np.float32)


def example(model: Tokenizer, points: np.ndarray, seed: int) -> Example:
    rng = np.random.default_rng(seed)
    chosen = points[rng.permutation(len(points))[:512]]
    depth = np.linalg.norm(chosen, axis=1).astype(np.float32)
    direction = (chosen / depth[:, None]).astype(np.float32)
    return Example(points, model.grid.occupancy(points), np.zeros_like(direction), direction, depth, np.ones(512, dtype=bool),
                   rng.random(512, dtype=np.float32), "box")


def test_a_box_in_a_corner_of_a_wide_region_is_learned_and_comes_back_there() -> None:
    torch.manual_seed(0)
    config = wide(preset("tiny"))
    module = TrainingModule(dataclasses.replace(config, training=dataclasses.replace(config.training, learning_rate=3e-3)))
    model = module.tokenizer
    corner = (15.0, -6.0)
    points = box(corner)
    # Seen from the sensor at the origin, only the near faces return.
    points = points[(points[:, 0] < 14.01) | (points[:, 1] > -5.01)]
    first = last = 0.0
    for step in range(80):
        losses, = module.losses([example(model, points, step)])
        module.optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        module.optimizer.step()
        last = losses.depth_l1.item()
        first = first or last
    assert last < 0.5 < first, "the depth error must fall below half a metre"
    with TorchRunner(model.eval(), "test") as runner:
        tokens = runner.encode(points)
        pattern = SphericalPattern(rows=32, columns=512, elevation_min_deg=-20, elevation_max_deg=20)
        rays = pattern.rays(np.zeros(3, dtype=np.float32))
        rendering = runner.decode(tokens, rays)
    met = np.isfinite(rendering.depth_m)
    found = rays.origins_m[met] + rendering.depth_m[met, None] * rays.directions[met]
    assert len(found) > 20
    assert np.abs(np.median(found, axis=0)[:2] - [14.0, -5.5]).max() < 1.5
    assert (np.abs(found[:, :2] - corner) < 3).all(axis=1).mean() > 0.95


def test_tokens_change_where_the_points_are_and_rows_are_y() -> None:
    model = random_model(wide(preset("tiny")))
    with TorchRunner(model, "test") as runner:
        assert model.grid.tokens_HW == (16, 32)
        base = box((-15.0, 0.0), seed=1)
        before, after = runner.encode(base), runner.encode(np.concatenate([base, box((15.0, -6.0))]))
    rows, columns = np.nonzero(before != after)
    # (15, -6) is row (-6 + 10) / 1.25 = 3.2, column (15 + 20) / 1.25 = 28. Two shifted windows of 8 reach 12 cells.
    assert len(rows) and columns.min() >= 28 - 13 and (3, 28) in set(zip(rows.tolist(), columns.tolist(), strict=True))


def test_shuffling_the_points_changes_no_token() -> None:
    model = random_model()
    points = np.concatenate([box((3.0, 2.0)), box((-4.0, -5.0), seed=3)])
    with TorchRunner(model, "test") as runner:
        tokens = runner.encode(points)
        assert len(np.unique(tokens)) > 3
        for seed in range(3):
            assert np.array_equal(tokens, runner.encode(points[np.random.default_rng(seed).permutation(len(points))]))


def test_tokens_from_disk_decode_to_the_same_bits(tmp_path: Path) -> None:
    model = random_model()
    save_weights(tmp_path / "tiny.safetensors", model)
    pattern = SphericalPattern(rows=16, columns=64, elevation_min_deg=-20, elevation_max_deg=20)
    rays = pattern.rays(np.zeros(3, dtype=np.float32))
    mask = np.ones(model.grid.mask_cells_YXZ, dtype=bool)
    with torch_runner(tmp_path / "tiny.safetensors") as runner:
        tokens = runner.encode(box((3.0, 2.0)))
        now = runner.decode_with_mask(tokens, rays, mask)
        save_tokens(tmp_path / "tokens.npz", tokens, runner.model_id, runner.config)
    with torch_runner(tmp_path / "tiny.safetensors") as other:
        later = other.decode_with_mask(load_tokens(tmp_path / "tokens.npz").tokens, rays, mask)
    assert np.isfinite(now.depth_m).any()
    for mine, theirs in zip(now[:-1], later[:-1], strict=True):  # the last are returns, which nobody asked for
        assert mine.tobytes() == theirs.tobytes()


def test_latent_of_the_encoder_decodes_like_its_tokens() -> None:
    model = random_model()
    with torch.no_grad():
        latent = model.encode_latent(model.encode_patches(model.voxelize(box((3.0, 2.0)))))
        quantized, code = model.quantize(latent, *torch.zeros(2, *model.grid.tokens_HW, dtype=torch.bool))
        assert torch.equal(code, model.look_up(quantized.token_N.view(model.grid.tokens_HW)))


def test_shifted_windows_do_not_mix_cells_that_were_far_apart() -> None:
    torch.manual_seed(0)
    block = SwinBlock(8, 2, window=4, shift=2, mlp_ratio=2.0, shape_HW=(8, 8)).eval()
    map_HWC = torch.randn(8, 8, 8, requires_grad=True)
    gradient, = torch.autograd.grad(block(map_HWC)[0, 0].sum(), map_HWC)
    reached = gradient.abs().sum(dim=2) > 1e-12
    # The corner's shifted window holds rows and columns 0 and 1 only; after the roll it lies beside 6 and 7, masked.
    assert reached[:2, :2].all() and reached.sum() == 4


@pytest.mark.parametrize(("points", "words"), [
    (np.zeros((0, 3), dtype=np.float32), ["at least one point", "empty"]),
    (np.full((5, 3), np.nan, dtype=np.float32), ["finite", "5 of 5"]),
    (np.zeros((4,), dtype=np.float32), ["(N, 3)", "(4,)"]),
])
def test_clouds_that_cannot_be_encoded_are_refused(points: np.ndarray, words: list[str]) -> None:
    with TorchRunner(random_model(), "test") as runner, pytest.raises(ValueError) as refusal:
        runner.encode(points)
    assert all(word in str(refusal.value) for word in words)


def test_tokens_that_do_not_fit_are_refused() -> None:
    nothing = Rays(np.zeros((0, 3), dtype=np.float32), np.zeros((0, 3), dtype=np.float32))
    with TorchRunner(random_model(), "test") as runner:
        with pytest.raises(ValueError, match=r"shape \(16, 16\).*got \(3, 4\)"):
            runner.decode(np.zeros((3, 4), dtype=np.uint16), nothing)
        with pytest.raises(ValueError, match="below 64.*got 64"):
            runner.decode(np.full((16, 16), 64, dtype=np.uint16), nothing)


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, random_model())
    with pytest.raises(ValueError, match="tiny.safetensors.*expected weights of preset 'mini', got 'tiny'"):
        load_weights(path, preset("mini"))


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, random_model())
    whole = path.read_bytes()
    for content in (b"", b"not weights", whole[:1000], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="w.safetensors"):
            load_weights(path)
    with pytest.raises(ValueError, match="expected a weights file, there is none"):
        load_weights(tmp_path / "missing.safetensors")


def test_weights_with_missing_or_broken_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, random_model())
    tensors = load_file(path)
    with safe_open(path, framework="np") as file:
        header = {key: value for key, value in file.metadata().items() if key != "content_sha256"}  # as an older file, which has none
    bias = tensors.pop("encoder.merge.bias")
    save_file(tensors, path, header)
    with pytest.raises(ValueError, match=r"encoder.merge.bias: expected \(32,\), got nothing"):
        load_weights(path)
    save_file({**tensors, "encoder.merge.bias": bias * float("nan")}, path, header)
    with pytest.raises(ValueError, match="encoder.merge.bias holds NaN"):
        load_weights(path)
    save_file({**tensors, "encoder.merge.bias": bias}, path, {**header, "format_version": "9"})
    with pytest.raises(ValueError, match="version 1, got 'copilot4d-weights' version 9"):
        load_weights(path)
