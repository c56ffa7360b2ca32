# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a machine has of what the runners need, and what to install for the rest.

In: the machine. Out: one finding for each part, as a table or as plain values.
Unusual: a part that is missing, broken or hangs is a finding like any other; nothing here raises or takes more than seconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from copilot4d_core.deploy.hardware import ABSENT, BROKEN, FOUND, JETPACK, Finding, cpu, driver, governor, gpu, jetson, power
from copilot4d_core.deploy.machine import Machine, ProbeError
from copilot4d_core.kernels.cache import cache_root

CPU_ONLY = ", CPU only"
COLOURS = {FOUND: "green", ABSENT: "yellow", BROKEN: "red"}


class _Package(NamedTuple):
    name: str
    module: str
    code: str
    """Fills `answer["value"]`, in a process of its own."""
    advice: str


_VERSION = 'answer["value"] = {0}.__version__'
PACKAGES = (
    _Package("rclpy", "rclpy", """
import rclpy
from rclpy.utilities import get_rmw_implementation_identifier
answer["value"] = f"{os.path.dirname(rclpy.__file__)}, {get_rmw_implementation_identifier()}"
""", "for the node: source a ROS 2 installation, or without one `pip install 'copilot4d_ros[ros]'`"),
    # Two seconds of import for a number that the package's metadata holds.
    _Package("torch", "torch", 'answer["value"] = importlib.metadata.version("torch")', "for training and the torch runner: `pip install torch`"),
    _Package("Warp", "warp", """
import tempfile
with tempfile.TemporaryDirectory() as folder:
    os.environ["WARP_CACHE_PATH"] = folder
    from copilot4d_core.kernels.binaries import driver_obstacle
    import warp
    toolkit = warp.get_cuda_toolkit_version()
    answer["value"] = f"{warp.__version__}, " + (f"CUDA {toolkit[0]}.{toolkit[1]}" if toolkit else "without CUDA")
    answer["obstacle"] = driver_obstacle()
""", "`pip install warp-lang`; JetPack 6: `pip install 'warp-lang>=1.14,<1.18'`"),
    _Package("ONNX Runtime", "onnxruntime", """
import onnxruntime
answer["value"] = f"{onnxruntime.__version__}, " + ", ".join(onnxruntime.get_available_providers())
""", "for the onnx runner: `pip install onnxruntime`"),
    _Package("onnx", "onnx", "import onnx\n" + _VERSION.format("onnx"), "to run or export weights: `pip install onnx`"),
    _Package("TensorRT", "tensorrt", "import tensorrt\n" + _VERSION.format("tensorrt"),
             "for the tensorrt runner, with an NVIDIA GPU: `pip install tensorrt`"),
    _Package("TensorRT-RTX", "tensorrt_rtx", "import tensorrt_rtx\n" + _VERSION.format("tensorrt_rtx"),
             "instead of TensorRT, with an RTX GPU: `pip install tensorrt-rtx-cu13`"),
    _Package("pycuda", "pycuda", """
import pycuda
answer["value"] = pycuda.VERSION_TEXT
import pycuda.driver as cuda
try:
    cuda.init()
    device = cuda.Device(0)
    answer["gpu"] = "{}, compute capability {}.{}, {} MiB".format(device.name(), *device.compute_capability(), device.total_memory() // 2**20)
    version = cuda.get_driver_version()
    answer["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
except cuda.Error as error:
    answer["value"] += f"; no GPU: {error}"
""", "for the tensorrt runner, with an NVIDIA GPU: `pip install pycuda`"),
)
NEEDS = {
    "torch": ("torch", "Warp"),
    "onnx": ("ONNX Runtime", "onnx", "Warp"),
    "kernels": ("Warp",),
    "tensorrt": ("NVIDIA driver", "GPU", "Warp", "pycuda", "TensorRT"),
}
"""Findings that a runner cannot do without."""
INSTEAD = {"TensorRT": "TensorRT-RTX"}


def examine(machine: Machine | None = None) -> list[Finding]:
    """Look at everything that the runners need; takes seconds and raises nothing.

    Args:
        machine: None looks at this one.
    """
    at = machine or Machine()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda package: _ask(at, package), PACKAGES))
    said = {package.name: answer for package, (_, answer) in zip(PACKAGES, answers, strict=True)}
    its_driver = driver(at, said["pycuda"])
    packages = [_with_driver(finding, said[finding.name], its_driver) for finding, _ in answers]
    findings = [_python(at), _ros(at), *packages, its_driver, gpu(at, said["pycuda"]), power(at), cpu(at), governor(at), _cache(at)]
    return findings + _runners(findings)


def _ask(machine: Machine, package: _Package) -> tuple[Finding, dict[str, Any]]:
    advice = JETPACK if package.name == "TensorRT" and jetson(machine) else package.advice
    try:
        answer = machine.package(package.module, package.code)
    except ProbeError as error:
        return Finding(package.name, BROKEN, str(error), f"install it again; {advice}"), {}
    if answer is None:
        return Finding(package.name, ABSENT, "", advice), {}
    return Finding(package.name, FOUND, answer["value"]), answer


def _with_driver(finding: Finding, answer: dict[str, Any], its_driver: Finding) -> Finding:
    """Warp's finding, with whether it fits the driver that is there."""
    obstacle = answer.get("obstacle")
    if obstacle is None:
        return finding
    if not obstacle:
        return finding._replace(value=f"{finding.value}, fits the driver")
    return finding._replace(value=f"{finding.value}{CPU_ONLY}", advice=obstacle if its_driver.status == FOUND else "")


def _python(machine: Machine) -> Finding:
    try:
        said = machine.package("sys", 'import platform\nanswer["value"] = f"{platform.python_version()} on {platform.machine()}, {sys.executable}"')
        return Finding("Python", FOUND, said["value"] if said else "")
    except ProbeError as error:
        return Finding("Python", BROKEN, str(error), "install Python 3.10 or newer")


def _ros(machine: Machine) -> Finding:
    distribution = machine.environment.get("ROS_DISTRO", "")
    if distribution:
        return Finding("ROS 2", FOUND, distribution)
    installed = sorted(path.parent for path in (machine.root / "opt" / "ros").glob("*/setup.bash"))
    if installed:
        return Finding("ROS 2", ABSENT, "", f"installed, not in this shell: `source /{installed[-1].relative_to(machine.root)}/setup.bash`")
    return Finding("ROS 2", ABSENT, "", "for launch files and RViz: install ROS 2 Humble or newer")


def _cache(machine: Machine) -> Finding:
    chosen = machine.environment.get("WARP_CACHE_PATH")
    if chosen:
        return Finding("kernel cache", FOUND, f"{chosen} (WARP_CACHE_PATH)")
    try:
        root = cache_root(machine.environment)
    except OSError as error:
        return Finding("kernel cache", ABSENT, "", str(error))
    existing = next(path for path in (root, *root.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        return Finding("kernel cache", FOUND, str(root))
    return Finding("kernel cache", BROKEN, f"{existing} cannot be written",
                   "kernels are compiled at every start; set XDG_CACHE_HOME to a folder of your own")


def _runners(findings: Sequence[Finding]) -> list[Finding]:
    by_name = {finding.name: finding for finding in findings}
    return [_runner(name, needs, by_name) for name, needs in NEEDS.items()]


def _runner(name: str, needs: Sequence[str], by_name: dict[str, Finding]) -> Finding:
    missing = [f"{need} ({by_name[need].status})" for need in needs
               if FOUND not in (by_name[need].status, by_name[INSTEAD.get(need, need)].status)]
    if name == "tensorrt" and by_name["Warp"].value.endswith(CPU_ONLY):
        missing.append("a Warp that can use the driver")
    if missing:
        return Finding(f"runner {name}", ABSENT, "", f"needs {', '.join(missing)}")
    return Finding(f"runner {name}", FOUND, "can run")


def print_findings(findings: Sequence[Finding], chosen: str, reason: str) -> None:
    """Print them as a table, and which runner will be used.

    Args:
        chosen: its name.
        reason: why this one.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("part", "status", "value", "advice")
    for finding in findings:
        table.add_row(finding.name, Text(finding.status, COLOURS[finding.status]), Text(finding.value), Text(finding.advice))
    console = Console()
    console.print(table)
    console.print(Text(f"runner {chosen}: {reason}"))
