# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The README is true: its commands run, its tables are those of the code, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.config import preset
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.kernel_weights import inference_kernels
from copilot4d_ros.parameter_table import ParameterSpec, specs
from copilot4d_ros.parameters import CameraParameters, TokenizerParameters

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ELSEWHERE = ("make", "ros2", "colcon", "cd", "git", "source", "export", "pip")
"""First words of commands that other tests run (make, colcon) or that need a ROS installation."""
EXTRAS = {"view": "rerun", "--rate-distortion": "DracoPy"}
"""What needs a package of an extra, which colcon's environment need not have."""
PARAMETERS = [*specs(TokenizerParameters), *specs(CameraParameters, "camera.")]


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_command_line_of_the_core_runs_and_leaves_what_it_says(tmp_path: Path) -> None:
    scan = next(iter(simulate_drive(5, 1, "hdl64")))
    np.column_stack([scan.points_m, scan.intensity]).astype("<f4").tofile(tmp_path / "scan.bin")
    mine = [line for line in commands() if line.startswith("copilot4d ")]
    assert {line.split()[1] for line in mine} == {
        "encode", "decode", "evaluate", "view", "fit-prior", "train", "fit-sensor", "export", "build-engine", "build-kernels", "agreement", "doctor"}
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT),
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in mine:
        words = [sys.executable, "-m", "copilot4d_core.cli", *line.split()[1:]]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if any(word in words and importlib.util.find_spec(package) is None for word, package in EXTRAS.items()):
            assert done.returncode == 2 and "pip install" in done.stderr
            continue
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for name in ("tokens.npz", "cloud.pcd", "depth.png", "results.json", "runs/first/weights.safetensors", "runs/first/checkpoint.safetensors",
                 "robot/manifest.json", "robot/engines/encoder.engine", "robot/engines/decoder.engine.json"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert json.loads((tmp_path / "results.json").read_text())["data_sets"]["scan"]["scans"] == 1
    cubins = json.loads((tmp_path / "robot/kernels/kernels.json").read_text())["kernels"]
    names = {kernel.key for kernel in inference_kernels(preset("mini"))}
    assert all({name for cubin in cubins if cubin["arch"] == arch for name in cubin["names"]} >= names for arch in (87, 110))


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_other_commands_are_known_kinds() -> None:
    others = [line for line in commands() if not line.startswith("copilot4d ")]
    assert not [line for line in others if line.split()[0] not in ELSEWHERE]


@pytest.mark.parametrize("spec", PARAMETERS, ids=lambda spec: spec.name)
def test_parameter_table_is_that_of_the_node(spec: ParameterSpec) -> None:
    default = ", ".join(spec.default) if isinstance(spec.default, tuple) else spec.default
    shown = "(empty)" if default == "" else str(default)
    row = next((line for line in README.splitlines() if line.startswith(f"| `{spec.name}` |")), "")
    assert re.match(rf"\| `{re.escape(spec.name)}` \| {re.escape(shown)} \| {'' if spec.read_only else 'live'} *\|", row), row


def test_parameter_table_has_no_row_too_many() -> None:
    table = README.split("| parameter |")[1].split("\n\n")[0]
    assert set(re.findall(r"\| `([a-z0-9_.]+)` \|", table)) == {spec.name for spec in PARAMETERS}


def test_links_and_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:copilot4d_core|copilot4d_ros|config|launch|test|docs)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


def test_quoted_results_are_those_of_the_model_card() -> None:
    card = (ROOT / "copilot4d_core" / "weights" / "MODEL_CARD.md").read_text()
    table = README.split("| data set |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| [a-z]", line)]
    assert len(rows) >= 2
    for row in rows:
        assert row in card, row
