# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Faults of the node's process: killed and started again, taken through its states, and two at once where no kernel has been compiled."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from faults.outcome import Budget, Outcome, expect
from faults.running_node import open_files, resident_mb, threads
from faults.signal_faults import started
from faults.supervised_node import SupervisedNode
from lifecycle_manager import Manager
from lifecycle_msgs.msg import Transition
from node_client import NodeClient

from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_ros.messages import array_from_image
from copilot4d_ros.own_graph import stop

SHARED_MEMORY = "/dev/shm/fastdds_"
SETTLED_S = 11.0
"""After so long the next start frees what a killed process left; see `copilot4d_ros/dead_segments.py`."""
FIRST_ANSWER_S = 180.0
SCAN = np.random.default_rng(9).uniform([-30.0, -30.0, -2.0], [30.0, 30.0, 2.0], (20_000, 3)).astype(np.float32)
CYCLE = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
WARM_UP_CYCLES = 20
MOST_GROWTH_MB = 8.0


def right_tokens() -> Any:
    """What the packaged weights make of `SCAN`, in this process."""
    with open_runner() as runner:
        return runner.encode(SCAN)


def answer(client: NodeClient, points_m: Any = SCAN) -> Any:
    """Tokens of a cloud that is sent until the node hears it."""
    client.tokens.clear()
    stamps: set[int] = set()

    def heard() -> set[int]:
        stamps.add(client.send(points_m))
        end_s = time.monotonic() + 0.3
        while time.monotonic() < end_s and not stamps & set(client.tokens):
            rclpy.spin_once(client, timeout_sec=0.05)
        return stamps & set(client.tokens)

    client.wait(heard, "tokens", FIRST_ANSWER_S)
    return array_from_image(client.tokens[max(heard())])


def killed_and_respawned(folder: Path, budget: Budget, namespace: str = "respawned") -> Outcome:
    """SIGKILL at random moments, while the node starts, loads and works; a supervisor starts it again, and nothing piles up in shared memory."""
    outcome, moments = Outcome("node killed with SIGKILL at a random moment and started again by a supervisor"), random.Random(2)
    client, expected = NodeClient(namespace), right_tokens()
    of_the_killed: set[str] = set()
    with SupervisedNode(namespace, folder / "respawned.txt") as supervised:
        ours = _segments("self")
        for number in budget:
            with outcome.case(supervised.is_alive):
                if number % 2:
                    expect(bool((answer(client) == expected).all()), "tokens other than those of the runner in this process")
                    client.send(SCAN)
                time.sleep(moments.uniform(0.0, 0.3 if number % 2 else 5.0))
                assert supervised.is_alive(), (folder / "respawned.txt").read_text()
                of_the_killed |= _segments(str(supervised.process.pid)) - ours
                supervised.process.kill()
                supervised.respawned()
                outcome.largest("shared_memory_of_the_killed_mb", round(sum(Path(name).stat().st_size for name in _left(of_the_killed)) / 1e6, 1))
        with outcome.case(supervised.is_alive):
            time.sleep(SETTLED_S)
            supervised.process.kill()
            time.sleep(SETTLED_S)
            supervised.respawned()
            expect(bool((answer(client) == expected).all()), "tokens other than those of the runner in this process")
            expect(not _left(of_the_killed), f"shared memory of killed nodes is left: {_left(of_the_killed)}")
    client.destroy_node()
    return outcome


def _segments(pid: str) -> set[str]:
    """Shared memory of Fast DDS that a process has mapped."""
    names = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if SHARED_MEMORY in line}
    return {name for name in names if "port" not in name}


def _left(names: set[str]) -> list[str]:
    return sorted(name for name in names if Path(name).exists())


def lifecycle_cycles(client: NodeClient, pid: int, budget: Budget, points_m: Any, expected: Any) -> Outcome:
    """Configure, activate, deactivate, clean up, again and again: memory, open files and threads stay what they were.

    Args:
        client: of a node with `autostart:=false`.
        expected: the tokens of `points_m`, which every tenth cycle asks for.
    """
    outcome, manager = Outcome("configure, activate, deactivate, cleanup"), Manager(client, client.target)
    resident: list[float] = []
    before = (0, 0)
    for number in budget:
        with outcome.case(lambda: Path(f"/proc/{pid}").exists()):
            for transition in CYCLE:
                expect(manager(transition), f"transition {transition} was refused")
                if transition == Transition.TRANSITION_ACTIVATE and number % 10 == 0:
                    expect(bool((answer(client, points_m) == expected).all()), "other tokens than before")
        resident.append(resident_mb(pid))
        if number == WARM_UP_CYCLES:
            before = (open_files(pid), threads(pid))
    if len(resident) <= WARM_UP_CYCLES + 5:
        outcome.figures["cycles_too_few_to_judge_growth"] = len(resident)
        return outcome
    with outcome.case(counts=0):
        growth_mb = statistics.median(resident[-5:]) - statistics.median(resident[WARM_UP_CYCLES:WARM_UP_CYCLES + 5])
        after = (open_files(pid), threads(pid))
        outcome.figures |= {"growth_mb": round(growth_mb, 2), "more_open_files": after[0] - before[0], "more_threads": after[1] - before[1]}
        expect(growth_mb < MOST_GROWTH_MB and after[0] <= before[0] and after[1] <= before[1], f"growth: {outcome.figures}")
    return outcome


def two_on_a_cold_cache(folder: Path, budget: Budget) -> Outcome:
    """Two nodes started at once by a user for whom no kernel has been compiled: both answer right."""
    outcome, expected = Outcome("two nodes started at once on a cold kernel cache"), right_tokens()
    clients = [NodeClient(side) for side in ("left", "right")]
    for _ in budget:
        home = folder / "cold"
        nodes = [started("tokenizer_node", folder / f"{side}.txt", "-r", f"__ns:=/{side}", "-p", "input_qos:=reliable", XDG_CACHE_HOME=str(home))
                 for side in ("left", "right")]
        with outcome.case(lambda nodes=nodes: all(node.poll() is None for node in nodes)):  # type: ignore[misc]
            try:
                for client in clients:
                    expect(bool((answer(client) == expected).all()), "tokens other than those of the runner in this process")
            finally:
                codes = [stop(node) for node in nodes]
            expect(codes == [0, 0], f"exit codes {codes}")
            expect(bool(list(home.glob("copilot4d/kernels/*/modules/*"))), "no kernels were kept for the next start")
        shutil.rmtree(home)
    for client in clients:
        client.destroy_node()
    return outcome
