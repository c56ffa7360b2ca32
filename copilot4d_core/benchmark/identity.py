# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a benchmark ran on: commit, hardware, power mode, versions; so that two results can be told apart.

What goes in: nothing. What comes out: plain values for JSON. Unusual: nothing here imports a package that it names.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from copilot4d_core.deploy.hardware import FOUND, Finding, cpu, driver, governor, gpu, power
from copilot4d_core.deploy.machine import Machine
from copilot4d_core.kernels.launch import num_cores

PACKAGES = ("copilot4d_ros", "numpy", "warp-lang", "onnxruntime", "torch", "ros-rclpy")


def identity(machine: Machine | None = None) -> dict[str, Any]:
    """Commit, hardware, power mode and versions; None for what is not there.

    Args:
        machine: None looks at this one.
    """
    at = machine or Machine()
    return {
        "commit": commit(),
        "hardware": {"cpu": _value(cpu(at)), "cores_used": num_cores(), "memory_gib": _memory_gib(at), "gpu": _value(gpu(at, {})),
                     "driver": _value(driver(at, {}))},
        "power_mode": {"gpu": _value(power(at)), "cpu_governor": _value(governor(at))},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def commit() -> str | None:
    """Commit of the checkout that the package lies in, with `+` behind it where files differ; None for an installed package."""
    at = Path(__file__).resolve().parent
    try:
        said = [subprocess.run(["git", "-C", str(at), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
                for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])]
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] + ("+" if said[1] else "")


def _value(finding: Finding) -> str | None:
    return finding.value if finding.status == FOUND else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory_gib(machine: Machine) -> float | None:
    first = machine.read("proc/meminfo").partition("\n")[0].split()
    return round(int(first[1]) / 2**20, 1) if first[:1] == ["MemTotal:"] else None
