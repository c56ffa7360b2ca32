# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Settings: presets, strict YAML, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from older_weights import write_older_weights
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from copilot4d_core.config import CodebookUpdate, Config, Estimator, GridConfig, OptimizerKind, QuantizerKind, preset
from copilot4d_core.config_file import _with_newer_keys, config_from_dict, config_from_yaml, dict_from_config
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import read_model, read_tensors
from copilot4d_core.tokenizer.tokenizer import Tokenizer


def test_paper_preset_has_the_shapes_and_the_size_of_the_paper() -> None:
    grid = Grid(preset("paper"))
    assert grid.voxels_YXZ == (1024, 1024, 64)
    assert grid.patches_HW == (256, 256)
    assert grid.tokens_HW == (128, 128)
    assert grid.feature_cells_YXZ == (512, 512, 64)
    assert grid.mask_cells_YXZ == (128, 128, 64)
    # 13.1 million: heads 8, MLP ratio 4, fixed positions, a 1024 x 1024 codebook.
    assert round(Tokenizer(preset("paper")).num_parameters() / 1e6, 1) == 13.1


def test_mini_preset_has_64_by_64_tokens_and_at_most_8_gflop() -> None:
    config = preset("mini")
    grid = Grid(config)
    assert grid.tokens_HW == (64, 64) and grid.token_size_m == (1.25, 1.25)
    assert (grid.minimum_m[:2] == -40).all() and (grid.maximum_m[:2] == 40).all()
    model = Tokenizer(config).eval()
    patches = torch.zeros(*grid.patches_HW, config.swin.dims[0])
    cells, wide, quantizer = 64 * 64, config.swin.dims[1], config.quantizer
    # The plain attention, so that its two products are counted, too. As runners do it: the linear maps beside the codes are multiplied into them.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        rows = model.pre_quantizer[:2](model.encoder(patches)).flatten(0, 1)
        rows @ torch.zeros(wide, quantizer.codebook_size)
        model.decode(torch.zeros(64, 64, quantizer.codebook_dim))
    assert rows.shape == (cells, wide)
    assert 6e9 < counter.get_total_flops() - 2 * cells * wide * quantizer.codebook_dim <= 8e9


@pytest.mark.parametrize("name", ["paper", "mini", "tiny"])
def test_settings_survive_a_dictionary(name: str) -> None:
    assert config_from_dict(dict_from_config(preset(name))) == preset(name)


def test_yaml_names_a_kind_and_its_levels() -> None:
    quantizer = config_from_yaml("preset: mini\nquantizer: {kind: fsq, levels: [8, 5, 5, 5], codebook_size: 1000, codebook_dim: 4}").quantizer
    assert quantizer.kind is QuantizerKind.FSQ and quantizer.levels == (8, 5, 5, 5)


def test_yaml_overrides_a_preset() -> None:
    config = config_from_yaml("preset: tiny\nquantizer: {update: gradient, codebook_dim: 4}\nswin: {dims: [8, 16]}\n")
    assert config.quantizer.update is CodebookUpdate.GRADIENT
    assert config.swin.dims == (8, 16)
    assert config.grid == preset("tiny").grid


@pytest.mark.parametrize(("text", "words"), [
    ("preset: huge", ["mini", "paper", "tiny", "'huge'"]),
    ("quantiser: {}", ["unknown key 'quantiser'", "quantizer"]),
    ("quantizer: {codebok_dim: 4}", ["unknown key 'quantizer.codebok_dim'", "codebook_dim"]),
    ("quantizer: {codebook_dim: four}", ["quantizer.codebook_dim", "int", "'four'"]),
    ("quantizer: {codebook_dim: 4.5}", ["quantizer.codebook_dim", "int", "4.5"]),
    ("quantizer: {codebook_dim: true}", ["quantizer.codebook_dim", "int", "True"]),
    ("quantizer: {update: magic}", ["ema", "gradient", "'magic'"]),
    ("quantizer: {kind: magic}", ["vq", "residual", "'magic'"]),
    ("quantizer: {levels: [8, five]}", ["quantizer.levels", "'five'"]),
    ("quantizer: {levels: 8}", ["quantizer.levels", "8"]),
    ("quantizer: 3", ["quantizer", "section", "3"]),
    ("training: {render_predicted_mask: 1}", ["render_predicted_mask", "bool", "1"]),
    ("rendering: {step_m: .nan}", ["rendering.step_m", "nan"]),
    ("swin: {dims: [1, 2, 3]}", ["swin.dims", "[1, 2, 3]"]),
    ("- 1", ["mapping", "list"]),
    ("a: [", ["YAML"]),
])
def test_yaml_refusals_name_the_key_and_what_came(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as refusal:
        config_from_yaml(text)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(("changes", "word"), [
    ({"x_min_m": 5.0, "x_max_m": -5.0}, "min < max"), ({"voxel_x_m": 0.3}, "whole number"), ({"voxel_z_m": -1.0}, "voxel above 0"),
    ({"x_max_m": 80.15625}, "do not divide into tokens"),
])
def test_grids_that_do_not_fit_are_refused(changes: dict[str, float], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        GridConfig(**changes)  # type: ignore[arg-type]


def test_regions_that_do_not_fill_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of 8"):
        Config(grid=dataclasses.replace(GridConfig(), x_max_m=81.25, x_min_m=-80.0))


def test_weights_that_are_older_than_some_keys_mean_what_they_meant(tmp_path: Path) -> None:
    without = write_older_weights(tmp_path / "older.safetensors", PACKAGED_WEIGHTS)
    assert {"quantizer.kind", "quantizer.estimator", "spatial_skip.enabled", "training.optimizer"} <= set(without)
    tensors, header = read_tensors(tmp_path / "older.safetensors")
    assert "kind" not in header["config"]["quantizer"] and "enabled" not in header["config"]["spatial_skip"]
    model = read_model(tmp_path / "older.safetensors")
    quantizer = model.config.quantizer
    assert model.model_id.startswith("mini-") and tensors["quantizer.codebook"].shape == (1024, 128)
    assert (quantizer.kind, quantizer.levels, quantizer.estimator) == (QuantizerKind.VQ, (), Estimator.STRAIGHT_THROUGH)
    assert quantizer.kmeans_bank is model.config.spatial_skip.enabled is True
    assert model.config.training.optimizer is OptimizerKind.ADAMW


def test_a_key_that_a_file_lacks_is_what_it_was_before_and_not_the_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Section:
        old: int = 1
        new: int = dataclasses.field(default=2, metadata={"before": 7})

    @dataclasses.dataclass(frozen=True)
    class Whole:
        section: Section = dataclasses.field(default_factory=Section)

    assert _with_newer_keys(Whole(), {"section": {"old": 5}}) == {"section": {"old": 5, "new": 7}}
    assert _with_newer_keys(Whole(), {"section": {"new": 3}}) == {"section": {"new": 3}}, "`old` was always there: it is missed"
    assert _with_newer_keys(Whole(), {}) == {}


def test_without_the_spatial_skip_a_ray_must_reach_the_far_side() -> None:
    # tiny: 20 x 20 x 4.5 m, diagonal 28.64 m, 115 steps of 0.25 m.
    text = "preset: tiny\nspatial_skip: {enabled: false}\nrendering: {max_samples: %d}"
    assert not config_from_yaml(text % 115).spatial_skip.enabled
    with pytest.raises(ValueError, match="takes 115 samples, got 114; set rendering.max_samples to 115"):
        config_from_yaml(text % 114)


def test_dictionary_of_another_version_is_refused() -> None:
    tree = dict_from_config(preset("mini"))
    del tree["rendering"]["step_m"]
    with pytest.raises(ValueError, match="rendering.step_m"):
        config_from_dict(tree)
