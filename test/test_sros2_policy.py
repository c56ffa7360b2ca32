# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what the nodes have on a live graph, and nothing else.

The endpoints come from the graph itself. Enforcing needs a middleware with security, which ROS 2 from PyPI does not have.
"""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from node_client import NodeClient  # noqa: E402
from recorded_bag import write_bag  # noqa: E402

from copilot4d_ros.own_graph import stop  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "config" / "sros2" / "copilot4d.policy.xml"
WITH_FAKE = "from fake_runner import open_fake_runner as fake; from copilot4d_ros.{0}_node import main; main(open_model=fake)"
WITHOUT_MODEL = "from copilot4d_ros.{0} import main; main()"
SIMULATED_TIME = ("-p", "use_sim_time:=true")


@pytest.fixture(scope="module")
def client(graph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeClient]:
    """All five nodes, running, and who looks at them."""
    folder = tmp_path_factory.mktemp("policy")
    bag = write_bag(folder / "bag", [bytes(22)] * 2)
    programs = {
        "tokenizer": (WITH_FAKE, SIMULATED_TIME), "detokenizer": (WITH_FAKE, SIMULATED_TIME),
        "bag_player": (WITHOUT_MODEL, ("-p", f"bag:={bag}", "-p", "loop:=true", "-p", "publish_clock:=true", "-p", "output_topic:=~/points")),
        "demo_source": (WITHOUT_MODEL, SIMULATED_TIME),
        "token_recorder": (WITHOUT_MODEL, (*SIMULATED_TIME, "-p", f"folder:={folder / 'tokens'}"))}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])}
    processes = [subprocess.Popen([sys.executable, "-c", program.format(name), "--ros-args", *arguments], env=environment)
                 for name, (program, arguments) in programs.items()]
    client = NodeClient("unused")
    client.wait(lambda: programs.keys() <= set(client.get_node_names()), "the nodes")
    for topic in ("/tokenizer/input/points", "/detokenizer/input/tokens"):
        client.wait(lambda topic=topic: client.count_subscribers(topic), topic)
    for topic in ("/bag_player/points", "/demo_source/points"):
        client.wait(lambda topic=topic: client.count_publishers(topic), topic)
    yield client
    client.destroy_node()
    for process in processes:
        stop(process)


def allowed(node: str, kind: str, rule: str) -> set[str]:
    """Names of the policy's rules for a node, in full."""
    profile = ElementTree.parse(POLICY).find(f".//enclave[@path='/copilot4d/{node}']/profiles/profile[@node='{node}']")
    assert profile is not None and profile.get("ns") == "/"
    names = [element.text or "" for group in profile.findall(kind) if group.get(rule) == "ALLOW" for element in group]
    assert len(names) == len(set(names)) and all(name.startswith(("/", "~/")) for name in names)
    return {name.replace("~", f"/{node}", 1) for name in names}


@pytest.mark.parametrize("node", ["tokenizer", "detokenizer", "bag_player", "demo_source", "token_recorder"])
def test_a_node_is_allowed_what_it_has_and_nothing_else(client: NodeClient, node: str) -> None:
    listed = {("topics", "publish"): client.get_publisher_names_and_types_by_node,
              ("topics", "subscribe"): client.get_subscriber_names_and_types_by_node,
              ("services", "reply"): client.get_service_names_and_types_by_node,
              ("services", "request"): client.get_client_names_and_types_by_node}
    for (kind, rule), endpoints in listed.items():
        names = allowed(node, kind, rule)
        # The graph's lists fill up one by one.
        client.wait(lambda: {name for name, _ in endpoints(node, "/")} == names or None, f"{node}: {rule}: {names}", 15.0)  # noqa: B023


def test_a_node_that_must_be_secure_does_not_start_without_security(graph: None, tmp_path: Path) -> None:
    variables = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce", "ROS_SECURITY_KEYSTORE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_MODEL.format("demo_source"), "--ros-args", "--enclave", "/copilot4d/demo_source"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "SECURITY ERROR" in done.stderr


def test_every_rule_allows() -> None:
    rules = [value for element in ElementTree.parse(POLICY).iter() if element.tag in ("topics", "services") for value in element.attrib.values()]
    assert set(rules) == {"ALLOW"}, "what is not allowed is denied by default"
