# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node's surprise: when it looks, what it looks at, and what it says; with a fake model whose depths are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from fake_runner import FakeRunner
from node_client import NodeClient
from test_node import node_process

from copilot4d_core.config import preset
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.evaluation.surprise import scan_surprise_m, surprise_of
from copilot4d_core.grid import Grid
from copilot4d_ros.surprise_probe import SurpriseProbes
from copilot4d_ros.views import DepthMode, Views, Wanted

GRID = Grid(preset("tiny"))
OK, WARN = bytes([0]), bytes([1])


def test_one_return_of_each_cell_is_looked_at_and_each_as_often_as_the_others() -> None:
    # Three returns in the cell at (5, 0), one at (-5, 0), and one outside.
    points = np.array([[5.1, 0.1, 0], [5.2, 0.2, 0], [5.3, 0.3, 0], [-5.1, 0.1, 0], [50, 0, 0]], dtype=np.float32)
    probes, chosen = SurpriseProbes(GRID, lambda: 1e-9), []
    for _ in range(600):
        probe = probes.aim(points)
        assert probe is not None and len(probe.returns_m) == 2
        chosen += [tuple(row) for row in probe.returns_m.tolist()]
        assert np.allclose(probe.rays.directions * probe.distance_m[:, None], probe.returns_m, atol=1e-5)
    counts = [chosen.count(tuple(row)) for row in points.tolist()]
    assert counts[3:] == [600, 0]
    # 200 each; five standard deviations of a binomial with 600 draws and a third are 58.
    assert all(abs(count - 200) < 58 for count in counts[:3])


def test_it_looks_when_the_period_has_passed_and_never_when_that_is_zero() -> None:
    points = np.array([[5.0, 0.1, 0]], dtype=np.float32)
    period_s = 3600.0
    probes = SurpriseProbes(GRID, lambda: period_s)
    assert probes.aim(points + 100) is None, "nothing to look at"
    assert [probes.aim(points) is None for _ in range(3)] == [False, True, True]
    period_s = 0.0
    assert probes.aim(points) is None


def test_probes_beside_the_views_leave_them_as_they_are_and_always_give_the_median() -> None:
    views, tokens = Views(FakeRunner(), SphericalPattern(4, 8, -20.0, 10.0)), np.zeros((16, 16), dtype=np.uint16)
    points = np.array([[6.25, 0, -0.1], [0, -6.5, -0.1], [-3, 0, -0.1]], dtype=np.float32)
    probe = SurpriseProbes(GRID, lambda: 1.0).aim(points)
    assert probe is not None
    for wanted in (Wanted(DepthMode.STRONGEST, True, True, {}), Wanted(DepthMode.STRONGEST, False, False, {})):
        plain, _ = views.render(tokens, wanted)
        rendered, _ = views.render(tokens, wanted, probe.rays)
        for before, after in zip(plain[:2], rendered[:2], strict=True):
            assert (before is None) == (after is None)
            assert before is None or after is None or np.array_equal(before, after, equal_nan=True)
        assert plain.probe_m is None and rendered.probe_m is not None
        assert rendered.probe_m.tolist() == [6.0, 6.0, 6.0]
        # Errors of 0.25, 0.5 and 3 m, the last of which counts 1 m; 0.1 m of height moves a distance by at most 2 mm.
        assert probe.surprise_m(rendered.probe_m, GRID) == pytest.approx(1.75 / 3, abs=2e-3)


def test_a_look_comes_near_the_surprise_over_all_returns(lidar_data: Path) -> None:
    scan = open_scans(lidar_data / "kitti_object")[0]
    with open_runner(None) as runner:
        grid = Grid(runner.config)
        inside, tokens = grid.inside(scan.points_m), runner.encode(scan.points_m)
        probe = SurpriseProbes(grid, lambda: 1.0).aim(scan.points_m)
        assert probe is not None and len(probe.distance_m) == grid.occupied_tokens(scan.points_m).sum()
        look_m = probe.surprise_m(runner.decode(tokens, probe.rays).depth_m, grid)
        whole_m = scan_surprise_m(surprise_of(runner, tokens, scan.points_m[inside], scan.origin_m))
    # An error lies between 0 and 1 m, so the mean of N cells has a standard deviation of at most 0.5 / sqrt(N).
    assert abs(look_m - whole_m) < 4 * 0.5 / len(probe.distance_m) ** 0.5


@pytest.fixture(scope="module")
def client(graph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeClient]:
    log = tmp_path_factory.mktemp("node") / "log.txt"
    with node_process("surprise", log, "-p", "diagnostics.period_s:=0.1", "-p", "diagnostics.budget_ms:=60000.0", "-p", "input_qos:=reliable"):
        client = NodeClient("surprise")
        client.connect()
        yield client
        client.destroy_node()


def test_the_node_warns_of_scans_that_its_tokens_do_not_explain(client: NodeClient) -> None:
    def said(points: list[list[float]], key: str, text: str, level: bytes) -> bool:
        client.send(points)
        client.wait(lambda: client.diagnostics.get("last_stamp_ns") is not None, "diagnostics")
        return client.diagnostics.get("surprise_m", "") == key and text in client.text and client.level == level

    # The fake model meets everything at 6 m; a return at 5.75 m is missed by 0.25 m, one at 3 m by more than 1 m.
    client.wait(lambda: said([[5.75, 0.0, 0.0]], "", "", OK), "no surprise unless it is asked for")
    assert client.set_parameter("surprise_period_s", 0.001).successful
    client.wait(lambda: said([[5.75, 0.0, 0.0]], "0.250", "", OK), "a known scan")
    client.wait(lambda: said([[3.0, 0.0, 0.0]], "1.000", "unlike the training data: surprise 1.00 m, surprise_warn_m is 0.58", WARN), "a warning")
    client.wait(lambda: said([[5.75, 0.0, 0.0]], "0.250", "", OK), "and its end")
    assert client.set_parameter("surprise_warn_m", 0.2).successful
    client.wait(lambda: said([[5.75, 0.0, 0.0]], "0.250", "surprise_warn_m is 0.2", WARN), "another bar")
    assert not client.set_parameter("surprise_period_s", -1.0).successful
    assert client.set_parameter("surprise_period_s", 0.0).successful
    client.wait(lambda: said([[5.75, 0.0, 0.0]], "", "", OK), "nothing any more")
