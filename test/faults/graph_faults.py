# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Faults of what lies between processes: clocks that jump, participants that vanish and come back, a network that is down for a while."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from builtin_interfaces.msg import Time
from faults.outcome import Budget, Outcome, expect
from faults.running_node import USUAL, RunningNode, check_tokens, running_node
from node_client import NodeClient, cloud
from rosgraph_msgs.msg import Clock

BAG_S = 8
"""Length of the bag that loops, in seconds of ROS time."""
DOWN_S = 3.0
IN_A_NETWORK_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--net")


def clock_jumps(node: RunningNode, budget: Budget) -> Outcome:
    """A bag loops under `use_sim_time`, and every other time its clock also leaps a day ahead: all jumps back are counted, all tokens right."""
    outcome, client = Outcome("clock jumped back and forward under use_sim_time, as when a bag loops"), node.client
    clock, first_s = client.create_publisher(Clock, "/clock", 10), 1_700_000_000

    def at(second: int) -> None:
        """ROS time reaches the node, and a scan of that time is right."""

        def told() -> bool:
            clock.publish(Clock(clock=Time(sec=second)))
            return bool(client.stamp.sec == second)

        client.wait(told, f"the time {second} s of /clock in the diagnostics")
        stamp = client.send_message(cloud(USUAL, 0), second * 10**9)
        client.wait(lambda: stamp in client.tokens, f"tokens at {second} s")
        check_tokens(client.tokens.pop(stamp), USUAL)

    with outcome.case(node.is_alive, counts=0):
        at(first_s)
    before = client.count("clock_jumps")
    for number in budget:
        with outcome.case(node.is_alive):
            ahead_s = 86_400 * (number % 2)
            for second in (1, BAG_S // 2, BAG_S, BAG_S + ahead_s):
                at(first_s + second)
            at(first_s)
            made = before + number + 1
            client.wait(lambda made=made: client.count("clock_jumps") >= made, "the jump in the diagnostics")  # type: ignore[misc]
            expect(client.count("clock_jumps") == made, f"{client.count('clock_jumps') - before} jumps counted, {number + 1} made")
    client.destroy_publisher(clock)
    return outcome


def participants_restart(node: RunningNode, budget: Budget) -> Outcome:
    """Every participant but the node's own is destroyed and made again, as when a middleware restarts; the node is found and answers."""
    outcome = Outcome("all participants but the node's destroyed and made again")
    namespace = node.client.target.split("/")[1]
    for _ in budget:
        rclpy.try_shutdown()
        rclpy.init()
        with outcome.case(node.is_alive):
            client = NodeClient(namespace)
            client.connect()
            RunningNode(client, node.process, node.log).answers_right()
            client.destroy_node()
    return outcome


def network_goes_down(folder: Path, budget: Budget) -> Outcome:
    """The only network interface goes down and comes back, in a network namespace of its own; the node answers again, old and new clients alike."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])}
    command = [*IN_A_NETWORK_OF_ITS_OWN, sys.executable, "-m", "faults.graph_faults", str(folder), str(budget.most), str(budget.seconds)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=budget.seconds + 300, check=False)
    if done.returncode:
        raise RuntimeError(f"the network namespace: {done.stderr}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def can_make_networks() -> bool:
    """Whether this machine lets a user make a network namespace and switch its interface."""
    command = [*IN_A_NETWORK_OF_ITS_OWN, "ip", "link", "set", "lo", "up"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _switch(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def _in_the_namespace(folder: Path, budget: Budget) -> Outcome:
    from copilot4d_ros.own_graph import own_graph

    outcome = Outcome(f"the only network interface down for {DOWN_S:.0f} s and up again")
    _switch("up")
    with own_graph():
        rclpy.init()
        with running_node("network", folder) as node:
            for _ in budget:
                with outcome.case(node.is_alive):
                    _switch("down")
                    time.sleep(DOWN_S)
                    _switch("up")
                    node.answers_right()
                    late = NodeClient("network", "late")
                    late.connect()
                    RunningNode(late, node.process, node.log).answers_right()
                    late.destroy_node()
        rclpy.try_shutdown()
    return outcome


if __name__ == "__main__":
    print(json.dumps(_in_the_namespace(Path(sys.argv[1]), Budget(int(sys.argv[2]), float(sys.argv[3]))).__dict__))
