# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Bytes, operations and counts of the benchmark: worked by hand, or counted by another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from reference import cells_in_mask, sample_distances, voxel_lists

from copilot4d_core.benchmark.core_benchmark import predicted_mask
from copilot4d_core.benchmark.estimate import DEVICES, PUBLISHED, estimate_tree, estimated_ms
from copilot4d_core.benchmark.frame_counts import frame_counts, listed_cells, model_sizes
from copilot4d_core.benchmark.frames import pattern_rays, resampled
from copilot4d_core.benchmark.machine_rates import MachineRates, measure_rates
from copilot4d_core.benchmark.onnx_operations import NetworkWork, network_work
from copilot4d_core.benchmark.work import Counts, Sizes, Work, floor_ms, floors_ms, network_stage_work, render_work, stage_work, voxelize_work
from copilot4d_core.config import preset
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.exported_model import export_model
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import random_model

COUNTS = Counts(points=5, inside=4, voxels=3, pillars=2, patches=1, mask_cells=8, listed_cells=6, rays=2, samples=3)
SIZES = Sizes(point=2, pillar=3, patch=4, hidden=5, patch_cells=16, pillar_weight_bytes=100, readout_weight_bytes=200)
TINY = preset("tiny")


def graph(*nodes: object, constants: dict[str, np.ndarray] | None = None) -> bytes:
    """x (2, 3) to y (2, 4)."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", (2, 3)), ("y", (2, 4)))]
    held = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


class TestFormulas:
    def test_voxelize_by_hand(self) -> None:
        # Bytes: 12 * 5 + 4 * 4 * 16 + 100. A point: 2*3*2 + 8*2 + 2 + 2 = 32. A voxel: 2*2*2 + 8*2 + 2*2*3 + 3 + 8*3 + 3 + 3 = 69.
        # A pillar: 2*3*3 + 8*3 + 2*3*4 + 4 = 70. Together 4 * 32 + 3 * 69 + 2 * 70 = 475.
        assert voxelize_work(COUNTS, SIZES) == Work(416, 475)

    def test_render_by_hand(self) -> None:
        # Bytes: 4*4*16 + 4*8 + 200 + 2*4*5*6 + 40*2 = 256 + 32 + 200 + 240 + 80. A cell: 2*4*5 = 40. A sample: 16*5 + 5 + 2*5 + 20 = 115.
        assert render_work(COUNTS, SIZES) == Work(808, 6 * 40 + 3 * 115)

    def test_floor_is_the_slower_of_memory_and_arithmetic(self) -> None:
        # 3e6 bytes at 2 GB/s take 1.5 ms; 8e8 operations at 100 GFLOP/s take 8 ms.
        assert floor_ms(Work(3_000_000, 0), 2.0, 100.0) == pytest.approx(1.5)
        assert floor_ms(Work(3_000_000, 800_000_000), 2.0, 100.0) == pytest.approx(8.0)
        assert floors_ms({"encode": Work(3_000_000, 0)}, MachineRates(2.0, 100.0, 2)) == {"encode": pytest.approx(1.5)}

    def test_all_stages_have_work(self) -> None:
        network = NetworkWork({"MatMul": 10}, 7, 5)
        assert stage_work(COUNTS, SIZES, network, network) == {
            "voxelize": Work(416, 475), "encode": Work(12, 10), "decode": Work(12, 10), "render": Work(808, 585)}


class TestNetworks:
    def test_a_product_and_what_follows_by_hand(self) -> None:
        # (2, 3) x (3, 4): 2*2*3*4 = 48; bias 8; Gelu 8*8; weights (12 + 4) * 4 bytes; boundary (6 + 8) * 4 bytes.
        work = network_work(graph(
            helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["s"]), helper.make_node("Gelu", ["s"], ["y"]),
            constants={"w": np.zeros((3, 4), np.float32), "b": np.zeros(4, np.float32)}))
        assert work == NetworkWork({"MatMul": 48, "Add": 8, "Gelu": 64}, 64, 56)
        assert (work.total, work.products) == (120, 48)
        assert network_stage_work(work) == Work(120, 120)

    def test_a_node_that_nobody_counted_is_refused(self) -> None:
        with pytest.raises(ValueError, match="got Erf; add it to"):
            network_work(graph(helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Erf", ["p"], ["y"]),
                               constants={"w": np.zeros((3, 4), np.float32)}))

    @pytest.mark.parametrize("name", ["tiny", "mini"])
    def test_products_of_the_encoder_are_those_of_a_swin_transformer(self, name: str) -> None:
        config = preset(name)
        swin, dims, window = config.swin, config.swin.dims, config.swin.window**2
        patches, tokens = (math.prod(shape) for shape in (Grid(config).patches_HW, Grid(config).tokens_HW))

        def blocks(number: int, cells: int, dim: int) -> int:
            hidden = int(dim * swin.mlp_ratio)
            return number * (2 * cells * dim * (4 * dim + 2 * hidden) + 2 * 2 * cells * window * dim)

        expected = blocks(swin.encoder_depths[0], patches, dims[0]) + 2 * tokens * 4 * dims[0] * dims[1] + blocks(
            swin.encoder_depths[1], tokens, dims[1]) + 2 * tokens * dims[1] * config.quantizer.codebook_size
        assert network_work(export_model(random_model(config)).encoder).products == expected


class TestCounts:
    def test_a_real_frame_against_plain_loops(self) -> None:
        grid = Grid(TINY)
        points = resampled(next(iter(simulate_drive(1000, 1, "vlp16"))).points_m, 2000)
        voxels = voxel_lists(points, grid)
        mask = grid.pool_mask(grid.occupancy(points))
        rays = pattern_rays(256)
        median = np.full(256, np.nan, dtype=np.float32)
        median[::2] = 4.0
        counts = frame_counts(points, mask, rays, median, grid)
        pillars = {key[:2] for key in voxels}
        patches = {(row // TINY.grid.patch_voxels, column // TINY.grid.patch_voxels) for row, column in pillars}
        distance, number = sample_distances(torch.from_numpy(rays.origins_m), torch.from_numpy(rays.directions), torch.from_numpy(mask), grid)
        seen = (torch.arange(distance.shape[1]) < number[:, None]).numpy() & ~(distance.numpy() > median[:, None])
        assert counts[:7] == (2000, sum(map(len, voxels.values())), len(voxels), len(pillars), len(patches), mask.size,
                              np.count_nonzero(cells_in_mask(mask, grid)))
        assert 0 < counts.samples == pytest.approx(np.count_nonzero(seen), abs=3), "float32 decides which side of 4 m or of a face a sample is on"

    def test_listed_cells_of_one_mask_cell_by_hand(self) -> None:
        grid = Grid(TINY)  # 64 x 64 x 16 feature cells, 16 x 16 x 16 mask cells: 4 x 4 x 1 feature cells each
        mask = np.zeros(grid.mask_cells_YXZ, dtype=bool)
        mask[8, 8, 8] = True
        assert listed_cells(mask, grid) == 6 * 6 * 3
        mask[0, 0, 0] = True
        assert listed_cells(mask, grid) == 6 * 6 * 3 + 5 * 5 * 2

    def test_sizes_are_those_of_the_settings(self) -> None:
        exported = export_model(random_model(TINY))
        sizes = model_sizes(TINY, exported.kernels)
        assert sizes[:5] == (8, 16, 16, 8, 32 * 32)
        # Read-out: 2 * 2 * 16 rows of (16 channels + 1 bias) * 8, output layer 8 + 1, float32.
        assert sizes.readout_weight_bytes == 4 * (64 * 17 * 8 + 9)

    def test_random_weights_predict_nothing(self) -> None:
        grid = Grid(TINY)
        mask = predicted_mask(export_model(random_model(TINY)).decoder, np.zeros(grid.tokens_HW, dtype=np.uint16), grid)
        assert mask.shape == grid.mask_cells_YXZ and not mask.any()


def test_rates_are_those_of_a_machine() -> None:
    rates = measure_rates(copied_bytes=2**22, matrix=128, repeats=2)
    assert 0.05 < rates.bandwidth_gb_s < 10_000 and 0.05 < rates.matrix_gflop_s < 1_000_000


def test_estimates_say_what_they_are_and_follow_from_the_peaks() -> None:
    orin = DEVICES[0]
    # 204.8 GB/s: 20.48 MB take 0.1 ms; 5.3 GFLOP take 1 ms in float32; of a network half the bytes, and 42.5 TFLOP/s.
    assert estimated_ms("voxelize", Work(20_480_000, 1), orin) == pytest.approx(0.1)
    assert estimated_ms("render", Work(1, 5_300_000_000), orin) == pytest.approx(1.0)
    assert estimated_ms("encode", Work(40_960_000, 1), orin) == pytest.approx(0.1)
    assert estimated_ms("decode", Work(1, 42_500_000_000), orin) == pytest.approx(1.0)
    tree = estimate_tree({"encode": Work(1, 1)}, {})
    assert tree["is_measured"] is False and set(tree["devices"]) == {device.name for device in DEVICES}
    assert all(device.source and device.fp16_tflop_s > device.fp32_tflop_s for device in DEVICES) and all(figure.source for figure in PUBLISHED)
