# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The kernel that reads clouds beside the plain way, and what belongs to the region by hand."""

from __future__ import annotations

import array
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from copilot4d_core.config import preset
from copilot4d_core.data.cloud_reader import CloudReader
from copilot4d_core.data.point_cloud2 import layout_from_message, points_from_message
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.kernel_runner import KernelRunner
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import random_model
from copilot4d_ros.frame_processor import FrameProcessor
from copilot4d_ros.parameters import TokenizerParameters

PARAMETERS = TokenizerParameters()
GRID = Grid(preset("tiny"))  # -10 to 10 m in x and y, -2.25 to 2.25 m in z


def cloud(points: np.ndarray, offsets: tuple[int, int, int] = (0, 4, 8), step: int = 16, height: int = 1, padding: int = 0, kind: str = "<f4") -> Any:
    """A message of these points; bytes between them are noise."""
    width = len(points) // height
    dtype = np.dtype({"names": ["x", "y", "z"], "formats": [kind] * 3, "offsets": offsets, "itemsize": step})
    raw = np.random.default_rng(1).integers(0, 256, (height, width * step + padding), dtype=np.uint8)
    for row in range(height):
        view = raw[row, :width * step].view(dtype)
        for axis, name in enumerate("xyz"):
            view[name] = points[row * width:(row + 1) * width, axis]
    number = {"f4": 7, "f8": 8}[kind[1:]]
    fields = [SimpleNamespace(name=name, offset=offset, datatype=number, count=1) for name, offset in zip("xyz", offsets, strict=True)]
    return SimpleNamespace(height=height, width=width, fields=fields, is_bigendian=kind[0] == ">", point_step=step, row_step=width * step + padding,
                           data=array.array("B", raw.tobytes()))


def points_of(count: int, broken: float) -> np.ndarray:
    rng = np.random.default_rng(count)
    points = rng.uniform(-14, 14, (count, 3)).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        points[rng.random(count) < broken, rng.integers(0, 3)] = value
    points[rng.random(count) < broken] = 0.0
    points[rng.random(count) < broken] = [0.0, -0.0, 0.0]
    points[rng.random(count) < 0.1, 0] = 0.0  # a zero alone is a coordinate
    points[rng.random(count) < 0.05] *= 0.01
    return points


@pytest.mark.parametrize(("layout", "height"), [
    ({}, 1), ({"step": 12}, 1), ({"offsets": (1, 5, 11), "step": 23}, 1), ({"offsets": (8, 4, 0), "step": 32}, 1), ({"padding": 7, "step": 22}, 4),
    ({"kind": "<f8", "offsets": (0, 8, 16), "step": 26}, 4), ({"kind": ">f4"}, 4)])
@pytest.mark.parametrize("broken", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("min_range_m", [0.0, 5.0])
def test_returns_are_those_of_the_plain_way(layout: dict[str, Any], height: int, broken: float, min_range_m: float) -> None:
    read = CloudReader(GRID)
    for count in (4 * 1000, 4, 8, 0):
        points = points_of(count, broken)
        message = cloud(points, height=height if count else 1, **layout)
        found = read(message, min_range_m)
        expected, _, dropped = points_from_message(message)
        far = np.sqrt((expected.astype(float)**2).sum(axis=1)) >= min_range_m
        assert np.array_equal(found.points_m, expected[far])
        assert found.dropped == dropped + np.count_nonzero(~far)
        assert found.in_region == np.count_nonzero(GRID.inside(expected[far]))
    assert (layout_from_message(message).float32_offsets is None) == ("kind" in layout)


def test_the_region_is_half_open() -> None:
    for axis, edge in enumerate((10, 10, 2.25)):
        for value, expected in ((-edge, 1), (edge, 0)):
            point = np.full((1, 3), 0.1, dtype=np.float32)
            point[0, axis] = value
            assert CloudReader(GRID)(cloud(point)).in_region == expected, (axis, value)


@pytest.mark.parametrize(("layout", "height"), [({}, 1), ({"step": 12}, 1), ({"step": 48, "offsets": (4, 8, 12)}, 4)])
def test_a_cloud_of_returns_alone_is_not_copied(layout: dict[str, Any], height: int) -> None:
    read, message = CloudReader(GRID), cloud(points_of(400, 0.0), height=height, **layout)
    received = np.frombuffer(message.data, dtype=np.uint8)
    assert np.shares_memory(read(message).points_m, received)
    broken = cloud(points_of(400, 0.2), height=height, **layout)
    assert not np.shares_memory(read(broken).points_m, np.frombuffer(broken.data, dtype=np.uint8))
    # After a cloud with others a copy comes first; the one after it is looked at again.
    assert not np.shares_memory(read(message).points_m, received) and np.shares_memory(read(message).points_m, received)


@pytest.mark.parametrize(("layout", "height"), [({"step": 18}, 1), ({"offsets": (1, 5, 9)}, 1), ({"offsets": (8, 4, 0)}, 1), ({"padding": 4}, 4)])
def test_other_clouds_are_copied(layout: dict[str, Any], height: int) -> None:
    message = cloud(points_of(400, 0.0), height=height, **layout)
    assert not np.shares_memory(CloudReader(GRID)(message).points_m, np.frombuffer(message.data, dtype=np.uint8))


@pytest.mark.parametrize(("height", "width"), [(0, 0), (1, 0), (0, 5)])
def test_an_empty_cloud_has_no_returns(height: int, width: int) -> None:
    message = cloud(points_of(4, 0.0), offsets=(4, 8, 12))
    message.height, message.width, message.row_step, message.data = height, width, 16 * width, array.array("B")
    found = CloudReader(GRID)(message)
    assert found.points_m.shape == (0, 3) and found[1:] == (0, 0)


@pytest.mark.parametrize("min_range_m", [0.0, 5.0])
def test_a_runner_that_takes_clouds_gives_the_tokens_and_counts_of_their_returns(min_range_m: float) -> None:
    model = random_model(preset("mini"))
    grid = Grid(model.config)
    runner, processor = KernelRunner(model), FrameProcessor(KernelRunner(model), SphericalPattern(4, 8, -20.0, 10.0), lambda: PARAMETERS)
    parameters = dataclasses.replace(PARAMETERS, min_range_m=min_range_m)
    processor._parameters = lambda: parameters
    for broken in (0.0, 0.3, 0.3, 0.0, 0.0):  # picked before where the cloud before held others, found on the way where it held none
        message = cloud(points_of(3000, broken))
        returns = CloudReader(grid)(message, min_range_m)
        scan = processor.encode(message)
        assert np.array_equal(scan.tokens, runner.encode(returns.points_m))
        assert np.array_equal(scan.points_m, returns.points_m)
        assert (scan.points_in_region, scan.points_dropped) == (returns.in_region, returns.dropped)
        assert (returns.dropped > 0) == (broken > 0 or min_range_m > 0)


def test_runners_still_refuse_broken_points_and_take_the_origin_for_a_point() -> None:
    runner = KernelRunner(random_model(preset("mini")))
    assert runner.takes_clouds
    points = np.array([[1, 2, 0.5], [0, 0, 0]], dtype=np.float32)
    assert runner.encode_cloud(points, 0.0)[1:] == (1, 1) and runner.encode_cloud(points, 9.0)[1:] == (0, 0)
    assert np.array_equal(runner.encode_cloud(points, 0.0).tokens, runner.encode(points[:1]))
    runner.encode(points)
    assert runner._stages.seen == (0, 2, 2)
    points[1, 1] = np.nan
    with pytest.raises(ValueError, match="expected finite coordinates, 1 of 2 points hold NaN or infinity"):
        runner.encode(points)
    with pytest.raises(ValueError, match="expected at least one point"):
        runner.encode_cloud(points[:0], 0.0)
    lists = KernelRunner(random_model(preset("tiny")))  # of other numbers of channels
    assert not lists.takes_clouds
    with pytest.raises(ValueError, match="takes no clouds with this model"):
        lists.encode_cloud(points, 0.0)
    with pytest.raises(ValueError, match="1 of 2 points hold NaN or infinity"):
        lists.encode(points)


def test_a_cloud_that_says_more_than_it_holds_is_refused_and_the_layout_is_kept() -> None:
    read = CloudReader(GRID)
    message = cloud(points_of(40, 0.0))
    read(message)
    known = read.layout
    message.width += 1
    with pytest.raises(ValueError, match=r"expected 640 bytes of data .* got 640|expected 656 bytes of data|expected row_step"):
        read(message)
    assert read.layout is known is not None
