"""Start the tokenizer; with `bag` also a player of that bag, with `rviz` also RViz."""

from __future__ import annotations

import os
from pathlib import Path

from launch.action import Action
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription

CONFIG = Path(os.path.abspath(__file__)).parents[1] / "config"
ARGUMENTS = (
    ("topic", "", "PointCloud2 topic to tokenize; empty: /points, or the bag's only one."),
    ("weights", "", "Path of the .safetensors file or of a folder of `copilot4d export`; empty: the weights in the package."),
    ("runner", "", "What runs the networks: auto, torch, onnx or tensorrt; empty: as in params_file."),
    ("input_qos", "", "Reliability of the input: auto, best_effort or reliable; empty: as in params_file."),
    ("namespace", "", "Namespace of the node."),
    ("build_only", "false", "Build engines and kernels, and end (true or false)."),
    ("respawn", "false", "Start the node again when it ends by a fault (true or false)."),
    ("bag", "", "ROS 1 or ROS 2 bag to replay; empty: live data."),
    ("rate", "1.0", "Speed of the bag relative to its recording."),
    ("loop", "false", "Play the bag again and again (true or false)."),
    ("rviz", "false", "Start RViz with the tokenizer's view (true or false)."),
    ("frame", "velodyne", "Frame in which RViz shows the clouds: the frame_id of the input."),
    ("use_sim_time", "auto", "Take the time from /clock (true or false); auto: true with a bag."),
    ("params_file", str(CONFIG / "tokenizer.yaml"), "Parameters of the node; the arguments here win over it."),
    ("log_level", "info", "Log level of the node: debug, info, warn, error or fatal."),
)


def generate_launch_description() -> LaunchDescription:
    """Arguments, the transport profile for large clouds, and the nodes."""
    profile = str(CONFIG / "fastdds_large_data.xml")
    names = ["FASTDDS_DEFAULT_PROFILES_FILE"]
    if os.environ.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy"):
        names.append("FASTRTPS_DEFAULT_PROFILES_FILE")  # Newer distributions warn about the old name.
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS),
        *(SetEnvironmentVariable(name, os.environ.get(name, profile)) for name in names),
        OpaqueFunction(function=_nodes),
    ])


def _nodes(context: LaunchContext) -> list[Action]:
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    sim_time = bool(value["bag"]) if value["use_sim_time"] == "auto" else _flag("use_sim_time", value)
    topic = value["topic"] or "/points"
    nodes: list[Action] = [Node(
        package="copilot4d_ros", executable="tokenizer_node", name="tokenizer", output="screen", namespace=value["namespace"],
        respawn=_flag("respawn", value), respawn_delay=2.0,
        parameters=[value["params_file"], _chosen(value, sim_time)],
        remappings=[("~/input/points", topic)], arguments=["--ros-args", "--log-level", value["log_level"]],
    )]
    if value["bag"]:
        nodes.append(Node(
            package="copilot4d_ros", executable="bag_player", name="bag_player", output="screen",
            parameters=[{"bag": value["bag"], "topic": value["topic"], "output_topic": topic, "rate": float(value["rate"]),
                         "loop": _flag("loop", value), "publish_clock": sim_time}],
        ))
    if _flag("rviz", value):
        nodes.append(Node(
            package="rviz2", executable="rviz2", output="log", parameters=[{"use_sim_time": sim_time}],
            arguments=["-d", str(CONFIG / "tokenizer.rviz"), "-f", value["frame"]], remappings=[("/points", topic)],
        ))
    return nodes


def _chosen(value: dict[str, str], sim_time: bool) -> dict[str, str | bool]:
    chosen: dict[str, str | bool] = {"use_sim_time": sim_time}
    if _flag("build_only", value):
        chosen["build_only"] = True
    return chosen | {name: value[name] for name in ("weights", "runner", "input_qos") if value[name]}


def _flag(name: str, value: dict[str, str]) -> bool:
    if value[name].lower() not in ("true", "false"):
        raise ValueError(f"{name}: expected true or false, got {value[name]!r}")
    return value[name].lower() == "true"
