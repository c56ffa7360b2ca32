# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the launch file chooses, without launch: player, topic, flags, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from recorded_bag import write_bag

from copilot4d_ros.launch_choices import Choices, Machine, OwnNode, choices, overriding_file, rviz_remappings

ROOT = Path(__file__).resolve().parents[1]
BARE = Machine(frozenset({"copilot4d_ros"}), has_display=False)
ROBOT = Machine(frozenset({"copilot4d_ros", "ros2bag", "rosbag2_storage_mcap", "rviz2"}), has_display=True)
DEFAULTS = {
    "bag": "", "topic": "", "loop": "false", "rate": "1.0", "start_offset": "0.0", "demo": "false", "rviz": "auto",
    "rviz_config": str(ROOT / "config" / "tokenizer.rviz"), "frame": "", "runner": "", "weights": "",
    "params_file": str(ROOT / "config" / "tokenizer.yaml"), "build_only": "false", "namespace": "", "use_sim_time": "auto", "input_qos": "",
    "respawn": "false", "log_level": "info", "dds_profile": "large",
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bag(tmp_path_factory.mktemp("recorded") / "bag", [bytes(22)])


def chosen(machine: Machine = BARE, **given: str) -> Choices:
    return choices(DEFAULTS | given, machine)


def parameters(what: Choices) -> dict[str, Any]:
    return dict(yaml.safe_load(what.overrides)["/**"]["ros__parameters"])


def test_live_data_leaves_the_topic_to_the_node_or_names_it() -> None:
    live = chosen()
    assert (live.source, live.rviz, live.use_sim_time, live.respawn) == (None, None, False, False)
    assert parameters(live) == {"use_sim_time": False, "input_topic": "auto"}
    named = chosen(topic="/velodyne_points", runner="onnx", input_qos="reliable", weights="/w.safetensors", build_only="True")
    assert parameters(named) == {"use_sim_time": False, "input_topic": "/velodyne_points", "runner": "onnx", "input_qos": "reliable",
                                 "weights": "/w.safetensors", "build_only": True}


def test_a_bag_without_ros2_bag_is_played_by_our_player(bag: Path) -> None:
    played = chosen(bag=str(bag), loop="true", rate="2", start_offset="1.5")
    assert played.source == OwnNode("bag_player", {"bag": str(bag), "topic": "/roof/points", "rate": 2.0, "loop": True, "start_offset_s": 1.5,
                                                   "publish_clock": True}, [])
    assert parameters(played) == {"use_sim_time": True, "input_topic": "/roof/points"}
    without_clock = chosen(bag=str(bag), use_sim_time="false").source
    assert isinstance(without_clock, OwnNode) and without_clock.parameters["publish_clock"] is False


def test_a_ros_2_bag_is_played_by_ros2_bag_where_that_can(bag: Path) -> None:
    command = chosen(ROBOT, bag=str(bag), rviz="false").source
    assert command == ("ros2", "bag", "play", str(bag), "--topics", "/roof/points", "--rate", "1.0", "--delay", "1.0",
                       "--disable-keyboard-controls", "--clock", "100")
    assert "--clock" not in (chosen(ROBOT, bag=str(bag), use_sim_time="false").source or ())
    # Humble's default installation reads no MCAP.
    humble = Machine(ROBOT.packages - {"rosbag2_storage_mcap"}, has_display=False)
    assert isinstance(chosen(humble, bag=str(bag)).source, OwnNode)


def test_a_ros_1_bag_is_always_played_by_our_player(lidar_data: Path) -> None:
    played = chosen(ROBOT, bag=str(lidar_data / "bags" / "luminar_truck_ros1.bag"))
    assert isinstance(played.source, OwnNode) and played.source.parameters["topic"] == "/luminar_pointcloud"
    assert played.rviz is not None and played.rviz.frame == "luminar_lidar"


def test_the_simulated_sensor_publishes_where_the_node_listens() -> None:
    demo = chosen(demo="true", namespace="left")
    assert demo.source == OwnNode("demo_source", {}, [("~/points", "points")])
    assert parameters(demo) == {"use_sim_time": False, "input_topic": "points"}
    assert chosen(demo="true", topic="/x", frame="roof").source == OwnNode("demo_source", {"frame_id": "roof"}, [("~/points", "/x")])


def test_rviz_starts_by_itself_only_where_it_can_be_seen(bag: Path) -> None:
    shown = chosen(ROBOT, bag=str(bag)).rviz
    assert shown is not None and (shown.frame, shown.config) == ("roof", ROOT / "config" / "tokenizer.rviz")
    assert ("/points", "/roof/points") in shown.remappings
    assert chosen(ROBOT._replace(has_display=False)).rviz is None and chosen(BARE._replace(has_display=True)).rviz is None
    assert chosen(ROBOT, rviz="false").rviz is None and chosen(ROBOT, build_only="true").rviz is None
    remote = chosen(ROBOT._replace(has_display=False), rviz="true").rviz
    assert remote is not None and (remote.frame, remote.remappings) == ("velodyne", [])
    with pytest.raises(ValueError, match="rviz: expected rviz2 to be installed"):
        chosen(BARE, rviz="true")


def test_rviz_sees_the_namespace() -> None:
    config = "Value: /points\nValue: /tokenizer/tokens\nValue: /tokenizer/camera/depth\nValue: /tokenizer/tokens\nValue: false\n"
    assert rviz_remappings(config, "/a/b/", "points") == [
        ("/tokenizer/camera/depth", "/a/b/tokenizer/camera/depth"), ("/tokenizer/tokens", "/a/b/tokenizer/tokens"), ("/points", "/a/b/points")]
    assert rviz_remappings(config, "", "/velodyne_points") == [("/points", "/velodyne_points")]


@pytest.mark.parametrize(("given", "expected"), [
    ({"bag": "/a", "demo": "true"}, "bag and demo: expected one source of clouds"),
    ({"loop": "true"}, "loop: expected only together with bag"),
    ({"rate": "2"}, "rate: expected only together with bag"),
    ({"start_offset": "2"}, "start_offset: expected only together with bag"),
    ({"build_only": "true", "bag": "/a"}, "build_only and bag"),
    ({"build_only": "true", "demo": "true"}, "build_only and demo"),
    ({"build_only": "true", "respawn": "true"}, "build_only and respawn"),
    ({"build_only": "true", "rviz": "true"}, "build_only and rviz"),
    ({"demo": "true", "use_sim_time": "true"}, "use_sim_time and demo"),
    ({"bag": "/nowhere/at/all"}, "/nowhere/at/all"),
    ({"bag": "/a", "rate": "0"}, "rate: expected a number from 0.01 to 100, got '0'"),
    ({"bag": "/a", "rate": "nan"}, "rate: expected a number"),
    ({"bag": "/a", "start_offset": "-1"}, "start_offset: expected a number"),
    ({"runner": "gpu"}, "runner: expected one of nothing, auto, torch, onnx, kernels, tensorrt, got 'gpu'"),
    ({"input_qos": "best"}, "input_qos: expected one of"),
    ({"log_level": "loud"}, "log_level: expected one of"),
    ({"dds_profile": "small"}, "dds_profile: expected one of large, none"),
    ({"respawn": "yes"}, "respawn: expected true or false, got 'yes'"),
    ({"rviz": "yes"}, "rviz: expected true or false"),
    ({"params_file": "/nowhere.yaml"}, "params_file: expected a file"),
    ({"rviz_config": "/nowhere.rviz"}, "rviz_config: expected a file"),
])
def test_what_cannot_be_meant_is_refused(given: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError) as error:
        chosen(**given)
    assert expected in str(error.value)


def test_a_bag_with_several_topics_is_refused_with_their_names(tmp_path: Path) -> None:
    two = write_bag(tmp_path / "two", [bytes(22)], topics=("/left", "/right"))
    with pytest.raises(ValueError, match="/left, /right"):
        chosen(bag=str(two))
    assert parameters(chosen(bag=str(two), topic="/right"))["input_topic"] == "/right"
    with pytest.raises(ValueError, match="/middle"):
        chosen(bag=str(two), topic="/middle")


def test_overrides_reach_every_section_that_a_file_has(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("robot: {tokenizer: {ros__parameters: {runner: torch, depth: {rows: 2}}}}\n/x/tokenizer: {ros__parameters: {runner: torch}}\n")
    text = overriding_file(file, {"runner": "onnx"})
    ours = {"ros__parameters": {"runner": "onnx"}}
    assert yaml.safe_load(text) == {"/**": ours, "robot": {"tokenizer": ours}, "/x/tokenizer": ours}
    assert "&" not in text and "*id" not in text, "ROS reads no YAML aliases"
    for broken in ("[1, 2]", "a: [", ""):
        file.write_text(broken)
        with pytest.raises(ValueError, match="params_file: expected"):
            overriding_file(file, {})


def test_a_node_takes_the_overrides_whatever_its_file_says(graph: None, tmp_path: Path) -> None:
    mine, ours = tmp_path / "mine.yaml", tmp_path / "ours.yaml"
    # The last section of the first file would win over the node's full name in the second.
    mine.write_text("/probe: {ros__parameters: {a: 1, b: 1}}\nprobe: {ros__parameters: {a: 2}}\n/**: {ros__parameters: {a: 3}}\n")
    ours.write_text(overriding_file(mine, {"a": 7}))
    program = ("import rclpy\nrclpy.init()\nnode = rclpy.create_node('probe')\n"
               "print([node.declare_parameter(name, 0).value for name in 'ab'])\nrclpy.try_shutdown()\n")
    command = [sys.executable, "-c", program, "--ros-args", "--params-file", str(mine), "--params-file", str(ours)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=dict(os.environ))
    assert done.stdout.strip() == "[7, 1]"
