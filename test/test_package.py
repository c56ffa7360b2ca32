# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The package as ROS and pip see it: manifest, colcon build, launch file, profile, layers."""

from __future__ import annotations

import ast
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch" / "tokenizer.launch.py"
NOT_A_DEPENDENCY_OF_ROS = {"copilot4d_core", "copilot4d_ros", "numpy", "rich", "matplotlib", "rosbags", "yaml", "scipy", "PIL"}

STAGES = ("unpack", "voxelize", "encode", "decode", "render", "total")
COLCON = shutil.which("colcon", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_the_manifest_names_every_ros_package_that_is_imported() -> None:
    # A manifest that does not parse is no error for colcon: it would build a package that ROS cannot find.
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert (manifest.get("format"), manifest.findtext("name")) == ("3", "copilot4d_ros")
    assert manifest.findtext("export/build_type") == "ament_python"
    depends = {entry.text for entry in manifest.iter("exec_depend")}
    files = [*(ROOT / "copilot4d_ros").glob("*.py"), LAUNCH]
    ros = set().union(*map(imported_packages, files)) - set(sys.stdlib_module_names) - NOT_A_DEPENDENCY_OF_ROS
    assert ros <= depends


def test_one_version_everywhere() -> None:
    versions = {ElementTree.parse(ROOT / "package.xml").getroot().findtext("version")}
    for name in ("setup.py", "copilot4d_core/__init__.py"):
        versions |= set(re.findall(r'version(?:__)? ?= ?"([^"]+)"', (ROOT / name).read_text()))
    assert len(versions) == 1, versions


def test_each_source_file_states_its_copyright_and_licence() -> None:
    files = [path for folder in ("copilot4d_core", "copilot4d_ros", "launch", "test") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    for path in [*files, ROOT / "setup.py"]:
        lines = path.read_text().splitlines()[:2]
        assert re.match(r"# Copyright \d{4} copilot4d developers$", lines[0]) and lines[1] == "# SPDX-License-Identifier: Apache-2.0", path


def test_the_core_imports_no_ros() -> None:
    ros = {"rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs", "rosgraph_msgs", "builtin_interfaces", "copilot4d_ros"}
    found = {path.name: imported_packages(path) & ros for path in (ROOT / "copilot4d_core").rglob("*.py")}
    assert {name: packages for name, packages in found.items() if packages} == {}


@pytest.mark.skipif(COLCON is None, reason="colcon is not installed: pip install '.[test]'")
def test_colcon_builds_what_ros2_run_and_ros2_launch_look_for(tmp_path: Path) -> None:
    source = tmp_path / "src" / "copilot4d_ros"
    # A copy, because a build leaves files beside the sources.
    ignored = shutil.ignore_patterns(".*", "out", "build", "install", "log", "*.egg-info", "__pycache__", "test", "runs")
    shutil.copytree(ROOT, source, ignore=ignored)
    built = subprocess.run([str(COLCON), "build"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    prefix = tmp_path / "install" / "copilot4d_ros"
    for executable in ("tokenizer_node", "detokenizer_node", "bag_player", "demo_source"):
        assert os.access(prefix / "lib" / "copilot4d_ros" / executable, os.X_OK)
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "copilot4d_ros").is_file()
    shared = prefix / "share" / "copilot4d_ros"
    for file in ("package.xml", "launch/tokenizer.launch.py"):
        assert (shared / file).is_file()
    assert {path.name for path in (shared / "config").iterdir()} == {path.name for path in (ROOT / "config").iterdir()}
    weights = {path.name for path in (ROOT / "copilot4d_core" / "weights").iterdir() if path.is_file()}
    packages = next((prefix / "lib").glob("python3*/site-packages"))
    assert {path.name for path in (packages / "copilot4d_core" / "weights").glob("*")} >= weights
    sensors = {path.name for path in (ROOT / "copilot4d_core" / "data" / "sensors").glob("*.yaml")}
    assert {path.name for path in (packages / "copilot4d_core" / "data" / "sensors").glob("*")} == sensors != set()


def test_the_launch_file_compiles_and_describes_its_arguments(tmp_path: Path) -> None:
    py_compile.compile(str(LAUNCH), cfile=str(tmp_path / "launch.pyc"), doraise=True)
    tree = ast.parse(LAUNCH.read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    arguments = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "ARGUMENTS")
    assert isinstance(arguments, ast.Tuple)
    described = {entry.elts[0].value: entry.elts[2].value for entry in arguments.elts  # type: ignore[attr-defined]
                 if isinstance(entry, ast.Tuple)}
    assert set(described) == {
        "bag", "topic", "loop", "rate", "start_offset", "rviz", "rviz_config", "runner", "weights", "params_file", "build_only", "namespace",
        "use_sim_time", "input_qos", "respawn", "log_level", "demo", "frame", "dds_profile"}
    assert all(len(text) > 10 for text in described.values())


def test_the_profile_replaces_the_builtin_transports() -> None:
    space = {"d": "http://www.eprosima.com"}
    profile = ElementTree.parse(ROOT / "config" / "fastdds_large_data.xml").getroot()
    transports = {t.findtext("d:type", namespaces=space): t for t in profile.iter(f"{{{space['d']}}}transport_descriptor")}
    assert set(transports) == {"SHM", "UDPv4"}
    assert transports["SHM"].findtext("d:segment_size", namespaces=space) == str(64 * 2**20)
    assert profile.findtext(".//d:useBuiltinTransports", namespaces=space) == "false"


def test_rviz_shows_the_topics_of_the_node() -> None:
    view = yaml.safe_load((ROOT / "config" / "tokenizer.rviz").read_text())
    displays = {display["Name"]: display for display in view["Visualization Manager"]["Displays"]}
    shown = {name: display["Topic"]["Value"] for name, display in displays.items() if "Topic" in display}
    assert shown == {"Input": "/points", "Reconstruction": "/tokenizer/reconstruction", "Tokens": "/tokenizer/tokens",
                     "Depth colours": "/tokenizer/depth/color", "Depth": "/tokenizer/depth"}
    assert displays["Input"]["Topic"]["Reliability Policy"] == "Best Effort", "a reliable display would miss most drivers"
    assert displays["Depth"]["Normalize Range"] is False, "RViz truncates automatic limits to whole metres"
    reconstruction = displays["Reconstruction"]
    assert (reconstruction["Color Transformer"], reconstruction["Channel Name"]) == ("Intensity", "error_m")
    assert reconstruction["Autocompute Intensity Bounds"] is False, "the same error has the same colour in every scan"


def test_the_foxglove_layout_shows_topics_of_the_node_and_every_panel_is_placed() -> None:
    layout = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    scene = panels["3D!scene"]["topics"]
    pictures = {panel["imageMode"]["imageTopic"] for panel in panels.values() if "imageMode" in panel}
    assert set(scene) == {"/points", "/tokenizer/reconstruction"}
    assert pictures == {"/tokenizer/depth/color", "/tokenizer/tokens", "/tokenizer/camera/depth"}
    assert panels["DiagnosticSummary!health"]["topicToRender"] == "/diagnostics"
    assert scene["/tokenizer/reconstruction"]["colorField"] == "error_m"
    plotted = {path["value"] for path in panels["Plot!times"]["paths"]}
    times = [*(f"processing_time/{stage}_ms" for stage in STAGES), "cyclic_time_ms", "pipeline_latency_ms"]
    assert plotted <= {f"/tokenizer/debug/{name}.data" for name in times}

    def placed(node: object) -> set[str]:
        return {node} if isinstance(node, str) else placed(node["first"]) | placed(node["second"])  # type: ignore[index]

    assert placed(layout["layout"]) == set(panels)
