# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The dense networks in kernels against their slow twins in torch, and their arithmetic against the standard library."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import warp as wp

from copilot4d_core.config import Config, QuantizerKind, preset
from copilot4d_core.deploy.kernel_networks import DecoderKernels, EncoderKernels, obstacle
from copilot4d_core.deploy.kernel_runner import KernelRunner
from copilot4d_core.deploy.torch_reference import TorchReference
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.dense_networks import Mode, NetworkMemory
from copilot4d_core.kernels.launch import launch_rows
from copilot4d_core.kernels.swin_block import LABELS, BlockWeights, swin_block
from copilot4d_core.kernels.vectors import VECTORS, WIDEST, packed
from copilot4d_core.model_file import Model, random_model
from copilot4d_core.positions import sincos_positions
from copilot4d_core.tokenizer import swin_transformer


def lively(config: Config) -> Model:
    """Random weights none of which is 0 or 1, as the norms and biases of `random_model` are."""
    model, random = random_model(config), np.random.default_rng(1)
    tensors = {name: array + np.float32(0.1) * random.normal(size=array.shape).astype(np.float32) for name, array in model.tensors.items()}
    return model._replace(tensors=tensors)


@wp.func_native(VECTORS + "store(gelu_x.data + 16 * i, gelu(load(x.data + 16 * i))); store(exp_x.data + 16 * i, exponential(load(x.data + 16 * i)));")
def evaluate(i: int, x: wp.array(dtype=wp.float32), gelu_x: wp.array(dtype=wp.float32), exp_x: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
    ...


@wp.kernel(module="unique", **WIDEST)
def evaluate_kernel(first: int, x: wp.array(dtype=wp.float32), gelu_x: wp.array(dtype=wp.float32), exp_x: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
    evaluate(first + wp.tid(), x, gelu_x, exp_x)  # type: ignore[arg-type]


def test_gelu_and_exponential_are_those_of_the_standard_library() -> None:
    x = np.concatenate([np.linspace(-20, 20, 4000), np.linspace(-80, 0, 1600)]).astype(np.float32)
    found = [np.empty_like(x) for _ in range(2)]
    launch_rows(evaluate_kernel, len(x) // 16, [wp.array(array, dtype=wp.float32, device="cpu", copy=False) for array in (x, *found)])
    gelu = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)])
    assert np.abs(found[0] - gelu).max() < 2e-6  # a float32 of 20 has steps of 1.9e-6
    within = x >= -60
    exact = np.exp(x.astype(float))
    assert (np.abs(found[1] - exact) / exact)[within].max() < 4e-7
    assert 0 < found[1][~within].max() < 1e-26  # of a masked cell: nothing beside 1, and no denormal number


def test_gelu_of_large_numbers_is_the_number_or_nothing() -> None:
    x = np.geomspace(6, 1e6, 16).astype(np.float32)
    found = [np.empty_like(x) for _ in range(2)]
    for sign in (1, -1):
        launch_rows(evaluate_kernel, 1, [wp.array(array, dtype=wp.float32, device="cpu", copy=False) for array in (sign * x, *found)])
        assert (np.abs(found[0] - (x if sign > 0 else 0)) <= 2e-7 * x).all()


@pytest.mark.parametrize(("shape_HW", "shift"), [((16, 32), 0), ((16, 32), 4), ((32, 16), 4)])
def test_a_swin_block_is_that_of_torch(shape_HW: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    block = swin_transformer.SwinBlock(32, 4, 8, shift, 3.0, shape_HW)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
        x = torch.randn(*shape_HW, 32)
        expected = block(x).numpy()
    weights = BlockWeights(*(block.state_dict()[label].numpy() for label in LABELS))
    assert np.abs(swin_block(x.numpy(), weights, block.shape, shift) - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "codebook_dim"), [(QuantizerKind.VQ, 8), (QuantizerKind.VQ, 72), (QuantizerKind.COSINE, 16)])
def test_both_networks_are_those_of_torch(kind: QuantizerKind, codebook_dim: int) -> None:
    settings = preset("tiny")
    codes = replace(settings.quantizer, kind=kind, codebook_dim=codebook_dim)
    model = lively(replace(settings, quantizer=codes))
    reference, grid = TorchReference(model), Grid(model.config)
    patches = np.random.default_rng(2).normal(size=(*grid.patches_HW, model.config.swin.dims[0])).astype(np.float32)
    expected, gap = reference.tokens(patches)
    tokens = EncoderKernels(model)(patches)
    assert tokens.shape == grid.tokens_HW and tokens.dtype == np.uint16 and len(np.unique(expected)) > 5
    assert (tokens == expected)[gap > 1e-4].all() and (gap > 1e-4).mean() > 0.9
    features, skip = DecoderKernels(model)(tokens)
    wanted_features, wanted_skip = reference.decoded(tokens)
    assert np.abs(features - wanted_features).max() < 1e-4 and np.abs(skip - wanted_skip).max() < 1e-4
    assert np.ptp(wanted_skip) > 0.1


def wide_region(blank_token: bool = False) -> Model:
    """A small model whose maps have many windows."""
    settings = preset("tiny")
    region = replace(settings.grid, x_min_m=-40.0, x_max_m=40.0, y_min_m=-40.0, y_max_m=40.0)
    return lively(replace(settings, grid=region, quantizer=replace(settings.quantizer, blank_token=blank_token)))


def spoil(memory: NetworkMemory, values: int) -> None:
    """What a frame before may have left in the maps."""
    memory.maps.numpy()[:values] = 3.0
    memory.flags.zero_()


@pytest.mark.parametrize("blank_token", [False, True])
@pytest.mark.parametrize("occupied", [0, 1, 3, 40])
def test_windows_without_a_point_are_what_computing_them_gives(occupied: int, blank_token: bool) -> None:
    model, rng = wide_region(blank_token), np.random.default_rng(occupied)
    grid, encoder = Grid(model.config), EncoderKernels(model)
    patches = np.tile(model.tensors["patch_embedding.bias"], (*grid.patches_HW, 1)).astype(np.float32)
    places = rng.integers(0, grid.patches_HW[0] // 3, (occupied, 2))  # in a corner
    patches[places[:, 0], places[:, 1]] += rng.normal(size=(occupied, patches.shape[2])).astype(np.float32)
    found = []
    for mode in (Mode.ALL, Mode.SKIP_BLANK):
        spoil(encoder._memory, patches.size)
        tokens = encoder._run(patches, mode)
        found.append((tokens.ravel(), encoder._memory.token_map().copy(), encoder._memory.reached().copy()))
    (all_tokens, all_latents, everywhere), (tokens, latents, reached) = found
    assert everywhere.all() and (not reached.any() if occupied == 0 else 0 < reached.mean() <= 0.5)
    assert np.array_equal(tokens, all_tokens)
    # With a token of their own, nobody asks for the latents of blank cells.
    compared = tokens != 0 if blank_token else np.ones(len(tokens), dtype=bool)
    assert np.array_equal(latents[compared], all_latents[compared])
    assert np.array_equal(latents, all_latents) != (blank_token and occupied > 0)


@pytest.mark.parametrize("others", [0, 1, 3, 40])
def test_windows_of_token_0_alone_are_what_computing_them_gives(others: int) -> None:
    model, rng = wide_region(), np.random.default_rng(others)
    grid, decoder = Grid(model.config), DecoderKernels(model)
    tokens = np.zeros(grid.tokens_HW, dtype=np.uint16)
    places = rng.integers(0, grid.tokens_HW[0] // 3, (others, 2))  # in a corner
    tokens[places[:, 0], places[:, 1]] = rng.integers(1, 64, others)
    spoil(decoder._memory, int(np.prod(grid.patches_HW)) * model.config.swin.dims[0])
    features, skip = (array.copy() for array in decoder(tokens))
    reached = decoder._memory.reached()
    assert not reached.any() if others == 0 else 0 < reached.mean() <= 0.5
    wanted_features, wanted_skip = TorchReference(model).decoded(tokens)
    assert np.abs(features - wanted_features).max() < 1e-4 and np.abs(skip - wanted_skip).max() < 1e-4
    everything = decoder._run(tokens, Mode.ALL)
    assert np.array_equal(everything[0], features) and np.array_equal(everything[1], skip)
    assert decoder._memory.reached().all()


def test_of_codes_that_tie_the_first_is_chosen() -> None:
    model = lively(preset("tiny"))
    codebook = model.tensors["quantizer.codebook"]
    codebook[:] = np.tile(codebook[:16], (4, 1))
    patches = np.random.default_rng(2).normal(size=(*Grid(model.config).patches_HW, model.config.swin.dims[0])).astype(np.float32)
    assert EncoderKernels(model)(patches).max() < 16


def test_a_matrix_is_packed_sixteen_columns_after_sixteen() -> None:
    matrix = np.arange(3 * 32, dtype=np.float32).reshape(3, 32)
    assert packed(matrix).tolist() == [*range(0, 16), *range(32, 48), *range(64, 80), *range(16, 32), *range(48, 64), *range(80, 96)]


def test_positions_are_those_of_training() -> None:
    assert np.abs(sincos_positions(8, 16, 32) - swin_transformer.sincos_positions(8, 16, 32).numpy()).max() < 1e-6


def test_models_without_kernels_say_why() -> None:
    settings = preset("tiny")
    assert obstacle(random_model(replace(settings, swin=replace(settings.swin, dims=(24, 32))))) == (
        "swin.dims: expected multiples of 16, got 24, 32, which have no kernel; choose onnx")
    with pytest.raises(ValueError, match="runner kernels: quantizer.codebook_size: expected multiples of 16, got 40"):
        KernelRunner(random_model(replace(settings, quantizer=replace(settings.quantizer, codebook_size=40))))
