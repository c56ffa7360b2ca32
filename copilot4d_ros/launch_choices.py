# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the launch file starts, chosen from its arguments; plain Python, so that it is tested without launch.

What goes in: the texts of the arguments and what the machine has. What comes out: which source of clouds, on which topic, and
the parameters of every process. Whatever cannot be meant is refused with the argument's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from copilot4d_core.data.bag import BagScans, messages
from copilot4d_core.data.simulator import FRAME_ID
from copilot4d_core.deploy.open_runner import RUNNERS
from copilot4d_core.yaml_file import load_yaml, read_yaml_text

LEVELS = ("debug", "info", "warn", "error", "fatal")
CLOCK_HZ = "100"
"""A node in Python spends a third of a core on a clock of 1000 Hz."""
DISCOVERY_S = "1.0"
"""`ros2 bag play` waits for no subscriber, and one that is not found yet misses the first clouds."""
LIVE_FRAME = "velodyne"
_SECTION = "ros__parameters"


class Machine(NamedTuple):
    """What the choice depends on besides the arguments."""

    packages: frozenset[str]
    """Installed ROS packages."""
    has_display: bool


class OwnNode(NamedTuple):
    """A node of this package: its executable, which is its name too, parameters and remappings."""

    name: str
    parameters: dict[str, Any]
    remappings: list[tuple[str, str]]


class Rviz(NamedTuple):
    """RViz: its configuration, fixed frame and remappings."""

    config: Path
    frame: str
    remappings: list[tuple[str, str]]


class Choices(NamedTuple):
    """Everything that is started."""

    use_sim_time: bool
    build_only: bool
    respawn: bool
    overrides: str
    """Text of a parameter file that wins over the one of the user."""
    source: OwnNode | tuple[str, ...] | None
    """A node of ours, the command of `ros2 bag play`, or None for live data."""
    rviz: Rviz | None


def choices(given: Mapping[str, str], machine: Machine) -> Choices:
    """What to start.

    Args:
        given: text of every argument of the launch file.
    Raises:
        ValueError: a value is not allowed, arguments do not go together, or there is no such bag or topic; names the argument.
    """
    _refuse_unknown(given)
    flags = {name: flag(name, given[name]) for name in ("loop", "demo", "build_only", "respawn")}
    _refuse_combinations(given, flags)
    sim_time = bool(given["bag"]) if given["use_sim_time"] == "auto" else flag("use_sim_time", given["use_sim_time"])
    topic = _topic(given, flags["demo"])
    parameters: dict[str, Any] = {"use_sim_time": sim_time, "input_topic": topic}
    parameters |= {name: given[name] for name in ("weights", "runner", "input_qos") if given[name]}
    if flags["build_only"]:
        parameters["build_only"] = True
    overrides = overriding_file(Path(given["params_file"]).expanduser(), parameters)
    source = _source(given, flags, topic, sim_time, machine)
    return Choices(sim_time, flags["build_only"], flags["respawn"], overrides, source, _rviz(given, flags, topic, machine))


def overriding_file(path: Path, parameters: Mapping[str, Any]) -> str:
    """A parameter file that wins over another one, whatever that addresses its parameters to.

    Of two files the later one wins only within a section: `/**` in the first file may beat the node's full name in the
    second. So every section of the first is there again, with our values.

    Args:
        path: a ROS 2 parameter file.
        parameters: names and values.
    Returns:
        YAML.
    Raises:
        ValueError: the file is no parameter file.
    """
    try:
        tree = load_yaml(read_yaml_text(path))
    except ValueError as error:
        raise ValueError(f"params_file: expected YAML in {path}, got: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"params_file: expected sections with ros__parameters in {path}, got {type(tree).__name__}")
    return str(yaml.safe_dump({"/**": {_SECTION: dict(parameters)}} | _replaced(tree, parameters), sort_keys=False))


def _replaced(tree: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a tree of namespaces, with other parameters: a copy each, because ROS reads no YAML aliases."""
    return {name: dict(parameters) if name == _SECTION else _replaced(value, parameters) for name, value in tree.items() if isinstance(value, dict)}


def flag(name: str, text: str) -> bool:
    """True or False of "true" or "false" in any case.

    Raises:
        ValueError: another text.
    """
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name}: expected true or false, got {text!r}")
    return text.lower() == "true"


def _refuse_unknown(given: Mapping[str, str]) -> None:
    allowed = {"runner": ("", *RUNNERS), "input_qos": ("", "auto", "best_effort", "reliable"), "log_level": LEVELS, "dds_profile": ("large", "none")}
    for name, values in allowed.items():
        if given[name] not in values:
            raise ValueError(f"{name}: expected one of {', '.join(value or 'nothing' for value in values)}, got {given[name]!r}")
    _number("rate", given["rate"], 0.01, 100.0)
    _number("start_offset", given["start_offset"], 0.0, 1e6)
    for name in ("params_file", "rviz_config"):
        if not Path(given[name]).expanduser().is_file():
            raise ValueError(f"{name}: expected a file, there is none at {given[name]!r}")


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {text!r}")
    return value


def _refuse_combinations(given: Mapping[str, str], flags: Mapping[str, bool]) -> None:
    if given["bag"] and flags["demo"]:
        raise ValueError("bag and demo: expected one source of clouds, got both; leave out one of them")
    set_for_bag = {"loop": flags["loop"], "rate": float(given["rate"]) != 1.0, "start_offset": float(given["start_offset"]) != 0.0}
    for name, is_set in set_for_bag.items():
        if is_set and not given["bag"]:
            raise ValueError(f"{name}: expected only together with bag, got no bag; add bag:=PATH")
    set_for_running = {"bag": bool(given["bag"]), "demo": flags["demo"], "respawn": flags["respawn"], "rviz": given["rviz"].lower() == "true"}
    for name, is_set in set_for_running.items():
        if is_set and flags["build_only"]:
            raise ValueError(f"build_only and {name}: expected one of them, because the node ends when it has built; leave out {name}")
    if flags["demo"] and given["use_sim_time"].lower() == "true":
        raise ValueError("use_sim_time and demo: expected auto or false, because the simulated sensor publishes no /clock")


def _topic(given: Mapping[str, str], is_demo: bool) -> str:
    """Value of `input_topic`; `auto` leaves the choice to the node."""
    if given["bag"]:
        return BagScans(Path(given["bag"]).expanduser(), given["topic"] or None).topic
    return given["topic"] or ("points" if is_demo else "auto")


def _source(given: Mapping[str, str], flags: Mapping[str, bool], topic: str, sim_time: bool, machine: Machine) -> OwnNode | tuple[str, ...] | None:
    if flags["demo"]:
        return OwnNode("demo_source", {"frame_id": given["frame"]} if given["frame"] else {}, [("~/points", topic)])
    if not given["bag"]:
        return None
    bag, rate, offset = Path(given["bag"]).expanduser(), float(given["rate"]), float(given["start_offset"])
    if ros2_bag_plays(bag, machine.packages):
        command = ["ros2", "bag", "play", str(bag), "--topics", topic, "--rate", str(rate), "--delay", DISCOVERY_S, "--disable-keyboard-controls"]
        command += ["--start-offset", str(offset)] if offset else []
        command += ["--loop"] if flags["loop"] else []
        return tuple(command + (["--clock", CLOCK_HZ] if sim_time else []))
    return OwnNode("bag_player", {"bag": str(bag), "topic": topic, "rate": rate, "loop": flags["loop"], "start_offset_s": offset,
                                  "publish_clock": sim_time}, [])


def ros2_bag_plays(bag: Path, packages: Collection[str]) -> bool:
    """Whether `ros2 bag play` can play a bag: none of ROS 1, and MCAP only with a package that Humble does not bring.

    Args:
        bag: file or folder.
        packages: installed ROS packages.
    """
    files = list(bag.iterdir()) if bag.is_dir() else [bag]
    endings = {file.name.removesuffix(".zstd").rpartition(".")[2] for file in files}
    needed = {"ros2bag", "rosbag2_storage_mcap"} if "mcap" in endings else {"ros2bag"}
    return "bag" not in endings and needed <= set(packages)


def _rviz(given: Mapping[str, str], flags: Mapping[str, bool], topic: str, machine: Machine) -> Rviz | None:
    is_there = "rviz2" in machine.packages
    is_possible = is_there and machine.has_display and not flags["build_only"]
    if not (is_possible if given["rviz"] == "auto" else flag("rviz", given["rviz"])):
        return None
    if not is_there:
        raise ValueError("rviz: expected rviz2 to be installed, it is not; install it, or leave rviz out")
    config = Path(given["rviz_config"]).expanduser()
    return Rviz(config, _frame(given, flags["demo"], topic), rviz_remappings(config.read_text(), given["namespace"], topic))


def rviz_remappings(config: str, namespace: str, topic: str) -> list[tuple[str, str]]:
    """What turns the topics that RViz shows into those of this launch.

    Args:
        config: text of the RViz file, which shows `/tokenizer/...` and, as the input, `/points`.
        namespace: of the node; empty for none.
        topic: the input; relative to the namespace, absolute, or `auto` for one that is not known yet.
    """
    space = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
    own = sorted(set(re.findall(r"Value: /(tokenizer/[\w/]+)", config)))
    remappings = [(f"/{name}", f"{space}{name}") for name in own] if space != "/" else []
    if topic != "auto":
        remappings.append(("/points", topic if topic.startswith("/") else f"{space}{topic}"))
    return remappings


def _frame(given: Mapping[str, str], is_demo: bool, topic: str) -> str:
    if given["frame"]:
        return given["frame"]
    if given["bag"]:
        return str(next(messages(Path(given["bag"]).expanduser(), topic)).message.header.frame_id)
    return FRAME_ID if is_demo else LIVE_FRAME
