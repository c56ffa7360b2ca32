# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The checks of `make faults`, a few times each: every fault is met, and nothing crashes, hangs or goes wrong.

Two nodes at once on a cold kernel cache are in test_kernel_cache.py, kills of a training in test_killed_training.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from faults import disk_faults, graph_faults, input_faults, parameter_faults, process_faults, signal_faults  # noqa: E402
from faults.outcome import Budget, Outcome, WrongResultError  # noqa: E402
from faults.running_node import USUAL, RunningNode, expected_tokens, running_node  # noqa: E402
from node_client import NodeClient  # noqa: E402
from test_node import node_process  # noqa: E402

pytestmark = pytest.mark.usefixtures("graph")
END_S = 2.0
"""The bar is one second on a quiet machine; here other tests run beside."""


@pytest.fixture(scope="module")
def node(graph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for all faults that it must outlive."""
    folder = tmp_path_factory.mktemp("faults")
    with running_node("outlives", folder, "-p", "diagnostics.stale_s:=0.5", "-p", "use_sim_time:=true", input_qos="auto") as node:
        yield node


def check(outcome: Outcome, cases: int) -> None:
    assert (outcome.cases, outcome.problems) == (cases, [])
    assert (outcome.crashes, outcome.hangs, outcome.wrong) == (0, 0, 0)


def test_an_outcome_tells_crash_hang_and_wrong_result_apart() -> None:
    outcome = Outcome("none")
    for error, is_alive in ((WrongResultError("w"), True), (AssertionError("a"), True), (AssertionError("a"), False), (None, False)):
        with outcome.case(lambda is_alive=is_alive: is_alive):
            if error is not None:
                raise error
    assert (outcome.cases, outcome.wrong, outcome.hangs, outcome.crashes, len(outcome.problems)) == (4, 1, 1, 1, 3)
    assert len(list(Budget(3))) == 3 and len(list(Budget(3, seconds=-1.0))) == 1


def test_a_publisher_that_is_killed(node: RunningNode) -> None:
    check(input_faults.publisher_dies(node, Budget(1)), 1)


def test_a_subscriber_that_stops_reading(node: RunningNode) -> None:
    check(input_faults.subscriber_stops(node, Budget(1), scans=8), 1)


def test_a_clock_that_jumps(node: RunningNode) -> None:
    check(graph_faults.clock_jumps(node, Budget(2)), 2)


def test_wrong_parameters_of_a_running_node(node: RunningNode) -> None:
    check(parameter_faults.while_running(node, Budget(1000)), len(parameter_faults.every_wrong_value()))


def test_wrong_parameters_at_the_start(tmp_path: Path) -> None:
    check(parameter_faults.at_the_start(tmp_path, Budget(2)), 2)


def test_cycles_of_the_states(tmp_path: Path) -> None:
    cycles = process_faults.WARM_UP_CYCLES + 6
    with node_process("cycles", tmp_path / "log.txt", "-p", "autostart:=false", "-p", "input_qos:=reliable") as process:
        client = NodeClient("cycles")
        check(process_faults.lifecycle_cycles(client, process.pid, Budget(cycles), USUAL, expected_tokens(USUAL)), cycles)
        client.destroy_node()


def test_signals_while_the_node_starts_and_loads(tmp_path: Path) -> None:
    check(signal_faults.signals(tmp_path, [0.0, 0.4, 1.0, 1.6, 2.2], END_S), 5)


@pytest.mark.parametrize("kind", ["engine", "token-file", "recording"])
def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    if not disk_faults.can_mount():
        pytest.skip("no user may mount a file system in a namespace here; test_engine_file.py has a limit on the size of files")
    check(disk_faults.full_disk(kind, tmp_path, 8), 9)


def test_a_network_that_goes_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not graph_faults.can_make_networks():
        pytest.skip("no user may make a network namespace here, or there is no `ip`")
    check(graph_faults.network_goes_down(tmp_path, Budget(1)), 1)
