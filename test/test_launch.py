# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The launch file, run as `ros2 launch` runs it: what is started, when, with what, and how it ends.

Needs `launch`, which a ROS 2 installation brings. The node is the real one with a fake model; ros2 bag and RViz are stand-ins
that write down how they were called.
"""

from __future__ import annotations

import os
import runpy
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

launch_pytest = pytest.importorskip("launch_pytest", reason="launch is part of a ROS 2 installation; it is not on PyPI")
rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from fake_runner import OPEN_MS_VARIABLE  # noqa: E402
from launch.actions import IncludeLaunchDescription, RegisterEventHandler, SetEnvironmentVariable  # noqa: E402
from launch.event_handlers import OnProcessExit, OnProcessStart  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch.utilities import perform_substitutions  # noqa: E402
from node_client import DEADLINE_S, NodeClient  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from recorded_bag import FIRST_NS, write_bag  # noqa: E402

from launch import LaunchContext, LaunchDescription  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch" / "tokenizer.launch.py"
LOADING_S = 1.5
END_S = 60.0


def executable(path: Path, *lines: str) -> None:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def package(prefix: Path, name: str) -> Path:
    """A ROS package in an installation folder; returns where its executables lie."""
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / name
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return prefix / "lib" / name


@pytest.fixture(scope="module")
def installed(graph: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An installation of the package whose node loads a fake model for `LOADING_S`; returns a folder for what stand-ins write."""
    folder = tmp_path_factory.mktemp("installed")
    ours = package(folder / "ours", "copilot4d_ros")
    path = f"PYTHONPATH={ROOT}:$PYTHONPATH"
    executable(ours / "tokenizer_node", f'exec env {path} {sys.executable} {ROOT}/test/fake_runner.py "$@"')
    for node in ("bag_player", "demo_source"):
        executable(ours / node, f'exec env {path} {sys.executable} -m copilot4d_ros.{node} "$@"')
    executable(package(folder / "ours", "rviz2") / "rviz2", f'echo "$@" > {folder}/rviz2.txt', "exec sleep 60")
    for name in ("ros2bag", "rosbag2_storage_mcap"):
        package(folder / "bag", name)
    executable(folder / "bin" / "ros2", f'echo "$@" > {folder}/ros2.txt')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMENT_PREFIX_PATH", f"{folder / 'ours'}{os.pathsep}{os.environ.get('AMENT_PREFIX_PATH', '')}")
        patch.setenv("ROS_LOG_DIR", str(folder / "log"))
        patch.setenv(OPEN_MS_VARIABLE, str(round(LOADING_S * 1e3)))
        patch.delenv("DISPLAY", raising=False)
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        yield folder


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clouds of one point at 10 Hz."""
    point = np.array([1.0, 1.0, 0.0, 5.0], dtype="<f4").tobytes() + bytes(6)
    return write_bag(tmp_path_factory.mktemp("recorded") / "bag", [point] * 6)


@dataclass
class Seen:
    """What launch started and what ended, in order; the time is in seconds."""

    started: list[tuple[str, int, float]] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.started]

    def delay_s(self, name: str) -> float:
        """From the start of the node to that of another process."""
        times = {name: time_s for name, _, time_s in reversed(self.started)}
        return times[name] - times["tokenizer_node"]


def launched(*arguments: str) -> tuple[Any, Seen]:
    """The launch file with arguments, and what comes of it."""
    seen = Seen()

    def name(event: Any) -> str:
        return str(event.process_name.rpartition("-")[0])

    return LaunchDescription([
        RegisterEventHandler(OnProcessStart(on_start=lambda event, _: seen.started.append((name(event), event.pid, time.monotonic())))),
        RegisterEventHandler(OnProcessExit(on_exit=lambda event, _: seen.ended.update({name(event): event.returncode}))),
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH)), launch_arguments=[tuple(a.split(":=")) for a in arguments]),
        launch_pytest.actions.ReadyToTest(),
    ]), seen


@pytest.mark.parametrize(("profile", "expected"), [("large", {"FASTDDS_DEFAULT_PROFILES_FILE"}), ("none", set())])
def test_the_transport_is_set_only_where_it_is_wanted(installed: Path, monkeypatch: pytest.MonkeyPatch, profile: str, expected: set[str]) -> None:
    monkeypatch.setenv("ROS_DISTRO", "kilted")
    context = LaunchContext()
    context.launch_configurations["dds_profile"] = profile
    description = runpy.run_path(str(LAUNCH))["generate_launch_description"]()
    for entity in description.entities[:-1]:
        entity.visit(context)
    actions = description.entities[-1].execute(context)
    variables = [action for action in actions if isinstance(action, SetEnvironmentVariable)]
    assert {perform_substitutions(context, variable.name) for variable in variables} == expected
    assert len(actions) == len(variables) + 1, "live data: the node alone"


@launch_pytest.fixture
def bag_launch(installed: Path, bag: Path) -> tuple[Any, Seen]:
    return launched(f"bag:={bag}", "rate:=0.3", "namespace:=left")


@pytest.mark.launch(fixture=bag_launch)
def test_a_bag_is_played_when_the_node_is_ready_and_all_ends_cleanly(bag_launch: tuple[Any, Seen]) -> Iterator[None]:
    seen = bag_launch[1]
    client = NodeClient("left")
    client.wait(lambda: len(client.tokens) == 6, "tokens of every cloud: none is played before the node takes it")
    client.wait(lambda: "bag_player" in seen.ended, "the end of the bag")
    client.destroy_node()
    assert sorted(client.tokens) == [FIRST_NS + i * 100_000_000 for i in range(6)]
    assert seen.delay_s("bag_player") > LOADING_S
    yield
    assert seen.ended == {"tokenizer_node": 0, "bag_player": 0}


@launch_pytest.fixture
def ros2_bag_launch(installed: Path, bag: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Seen]:
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{installed / 'bag'}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}")
    monkeypatch.setenv("PATH", f"{installed / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return launched(f"bag:={bag}", "loop:=true", "rate:=0.5", "start_offset:=2.5")


@pytest.mark.launch(fixture=ros2_bag_launch)
def test_ros2_bag_plays_where_it_is_installed(ros2_bag_launch: tuple[Any, Seen], installed: Path, bag: Path) -> None:
    seen = ros2_bag_launch[1]
    client = NodeClient("right")
    client.wait(lambda: "ros2" in seen.ended, "ros2 bag play")
    client.destroy_node()
    assert seen.delay_s("ros2") > LOADING_S
    assert (installed / "ros2.txt").read_text().split() == (
        f"bag play {bag} --topics /roof/points --rate 0.5 --delay 1.0 --disable-keyboard-controls --start-offset 2.5 --loop --clock 100").split()


@launch_pytest.fixture
def respawn_launch(installed: Path, bag: Path) -> tuple[Any, Seen]:
    return launched(f"bag:={bag}", "loop:=true", "respawn:=true", "namespace:=again")


@pytest.mark.launch(fixture=respawn_launch)
def test_a_node_that_was_killed_comes_back_to_the_same_player(respawn_launch: tuple[Any, Seen]) -> None:
    seen = respawn_launch[1]
    client = NodeClient("again")
    client.wait(lambda: client.tokens, "tokens")
    os.kill(seen.started[0][1], signal.SIGKILL)
    client.wait(lambda: seen.ended.get("tokenizer_node") == -signal.SIGKILL, "the end of the node")
    client.tokens.clear()
    client.wait(lambda: client.tokens, "tokens of the next node")
    client.destroy_node()
    assert sorted(seen.names()) == ["bag_player", "tokenizer_node", "tokenizer_node"]


@launch_pytest.fixture
def demo_launch(installed: Path) -> tuple[Any, Seen]:
    return launched("demo:=true", "namespace:=demo", "rviz:=true", "frame:=roof")


@pytest.mark.launch(fixture=demo_launch)
def test_the_simulated_sensor_is_tokenized_and_shown(demo_launch: tuple[Any, Seen], installed: Path) -> Iterator[None]:
    seen = demo_launch[1]
    client = NodeClient("demo")
    client.wait(lambda: client.tokens, "tokens of simulated clouds", 60.0)
    client.destroy_node()
    assert {message.header.frame_id for message in client.tokens.values()} == {"roof"}
    called = (installed / "rviz2.txt").read_text()
    assert called.startswith(f"-d {ROOT}/config/tokenizer.rviz -f roof")
    assert "/tokenizer/tokens:=/demo/tokenizer/tokens" in called and "/points:=/demo/points" in called
    yield
    assert {name: code for name, code in seen.ended.items() if name != "rviz2"} == {"tokenizer_node": 0, "demo_source": 0}


@launch_pytest.fixture
def yaml_launch(installed: Path, bag: Path, tmp_path: Path) -> tuple[Any, Seen]:
    file = tmp_path / "mine.yaml"
    # The last section would win over one for the node's full name.
    file.write_text("/tokenizer: {ros__parameters: {input_qos: reliable, depth: {rows: 32}}}\n"
                    "tokenizer: {ros__parameters: {input_qos: reliable}}\n/**: {ros__parameters: {input_qos: reliable, use_sim_time: false}}\n")
    return launched(f"bag:={bag}", f"params_file:={file}", "input_qos:=best_effort")


@pytest.mark.launch(fixture=yaml_launch)
def test_arguments_win_over_every_section_of_the_parameter_file(yaml_launch: tuple[Any, Seen]) -> None:
    client = NodeClient("reader")
    service = client.create_client(GetParameters, "/tokenizer/get_parameters")
    assert service.wait_for_service(DEADLINE_S)
    names = ["input_qos", "use_sim_time", "depth.rows"]
    future = service.call_async(GetParameters.Request(names=names))
    client.wait(future.done, "the parameters")
    client.destroy_node()
    values = future.result().values
    assert (values[0].string_value, values[1].bool_value, values[2].integer_value) == ("best_effort", True, 32)


def start(*arguments: str) -> subprocess.Popen[str]:
    """Launch in a process of its own, and in a group as a shell makes one for Ctrl-C."""
    program = ("import sys\nfrom launch import LaunchDescription, LaunchService\nfrom launch.actions import IncludeLaunchDescription\n"
               "from launch.launch_description_sources import PythonLaunchDescriptionSource\nservice = LaunchService()\n"
               "given = [tuple(a.split(':=')) for a in sys.argv[2:]]\n"
               "service.include_launch_description(LaunchDescription([IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), "
               "launch_arguments=given)]))\nsys.exit(service.run())\n")
    return subprocess.Popen([sys.executable, "-c", program, str(LAUNCH), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, start_new_session=True)


@pytest.mark.parametrize(("arguments", "code", "expected"), [
    (("build_only:=true",), 0, "are built (build_only)"),
    (("build_only:=true", "weights:=/nowhere/w.safetensors"), 1, "the build failed, exit code 1"),
    (("bag:=/a", "demo:=true"), 1, "bag and demo: expected one source of clouds"),
    (("loop:=true",), 1, "loop: expected only together with bag"),
    (("bag:=/nowhere/at/all",), 1, "/nowhere/at/all: expected a ROS 1 bag or a ROS 2 bag"),
])
def test_the_exit_code_is_that_of_the_launch(installed: Path, arguments: tuple[str, ...], code: int, expected: str) -> None:
    process = start(*arguments)
    try:
        printed, _ = process.communicate(timeout=END_S)
    finally:
        process.kill()
    assert expected in printed
    assert process.returncode == code, printed


def test_several_topics_in_a_bag_are_named(installed: Path, tmp_path: Path) -> None:
    two = write_bag(tmp_path / "two", [b"a" * 22], topics=("/left", "/right"))
    process = start(f"bag:={two}")
    try:
        printed, _ = process.communicate(timeout=END_S)
    finally:
        process.kill()
    assert process.returncode == 1 and "/left, /right" in printed


def test_ctrl_c_ends_everything(installed: Path, bag: Path) -> None:
    process = start(f"bag:={bag}", "loop:=true", "namespace:=stopped")
    client = NodeClient("stopped")
    try:
        client.wait(lambda: client.tokens, "tokens")
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=END_S)
    finally:
        process.kill()
        client.destroy_node()
    assert process.returncode == 0, printed
    assert printed.count("process has finished cleanly") == 2 and "Traceback" not in printed, printed
