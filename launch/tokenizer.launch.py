# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Start the tokenizer, and with it a bag, a simulated sensor or RViz; `copilot4d_ros/launch_choices.py` says which."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ament_index_python.packages import get_packages_with_prefixes
from launch.action import Action
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, RegisterEventHandler, SetEnvironmentVariable, TimerAction
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node
from rclpy.node import NodeNameNonExistentError

from copilot4d_ros.dds_profile import large_data_environment
from copilot4d_ros.launch_choices import Choices, Machine, OwnNode, choices
from launch import LaunchContext, LaunchDescription

CONFIG = Path(os.path.abspath(__file__)).parents[1] / "config"
_LOOK_EVERY_S = 0.2
ARGUMENTS = (
    ("bag", "", "ROS 1 or ROS 2 bag to replay; empty: live data. Played as soon as the tokenizer is active."),
    ("topic", "", "PointCloud2 topic to tokenize; empty: the bag's only one, or the only one that is published."),
    ("loop", "false", "Play the bag again and again (true or false)."),
    ("rate", "1.0", "Speed of the bag relative to its recording, 0.01 to 100."),
    ("start_offset", "0.0", "Leave out the first seconds of the bag."),
    ("demo", "false", "Tokenize a simulated sensor on a simulated street instead of a bag or live data (true or false)."),
    ("rviz", "auto", "Start RViz with the tokenizer's view (true or false); auto: where rviz2 and a display are."),
    ("rviz_config", str(CONFIG / "tokenizer.rviz"), "What RViz shows."),
    ("frame", "", "Frame in which RViz shows the clouds; empty: that of the bag's first cloud, lidar with demo, else velodyne."),
    ("runner", "", "What runs the networks: auto, torch, onnx, kernels or tensorrt; empty: as in params_file."),
    ("weights", "", "Path of the .safetensors file or of a folder of `copilot4d export`; empty: as in params_file."),
    ("params_file", str(CONFIG / "tokenizer.yaml"), "Parameters of the node; the arguments here win over it."),
    ("build_only", "false", "Build engines and kernels, and end, with 0 or 1 (true or false)."),
    ("namespace", "", "Namespace of the nodes."),
    ("use_sim_time", "auto", "Take the time from /clock (true or false); auto: true with a bag, whose player publishes it."),
    ("input_qos", "", "Reliability of the input: auto, best_effort or reliable; empty: as in params_file."),
    ("respawn", "false", "Start the node again when it ends (true or false)."),
    ("log_level", "info", "Log level of the nodes: debug, info, warn, error or fatal."),
    ("dds_profile", "large", "Transport of Fast DDS for all that is started: large (clouds over 0.5 MB arrive), or none (leave it alone)."),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, and what they lead to."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS),
        OpaqueFunction(function=_actions),
    ])


def _actions(context: LaunchContext) -> list[Action]:
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    chosen = choices(value, Machine(frozenset(get_packages_with_prefixes()), has_display))
    environment = large_data_environment() if value["dds_profile"] == "large" else {}
    tokenizer = Node(
        **_ours("tokenizer_node", value), name="tokenizer", respawn=chosen.respawn, respawn_delay=2.0,
        parameters=[value["params_file"], _parameter_file(chosen.overrides)],
    )
    return [*(SetEnvironmentVariable(name, text) for name, text in environment.items()),
            *_verdict(chosen, tokenizer), tokenizer, *_source(value, chosen, tokenizer), *_rviz(chosen)]


def _ours(executable: str, value: dict[str, str]) -> dict[str, Any]:
    return {"package": "copilot4d_ros", "executable": executable, "namespace": value["namespace"], "output": "screen",
            "arguments": ["--ros-args", "--log-level", value["log_level"]]}


def _parameter_file(text: str) -> str:
    """A file of its own, which stays, as those of launch_ros do: a node that is started again reads it again."""
    with NamedTemporaryFile("w", prefix="tokenizer_", suffix=".yaml", delete=False) as file:
        file.write(text)
    return file.name


def _source(value: dict[str, str], chosen: Choices, tokenizer: Node) -> list[Action]:
    source = chosen.source
    if source is None:
        return []
    if isinstance(source, OwnNode):
        player: Action = Node(**_ours(source.name, value), name=source.name, parameters=[source.parameters], remappings=source.remappings)
    else:
        player = ExecuteProcess(cmd=list(source), output="screen")
    return [_once_active(tokenizer, player, chosen.respawn)] if value["bag"] else [player]


def _once_active(tokenizer: Node, player: Action, respawn: bool) -> Action:
    """Starts a player once, when the node subscribes, which it does when it becomes active: seconds to minutes after its start.

    Its subscription is looked for and not its transition event, because an event before the two have found each other is lost.
    """

    def look(context: LaunchContext) -> list[Action]:
        if tokenizer.return_code is not None and not respawn:
            return []
        if _subscribes(get_ros_node(context), tokenizer.node_name):
            return [player]
        return [TimerAction(period=_LOOK_EVERY_S, actions=[OpaqueFunction(function=look)])]

    return OpaqueFunction(function=look)


def _subscribes(observer: Any, full_name: str) -> bool:
    """Whether a node takes clouds; False while it is not known yet."""
    namespace, _, name = full_name.rpartition("/")
    try:
        topics = observer.get_subscriber_names_and_types_by_node(name, namespace or "/")
    except NodeNameNonExistentError:
        return False
    return any("sensor_msgs/msg/PointCloud2" in types for _, types in topics)


def _verdict(chosen: Choices, tokenizer: Node) -> list[Action]:
    """With build_only, a failed build is a failed launch, so that a script sees it."""

    def ended(event: ProcessExited, context: LaunchContext) -> None:
        if event.returncode != 0 and not context.is_shutdown:
            raise RuntimeError(f"the build failed, exit code {event.returncode}; its reason stands above")

    return [RegisterEventHandler(OnProcessExit(target_action=tokenizer, on_exit=ended))] if chosen.build_only else []


def _rviz(chosen: Choices) -> list[Action]:
    rviz = chosen.rviz
    if rviz is None:
        return []
    return [Node(package="rviz2", executable="rviz2", output="log", parameters=[{"use_sim_time": chosen.use_sim_time}],
                 arguments=["-d", str(rviz.config), "-f", rviz.frame], remappings=rviz.remappings)]
