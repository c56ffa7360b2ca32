# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The octree codec: bytes worked by hand, every cloud comes back as its cells, and no larger than the reference software of MPEG."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy import rans
from copilot4d_core.evaluation import octree_codec
from copilot4d_core.evaluation.octree_model import OctreeModel
from copilot4d_core.grid import FloatArray

ORIGIN = np.zeros(3, dtype=np.float32)


def cloud(*rows: tuple[float, float, float]) -> FloatArray:
    return np.array(rows, dtype=np.float32).reshape(-1, 3)


def by_rows(points_m: FloatArray) -> list[list[float]]:
    return sorted(points_m.tolist())


class TestByHand:
    # Before anything was counted every choice has a share of one half. rANS then puts one bit a choice into its state 2^24 at bit 15,
    # the last choice first: what lies above moves up by one.
    def test_two_opposite_cells(self) -> None:
        # Choices of the children 0 to 7: 1 0 0 0 0 0 0 1.
        # From the last: 2^24 -> 2^25 + 2^15; six zeros: 2^31 + 2^21; a one: 2^32 + 2^22 + 2^15.
        data = octree_codec.encode(cloud((0.5, 0.5, 0.5), (1.9, 1.1, 1.5), (1.5, 1.5, 1.5)), 1.0, ORIGIN)
        assert data == struct.pack("<4fBI", 0, 0, 0, 1, 1, 2) + (2**32 + 2**22 + 2**15).to_bytes(5, "little")
        assert by_rows(octree_codec.decode(data)) == [[0.5, 0.5, 0.5], [1.5, 1.5, 1.5]]

    def test_the_last_child_of_a_node_is_not_asked_for_when_it_must_be_there(self) -> None:
        # Seven zeros: 2^24 -> 2^31.
        data = octree_codec.encode(cloud((1.5, 1.5, 1.5)), 1.0, ORIGIN)
        assert data == struct.pack("<4fBI", 0, 0, 0, 1, 1, 1) + (2**31).to_bytes(5, "little")
        assert octree_codec.decode(data).tolist() == [[1.5, 1.5, 1.5]]

    def test_step_and_corner(self) -> None:
        data = octree_codec.encode(cloud((-0.6, 3.1, 0.0)), 0.5, cloud((-1.0, 3.0, -2.0))[0])
        assert octree_codec.decode(data).tolist() == [[-0.75, 3.25, 0.25]]

    def test_the_context_of_a_child(self) -> None:
        # Two nodes side by side along x. The first holds its children 0 and 1, of the second nothing is known yet.
        occupied = np.zeros((3, 8), dtype=bool)
        occupied[0, :2] = True
        level = octree_codec._level(np.array([[0, 0, 0], [1, 0, 0]]))
        assert level.beside.tolist() == [[2, 0], [2, 2], [2, 2], [1, 2], [2, 2], [2, 2]]
        # Child 0 looks down: a node there for the second alone. Child 1 looks up: the first has a sibling and a node beside it.
        assert octree_codec._contexts(0, level, occupied).tolist() == [0, 1 * 36]
        assert octree_codec._contexts(1, level, occupied).tolist() == [(6 + 3 + 1) * 36, 6 * 36]
        # Child 3 of the first node: child 2 and the second node's child 2 are empty; child 1, below it along y, is not.
        assert octree_codec._contexts(3, level, occupied).tolist() == [((3 * 6 + 1) * 6 + 3) * 6, 3 * 216]

    def test_counts_lead_to_shares(self) -> None:
        seen: list[list[int]] = []

        def choose(empty: np.ndarray, known: np.ndarray | None) -> np.ndarray:
            assert known is not None
            seen.append(empty.tolist())
            return known

        model, zeros = OctreeModel(), np.zeros(64, dtype=np.int64)
        model.choose(zeros, zeros, np.arange(64) < 16, choose)  # a block: 16 ones, 48 zeros
        model.choose(zeros[:1], zeros[:1], np.array([True]), choose)
        coarse = (48.4 / 64.8, 16.4 / 64.8)
        assert seen == [[32768] * 64, [int((48 + 2 * coarse[0]) / 66 * 65536)]]


class TestRoundTrip:
    @given(st.integers(1, 400), st.sampled_from([0.3, 1.0, 4.0, 50.0]), st.integers(0, 2**32 - 1))
    @settings(max_examples=40, deadline=None)
    def test_every_occupied_cell_comes_back_once(self, count: int, step_m: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        points_m = (rng.normal(0, 3, (count, 3)) * rng.choice([0.1, 1, 3])).clip(-20, 20).astype(np.float32)
        minimum_m = np.full(3, -20, dtype=np.float32)
        back = octree_codec.decode(octree_codec.encode(points_m, step_m, minimum_m))
        step = float(np.float32(step_m))
        cells = {tuple(int((value + 20) // step) for value in map(float, point)) for point in points_m}
        assert sorted(tuple(round((value + 20) / step - 0.5) for value in map(float, point)) for point in back) == sorted(cells)
        assert np.allclose((back + 20) / step % 1, 0.5, atol=1e-3)

    def test_the_same_points_give_the_same_bytes(self) -> None:
        points_m = np.random.default_rng(0).uniform(0, 30, (2000, 3)).astype(np.float32)
        assert octree_codec.encode(points_m, 0.5, ORIGIN) == octree_codec.encode(points_m[::-1], 0.5, ORIGIN)

    def test_no_larger_than_the_reference_software_of_mpeg(self, lidar_data: Path) -> None:
        # TMC13 (octree, planar mode and IDCM on, duplicates merged) on this scan, KiB by grid step in metres.
        reference = {0.2: 10.6, 0.3: 6.1, 0.4: 4.1, 0.8: 1.5}
        points_m = open_scans(lidar_data / "kitti_raw_22")[0].points_m
        sizes = {step_m: len(octree_codec.encode(points_m, step_m, points_m.min(axis=0))) / 1024 for step_m in reference}
        assert all(0.5 * reference[step_m] < size <= reference[step_m] for step_m, size in sizes.items()), sizes


class TestRefusals:
    @pytest.mark.parametrize(("points_m", "step_m", "expected"), [
        (cloud(), 1.0, "at least one point"),
        (cloud((1, 1, -0.1)), 1.0, "expected points from"),
        (cloud((70.0, 1, 1)), 0.001, "at most 65536 cells along an axis, got 7000"),
    ])
    def test_what_cannot_be_coded(self, points_m: FloatArray, step_m: float, expected: str) -> None:
        with pytest.raises(ValueError, match=expected):
            octree_codec.encode(points_m, step_m, ORIGIN)

    @pytest.mark.parametrize("keep", [0, 20, octree_codec.HEADER.size, octree_codec.HEADER.size + rans.STATE_BYTES])
    def test_cut_bytes(self, keep: int) -> None:
        data = octree_codec.encode(np.random.default_rng(0).uniform(0, 30, (500, 3)).astype(np.float32), 0.5, ORIGIN)
        with pytest.raises(ValueError, match=r"octree: expected a header|token stream: expected"):
            octree_codec.decode(data[:keep])

    @pytest.mark.parametrize("place", [3, 15, 16, 17, 18, 60])
    def test_altered_bytes_never_give_the_cells_of_another_header_in_silence(self, place: int) -> None:
        points_m = np.random.default_rng(0).uniform(0, 30, (500, 3)).astype(np.float32)
        data = bytearray(octree_codec.encode(points_m, 0.5, ORIGIN))
        data[place] ^= 0xFF
        if place in (3, 15):  # corner and step: a NaN, or a step below 0
            data[2:4], data[14:16] = b"\xff\xff", b"\xff\xff"
        with pytest.raises(ValueError, match="octree|token stream"):
            octree_codec.decode(bytes(data))
