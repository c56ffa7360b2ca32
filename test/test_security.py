# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What docs/security.md says: nothing unpickles, bandit finds nothing, and the lock file fits what setup.py asks for."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from locked_versions import HEADER, installed
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
SOURCES = [*(ROOT / "copilot4d_core").rglob("*.py"), *(ROOT / "copilot4d_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "os.system"}


def locked() -> dict[str, str]:
    return dict(line.split("==") for line in LOCK.read_text().splitlines() if not line.startswith("#"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_runs_what_a_file_holds(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & UNSAFE_MODULES
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in UNSAFE_CALLS
            for keyword in node.keywords:
                assert keyword.arg != "allow_pickle" or ast.unparse(keyword.value) == "False"
                assert keyword.arg != "shell" or ast.unparse(keyword.value) == "False"


def test_bandit_finds_nothing() -> None:
    if importlib.util.find_spec("bandit") is None:
        pytest.skip("bandit is not installed: pip install '.[test]'")
    command = [sys.executable, "-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "copilot4d_core", "copilot4d_ros", "launch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_lock_has_an_exact_version_of_everything_that_setup_py_asks_for() -> None:
    text = LOCK.read_text()
    assert all(re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][\w.!]*", line) for line in text.splitlines()), "names and versions only"
    asked = [Requirement(match) for match in re.findall(r'"([A-Za-z][\w-]*[<>=!~][^"]*)"', (ROOT / "setup.py").read_text())]
    versions, here = locked(), {"pycuda", "tensorrt"}  # on a GPU's machine only
    assert len(asked) > 30
    for requirement in asked:
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in here and "<1.18" not in str(requirement):  # Warp for JetPack 6
            assert requirement.specifier.contains(versions[name]), requirement


def test_this_environment_is_the_locked_one() -> None:
    if not LOCK.read_text().startswith(HEADER):
        pytest.skip("the lock is for another Python, which the Makefile then leaves aside")
    versions = locked()
    different = {name: (version, versions[name]) for name, version in installed().items() if versions.get(name, version) != version}
    assert not different, "run `make lock` after an update"
