# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, ROS stays out of the core, and torch stays out of what a robot runs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "copilot4d_core"
LAYERS = ["atomic_file", "tensor_file", "yaml_file", "config", "config_file", "grid", "code_table", "positions", "model_file", "kernels",
          "tokenizer", "data", "deploy", "evaluation", "training", "benchmark", "cli_model", "cli_view", "cli_sensor", "cli_bench", "cli_card",
          "cli_deploy", "cli"]
WITH_TORCH = {"tokenizer", "training"}
TORCH_FILES = {"torch_runner.py", "torch_reference.py", "plain_torch.py", "training_step.py"}
WITHOUT = {"rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs", "copilot4d_ros"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def layer(path: Path) -> str:
    part = path.relative_to(CORE).parts[0]
    return part.removesuffix(".py")


FILES = sorted(path for path in CORE.rglob("*.py") if path.name != "__init__.py")


def test_there_are_files_in_every_layer() -> None:
    assert {layer(path) for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_a_file_imports_only_from_the_layers_above(path: Path) -> None:
    own = LAYERS.index(layer(path))
    for module in imports(path):
        assert module.split(".")[0] not in WITHOUT, f"{path.name} imports {module}: the core knows no ROS"
        if module.startswith("copilot4d_core."):
            target = module.split(".")[1]
            assert LAYERS.index(target) <= own, f"{path.name} ({LAYERS[own]}) imports {module}"
        if module.split(".")[0] == "torch":
            assert layer(path) in WITH_TORCH or path.name in TORCH_FILES, f"{path.name} imports torch"
