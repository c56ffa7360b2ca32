# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every kernel against its slow twin, and the laws they must keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import warp as wp
from reference import cells_in_mask, dense_feature_grid, mask_runs, query_dense, ray_median, render_dense, sample_distances, slots_of, voxel_lists

from copilot4d_core.config import preset
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import KernelWeights, kernel_weights
from copilot4d_core.deploy.torch_runner import TorchRunner
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.interpolation import corners, interpolate, interpolate_backward
from copilot4d_core.kernels.launch import CPU_MEMORY
from copilot4d_core.kernels.pillar_blocks import PillarBlocks
from copilot4d_core.kernels.pillar_features import PillarFeatures, PillarWeights
from copilot4d_core.kernels.ray_samples import sample_rays
from copilot4d_core.kernels.skip_mask import SkipMask
from copilot4d_core.kernels.voxelize import VoxelBuffers, voxelize, voxelize_into
from copilot4d_core.tokenizer.neural_feature_grid import _Interpolate, _ReadOut
from copilot4d_core.tokenizer.tokenizer import Tokenizer

WEIGHTS_TOLERANCE = 1e-5
"""Float32 sums of a few hundred terms in another order."""
DEPTH_TOLERANCE_M = 1e-4
"""The bar of the ray march against the reference."""


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(preset("tiny"))


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    torch.manual_seed(0)
    result = Tokenizer(preset("tiny")).eval()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return result


def cloud(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 3)) * [5.0, 4.0, 1.0]).astype(np.float32)


def rays(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(count, 3)) * [1.0, 1.0, 0.3]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return rng.uniform(-2, 2, size=(count, 3)).astype(np.float32), direction.astype(np.float32)


def weights_of(model: Tokenizer) -> KernelWeights:
    return kernel_weights({name: tensor.numpy() for name, tensor in model.state_dict().items()})


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_voxelize_lists_what_a_plain_loop_lists(grid: Grid, count: int) -> None:
    points = cloud(count)
    voxels = voxelize(points, grid)
    plain = voxel_lists(points, grid)
    assert len(voxels.voxel_layer_V) == len(plain)
    assert voxels.voxel_start_V1[-1] == sum(map(len, plain.values())) == len(voxels.offset_N3)
    _, columns, _ = grid.voxels_YXZ
    patch = grid.config.grid.patch_voxels
    found = {}
    for cell in range(len(voxels.patch_index_C)):
        for pillar in range(voxels.patch_start_C1[cell], voxels.patch_start_C1[cell + 1]):
            for voxel in range(voxels.pillar_start_P1[pillar], voxels.pillar_start_P1[pillar + 1]):
                row = voxels.patch_index_C[cell] // (columns // patch) * patch + voxels.pillar_slot_P[pillar] // patch
                column = voxels.patch_index_C[cell] % (columns // patch) * patch + voxels.pillar_slot_P[pillar] % patch
                key = (int(row), int(column), int(voxels.voxel_layer_V[voxel]))
                centre = grid.minimum_m + (np.array([column, row, key[2]]) + 0.5) * grid.voxel_size_m
                first, last = voxels.voxel_start_V1[voxel], voxels.voxel_start_V1[voxel + 1]
                found[key] = np.sort(centre + voxels.offset_N3[first:last] * grid.voxel_size_m / 2, axis=0)
    assert found.keys() == plain.keys()
    for key, members in plain.items():
        assert np.abs(found[key] - np.sort(points[members], axis=0)).max() < 1e-5


@pytest.mark.parametrize("name", ["tiny", "mini", "paper"])
def test_the_lists_of_a_cpu_are_those_of_a_gpu_s_kernels(name: str) -> None:
    grid = Grid(preset(name))
    rng = np.random.default_rng(4)
    points = rng.uniform(grid.minimum_m - 1, grid.maximum_m + 1, (5000, 3)).astype(np.float32)
    points[:1000] = grid.minimum_m + rng.integers(0, 200, (1000, 3)) * grid.voxel_size_m  # on the edges of cells
    points[1000] = np.nan
    points[1001:1201] = points[1201:1401]
    for count in (1, 2, 1000, 5000):
        given = wp.array(points, dtype=wp.float32, ndim=2, device="cpu")
        one, other = VoxelBuffers(5000), VoxelBuffers(5000, CPU_MEMORY._replace(may_read=False))
        for buffers in (one, other):
            voxelize_into(buffers, given, count, grid)
        inside, voxels, pillars, patches = other.counts.numpy()
        assert one.counts.numpy().tolist() == [inside, voxels, pillars, patches]
        assert inside == np.count_nonzero(grid.inside(points[:count]))
        for field, length in (("keys", inside), ("order", inside), ("voxel_start", voxels + 1), ("voxel_layer", voxels),
                              ("pillar_start", pillars + 1), ("pillar_slot", pillars), ("patch_start", patches + 1), ("patch_index", patches)):
            assert np.array_equal(getattr(one, field).numpy()[:length], getattr(other, field).numpy()[:length]), field


@pytest.mark.parametrize("norm", [1, 200])  # with large values few points fit 32 bits together
@pytest.mark.parametrize("dims", [(16, 32, 48), (32, 16, 16)])
def test_blocks_of_a_cpu_give_what_the_kernels_of_a_gpu_give(dims: tuple[int, int, int], norm: int) -> None:
    grid, rng, (point, pillar, patch) = Grid(preset("mini")), np.random.default_rng(6), dims
    layers, slots = grid.voxels_YXZ[2], grid.config.grid.patch_voxels ** 2

    def some(*shape: int) -> np.ndarray:
        return rng.normal(0.3, 0.5, shape).astype(np.float32)

    vectors = some(3, point) * np.float32([[1], [norm], [1]])
    weights = PillarWeights(some(3, point), vectors, some(point, point), some(3, point), some(point, pillar), some(layers, pillar),
                            some(2, pillar), some(pillar, pillar), some(3, pillar), some(slots, pillar, patch), some(patch))
    one_voxel = rng.uniform([5.01, 5.01, 0.01], [5.3, 5.3, 0.13], (1000, 3))
    points = np.concatenate([rng.uniform(-40, 40, (3000, 3)), rng.normal(0, [2, 2, 0.5], (9000, 3)), one_voxel]).astype(np.float32)
    buffers = VoxelBuffers(len(points))
    blocks, features = PillarBlocks(weights, grid, len(points)), PillarFeatures(weights, grid, len(points))
    wanted = wp.zeros(grid.patches_HW[0] * grid.patches_HW[1], dtype=features.patch_type, device="cpu")
    for first, count in ((0, len(points)), (3000, 7), (0, 0), (5, 1), (3000, 9000), (0, 3000)):  # nothing is left of a scan before
        given = wp.array(points[first:], dtype=wp.float32, ndim=2, device="cpu")
        if count:
            voxelize_into(buffers, given, count, grid)
        features(given, buffers, count, wanted)
        found = blocks(given, count).reshape(-1, patch)
        assert np.abs(found - wanted.numpy()).max() < 1e-4 * np.abs(wanted.numpy()).max(), count
    assert np.ptp(found, axis=0).min() > 1 and not found.flags.writeable
    outside = wp.array(np.full((3, 3), [[500], [np.nan], [-500]], dtype=np.float32), dtype=wp.float32, ndim=2, device="cpu")
    assert (blocks(outside, 3) == weights.patch_bias).all()
    mixed = np.random.default_rng(7).permutation(points)
    one, other = (blocks(wp.array(order, dtype=wp.float32, ndim=2, device="cpu"), len(order)).copy() for order in (points, mixed))
    assert np.array_equal(one, other), "the same bits for any order of the points"


def test_points_outside_and_not_finite_are_left_out(grid: Grid) -> None:
    edge = np.array([[10.0, 0, 0], [-10.0, 0, 0], [0, 0, 2.25], [np.nan, 0, 0], [np.inf, 0, 0]], dtype=np.float32)
    # The region is half-open: x = 10 and z = 2.25 are outside, x = -10 is inside.
    assert len(voxelize(edge, grid).offset_N3) == 1


def test_upper_edge_is_clamped_into_the_last_cell() -> None:
    grid = Grid(preset("paper"))
    point = np.array([[np.nextafter(np.float32(80), np.float32(0)), 0.0, 0.0]], dtype=np.float32)
    assert grid.inside(point).all()
    assert grid.voxel_index(point)[0].tolist() == [512, 1023, 32]
    voxels = voxelize(point, grid)
    assert voxels.patch_index_C.tolist() == [128 * 256 + 255]


def test_pillar_features_equal_torch_and_ignore_the_order_of_points(model: Tokenizer) -> None:
    points = cloud(3000)
    stages = CpuStages(weights_of(model), model.config)
    fast = stages.patch_map(points).copy()
    with torch.no_grad():
        plain = model.encode_patches(voxelize(points, model.grid)).numpy()
    assert np.abs(fast - plain).max() < WEIGHTS_TOLERANCE
    shuffled = points[np.random.default_rng(5).permutation(len(points))]
    assert np.array_equal(fast, stages.patch_map(shuffled))


def test_pillar_features_of_no_point_is_the_bias_everywhere(model: Tokenizer) -> None:
    stages = CpuStages(weights_of(model), model.config)
    bias = model.patch_embedding.bias.detach().numpy()
    stages.patch_map(cloud(3000))
    for points in (np.zeros((0, 3), dtype=np.float32), np.full((5, 3), 99.0, dtype=np.float32)):  # none, and none inside
        assert np.array_equal(stages.patch_map(points), np.broadcast_to(bias, (*model.grid.patches_HW, len(bias))))


def test_a_scan_larger_than_the_memory_gives_the_same_map(model: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy, points = CpuStages(weights_of(model), model.config), cloud(3000)
    monkeypatch.setattr("copilot4d_core.deploy.cpu_stages.FIRST_CAPACITY", 10)
    small = CpuStages(weights_of(model), model.config)
    small.patch_map(points[:8])
    assert np.array_equal(small.patch_map(points), roomy.patch_map(points))
    assert np.array_equal(small.patch_map(points[:8]), roomy.patch_map(points[:8]))


def test_samples_fill_the_runs_that_small_steps_find(grid: Grid) -> None:
    mask = grid.pool_mask(grid.occupancy(cloud(300)))
    origin, direction = rays(40)
    samples = sample_rays(origin, direction, mask, grid, np.full(40, 0.5, dtype=np.float32))
    assert samples.count_R.max() > 10
    for i in range(40):
        # Cell corners clipped by less than a millimetre may be seen by one and not by the other.
        runs = [(a, b) for a, b in mask_runs(origin[i], direction[i], mask, grid) if b - a > 5e-3]
        expected = []
        for begin, end in runs:
            number = max(1, int(np.ceil((end - begin - 2e-3) / grid.config.rendering.step_m)))
            expected += [begin + (k + 0.5) * (end - begin) / number for k in range(number)]
        got = samples.distance_RS[i, : samples.count_R[i]]
        assert (np.diff(got) > 0).all()
        for distance in expected:
            assert np.abs(got - distance).min() < grid.config.rendering.step_m / 2


def test_samples_equal_those_of_the_torch_twin(grid: Grid) -> None:
    mask = grid.pool_mask(grid.occupancy(cloud(300)))
    origin, direction = rays(2000)
    fast = sample_rays(origin, direction, mask, grid, np.full(2000, 0.5, dtype=np.float32))
    distance, count = sample_distances(torch.from_numpy(origin).double(), torch.from_numpy(direction).double(), torch.from_numpy(mask), grid)
    assert (fast.count_R == count.numpy()).all()
    assert np.abs(fast.distance_RS - distance.numpy()).max() < 2e-6  # of up to 28 m in float32


def test_a_ray_that_misses_the_region_or_the_mask_has_no_sample(grid: Grid) -> None:
    mask = np.ones(grid.mask_cells_YXZ, dtype=bool)
    origin = np.array([[0, 0, 50.0], [0, 0, 0]], dtype=np.float32)
    direction = np.array([[1.0, 0, 0], [1.0, 0, 0]], dtype=np.float32)
    half = np.full(2, 0.5, dtype=np.float32)
    assert sample_rays(origin, direction, mask, grid, half).count_R.tolist() == [0, 40]  # 10 m in steps of 0.25 m
    assert sample_rays(origin, direction, ~mask, grid, half).count_R.tolist() == [0, 0]


def test_value_at_a_cell_centre_is_the_cell_and_a_linear_field_is_kept(grid: Grid) -> None:
    rows, columns, layers = grid.feature_cells_YXZ
    y, x, z = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(layers), indexing="ij")
    centre = grid.minimum_m + (np.stack([x, y, z], -1) + 0.5) * grid.feature_cell_size_m
    per_patch, patches = grid.config.grid.feature_cells_per_patch, (rows // 2) * (columns // 2)
    cell = ((y % per_patch) * per_patch + x % per_patch) * layers + z
    field = np.empty((rows * columns * layers, 3), dtype=np.float64)
    field[(cell * patches + (y // per_patch) * (columns // per_patch) + x // per_patch).ravel()] = centre.reshape(-1, 3)
    rng = np.random.default_rng(0)
    inner = rng.uniform(grid.minimum_m + grid.feature_cell_size_m, grid.maximum_m - grid.feature_cell_size_m, size=(500, 3)).astype(np.float32)
    some = centre.reshape(-1, 3)[rng.permutation(rows * columns * layers)[:200]].astype(np.float32)
    for position in (inner, some):
        around = corners(position, grid)
        got = interpolate(field, around.cell_M8.astype(np.int32), around.weight_M8.astype(np.float64))
        assert np.abs(got - position).max() < 1e-5


def test_query_equals_grid_sample_of_the_dense_grid(model: Tokenizer) -> None:
    feature = torch.randn(*model.grid.patches_HW, model.config.swin.dims[0], generator=torch.Generator().manual_seed(0))
    position = np.random.default_rng(2).uniform(model.grid.minimum_m, model.grid.maximum_m, size=(400, 3)).astype(np.float32)
    with torch.no_grad():
        lazy = model.feature_grid.query(feature, position)
        dense = query_dense(dense_feature_grid(model, feature), torch.from_numpy(position), model.grid)
    assert (lazy - dense).abs().max() < 1e-4


def test_interpolation_backward_passes_gradcheck_and_equals_scatter_add() -> None:
    rng = np.random.default_rng(3)
    slot = torch.from_numpy(rng.integers(0, 9, size=(5, 8)).astype(np.int32))
    weight = torch.from_numpy(rng.random((5, 8)))
    features = torch.from_numpy(rng.normal(size=(9, 11))).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: _Interpolate.apply(f, slot, weight), (features,))
    gradient = rng.normal(size=(5, 11))
    plain = np.zeros((9, 11))
    np.add.at(plain, slot.numpy().ravel(), (gradient[:, None] * weight.numpy()[..., None]).reshape(-1, 11))
    assert np.allclose(interpolate_backward(gradient, slot.numpy(), weight.numpy(), 9), plain)


def test_read_out_backward_equals_autograd() -> None:
    generator = torch.Generator().manual_seed(4)
    feature, weight, bias = (torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((6, 4), (3, 2, 4), (3, 2)))
    row = torch.tensor([0, 0, 2, 2, 2])
    patch = torch.tensor([1, 5, 0, 1, 1])
    upstream = torch.randn(5, 2, generator=generator)
    plain = torch.einsum("uc,udc->ud", feature[patch], weight[row]) + bias[row]
    expected = torch.autograd.grad((plain * upstream).sum(), (feature, weight, bias))
    fast = _ReadOut.apply(feature, weight, bias, [(0, 0, 2), (2, 2, 5)], patch)
    assert torch.allclose(fast, plain)
    for mine, theirs in zip(torch.autograd.grad((fast * upstream).sum(), (feature, weight, bias)), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_gradient_of_the_whole_rendering_equals_the_dense_reference(model: Tokenizer) -> None:
    origin, direction = rays(50)
    mask = model.grid.pool_mask(model.grid.occupancy(cloud(500)))
    feature = torch.randn(*model.grid.patches_HW, model.config.swin.dims[0], generator=torch.Generator().manual_seed(6), requires_grad=True)
    jitter = np.random.default_rng(7).random(50, dtype=np.float32)
    fast = model.feature_grid.render(feature, mask, origin, direction, jitter)
    samples = sample_rays(origin, direction, mask, model.grid, jitter)
    valid = torch.arange(samples.distance_RS.shape[1]) < torch.from_numpy(samples.count_R)[:, None]
    slow = render_dense(model, feature, fast.distance_RS, valid, torch.from_numpy(origin), torch.from_numpy(direction))
    assert (fast.depth_R - slow.depth).abs().max() < DEPTH_TOLERANCE_M
    parameters = [feature, *model.feature_grid.parameters()]
    upstream = torch.randn(50, generator=torch.Generator().manual_seed(8))
    mine = torch.autograd.grad((fast.depth_R * upstream).sum(), parameters)
    theirs = torch.autograd.grad((slow.depth * upstream).sum(), parameters)
    for a, b in zip(mine, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, b.abs().max().item())


def unpacked(mask: SkipMask) -> np.ndarray:
    """(Y, X, Z) bool."""
    layers = np.arange(mask.grid.mask_cells_YXZ[2])
    return (mask.bits.numpy()[:, :, layers // 32] >> (layers % 32).astype(np.uint32) & 1).astype(bool)


def test_read_out_lists_the_mask_with_its_rim_and_equals_the_dense_grid(model: Tokenizer) -> None:
    grid = model.grid
    mask = grid.pool_mask(grid.occupancy(cloud(200)))
    feature = torch.randn(*grid.patches_HW, model.config.swin.dims[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normed = model.feature_grid.norm(feature).flatten(0, 1).numpy()
        where, cells = SkipMask(grid), FeatureReadout(weights_of(model).readout, grid)
        where.fill(mask)
        cells(wp.array(normed, dtype=wp.float32, ndim=2, device="cpu"), where)
        slot_YXZ, hidden_UH = slots_of(cells), cells.hidden.numpy()
        dense = model.feature_grid.mlp[0](dense_feature_grid(model, feature).permute(2, 3, 1, 0)).numpy()
    expected = cells_in_mask(mask, grid)
    assert np.array_equal(slot_YXZ > 0, expected)
    assert sorted(slot_YXZ[expected].tolist()) == list(range(1, cells.total() + 1))
    assert np.abs(hidden_UH[slot_YXZ[expected]] - dense[expected]).max() < 1e-4


def test_read_out_beyond_its_memory_marks_the_cells_as_missing_and_says_how_many_there_are(model: Tokenizer) -> None:
    """What a GPU does, whose host does not know the number before; on the CPU the memory grows by itself, so growing is switched off."""
    grid = model.grid
    mask = grid.pool_mask(grid.occupancy(cloud(200)))
    features = wp.array(np.random.default_rng(0).normal(size=(grid.patches_HW[0] * grid.patches_HW[1], model.config.swin.dims[0])),
                        dtype=wp.float32, ndim=2, device="cpu")
    where, roomy, small = SkipMask(grid), *(FeatureReadout(weights_of(model).readout, grid, capacity=100) for _ in range(2))
    where.fill(mask)
    roomy(features, where)
    grow, small.grow = small.grow, lambda cells: None
    small(features, where)
    assert small.total() == roomy.total() == cells_in_mask(mask, grid).sum() > 100
    slots = slots_of(small)
    assert slots.max() == 100
    assert np.array_equal(slots[slots > 0], slots_of(roomy)[slots > 0])
    grow(small.total())
    small(features, where)
    assert np.array_equal(slots_of(small), slots_of(roomy))
    assert np.array_equal(small.hidden.numpy()[: small.total() + 1], roomy.hidden.numpy()[: small.total() + 1])


def test_skip_mask_from_logits_is_the_branch_s_own(model: Tokenizer) -> None:
    feature = torch.randn(*model.grid.patches_HW, model.config.swin.dims[0], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, pooled = model.spatial_skip(feature), model.spatial_skip.pooled(feature)
        expected = model.spatial_skip.mask(logits, model.config.spatial_skip.threshold).numpy()
        assert (model.spatial_skip.pooled_logits(logits) - pooled).abs().max() < 1e-6
    where = SkipMask(model.grid)
    where.fill_from_logits(wp.array(pooled.numpy(), dtype=wp.float32, ndim=3, device="cpu"))
    assert 0 < expected.mean() < 1
    assert np.array_equal(unpacked(where), expected)
    where.fill(~expected)
    assert np.array_equal(unpacked(where), ~expected)


def test_rim_covers_every_corner_that_samples_touch(grid: Grid) -> None:
    mask = grid.pool_mask(grid.occupancy(cloud(200)))
    origin, direction = rays(300)
    samples = sample_rays(origin, direction, mask, grid, np.random.default_rng(1).random(300, dtype=np.float32))
    ray, place = np.nonzero(np.arange(samples.distance_RS.shape[1]) < samples.count_R[:, None])
    position = origin[ray] + samples.distance_RS[ray, place][:, None] * direction[ray]
    last = np.array(grid.feature_cells_YXZ)[[1, 0, 2]] - 1
    base = np.minimum(np.clip((position - grid.minimum_m) / grid.feature_cell_size_m - 0.5, 0, last).astype(int), last - 1)
    cells = cells_in_mask(mask, grid)
    for corner in range(8):
        x, y, z = (base + np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])).T
        assert cells[y, x, z].all()


def test_march_equals_the_dense_reference(model: Tokenizer) -> None:
    origin, direction = rays(500)
    mask = model.grid.pool_mask(model.grid.occupancy(cloud(500)))
    tokens = np.random.default_rng(0).integers(0, 64, size=model.grid.tokens_HW).astype(np.uint16)
    from copilot4d_core.data.rays import Rays

    with TorchRunner(model, "test") as runner, torch.no_grad():
        fast = runner.decode_with_mask(tokens, Rays(origin, direction), mask)
        decoded = model.decode(model.look_up(torch.from_numpy(tokens.astype(np.int64))))
        samples = sample_rays(origin, direction, mask, model.grid, np.full(500, 0.5, dtype=np.float32))
        valid = torch.arange(samples.distance_RS.shape[1]) < torch.from_numpy(samples.count_R)[:, None]
        slow = render_dense(model, decoded.feature_HWC, torch.from_numpy(samples.distance_RS), valid, torch.from_numpy(origin),
                            torch.from_numpy(direction))
    assert np.abs(fast.opacity - slow.opacity.numpy()).max() < WEIGHTS_TOLERANCE
    met = slow.opacity.numpy() > model.config.rendering.opacity_threshold + 0.01
    assert met.sum() > 20
    expected = (slow.depth / slow.opacity).numpy()
    assert np.abs(fast.expected_m - expected)[met].max() < DEPTH_TOLERANCE_M
    cumulative = np.cumsum(slow.weights.numpy(), axis=1)
    median = np.array([ray_median(weights[:count], distances[:count]) for weights, distances, count in zip(
        slow.weights.numpy(), samples.distance_RS, samples.count_R, strict=True)])
    # Rounding must decide neither which sample reaches one half nor which lies at the margin.
    apart = np.abs(samples.distance_RS[:, :, None] - samples.distance_RS[:, None]) - 0.41
    sure = met & (np.abs(cumulative - 0.5).min(axis=1) > 1e-4) & (np.abs(apart).min(axis=(1, 2)) > 1e-5)
    assert sure.sum() > 20
    assert np.abs(fast.median_m - median)[sure].max() < DEPTH_TOLERANCE_M
    strongest = samples.distance_RS[np.arange(500), slow.weights.numpy().argmax(axis=1)]
    ordered = np.sort(slow.weights.numpy(), axis=1)
    sure = met & (ordered[:, -1] - ordered[:, -2] > 1e-4)
    assert np.abs(fast.strongest_m - strongest)[sure].max() < DEPTH_TOLERANCE_M
    assert np.isnan(fast.depth_m[slow.opacity.numpy() < model.config.rendering.opacity_threshold - 0.01]).all()
