# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The doctor: says what is there, what is missing, what is broken, and never hangs or raises."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import pytest

from copilot4d_core.deploy.doctor import examine, print_findings
from copilot4d_core.deploy.hardware import Finding
from copilot4d_core.deploy.machine import Machine, ProbeError

DRIVER = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Jun 12 17:02:12 UTC 2025
GCC version:  gcc version 12.2.0
"""
ORIN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
"""As JetPack 6 writes it."""
TEGRA = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
CPUINFO_ARM = "".join(f"processor\t: {i}\nFeatures\t: fp asimd aes crc32 asimddp\nCPU part\t: 0xd42\n\n" for i in range(8))
CPUINFO_X86 = "".join(f"processor\t: {i}\nmodel name\t: Old CPU @ 2.40GHz\nflags\t\t: fpu sse2 avx avx2 fma\n\n" for i in range(4))
CUDA_DRIVER = '''
class Error(Exception): pass
class Device:
    def __init__(self, number): assert number == 0
    def name(self): return "Orin"
    def compute_capability(self): return (8, 7)
    def total_memory(self): return 7620 * 2**20
def init(): pass
def get_driver_version(): return 12060
'''


class Robot:
    """A machine in a folder: files, tools and packages are added one by one."""

    def __init__(self, folder: Path) -> None:
        self.root, self.tools, self.packages = folder / "root", folder / "bin", folder / "packages"
        for each in (self.root, self.tools, self.packages):
            each.mkdir()
        # The packages of this machine do not count: only the standard library, and those of the robot.
        self.python = self._script(folder / "python", f'exec "{sys.executable}" -S "$@"')
        self.environment = {"PATH": str(self.tools), "PYTHONPATH": str(self.packages), "HOME": str(folder)}

    def file(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def tool(self, name: str, script: str) -> None:
        self._script(self.tools / name, script)

    def package(self, path: str, text: str) -> None:
        target = self.packages / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    @staticmethod
    def _script(path: Path, text: str) -> str:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def examine(self) -> dict[str, Finding]:
        machine = Machine(self.root, self.environment, self.python, tool_timeout_s=1.0, import_timeout_s=2.0)
        return {finding.name: finding for finding in examine(machine)}


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path)


def test_on_an_empty_machine_everything_is_absent_and_every_package_has_its_advice(robot: Robot) -> None:
    found = robot.examine()
    assert {name for name, finding in found.items() if finding.status == "found"} == {"Python", "kernel cache"}
    assert all(finding.status == "absent" for name, finding in found.items() if name not in ("Python", "kernel cache"))
    for name, package in (("torch", "torch"), ("Warp", "warp-lang"), ("ONNX Runtime", "onnxruntime"), ("onnx", "onnx"), ("TensorRT", "tensorrt"),
                          ("TensorRT-RTX", "tensorrt-rtx-cu13"), ("pycuda", "pycuda")):
        assert f"pip install {package}`" in found[name].advice
    assert found["runner onnx"].advice == "needs ONNX Runtime (absent), onnx (absent), Warp (absent)"
    assert found["kernel cache"].value == f"{robot.environment['HOME']}/.cache/copilot4d/kernels"


def test_this_machine_is_examined_in_seconds() -> None:
    begin = time.monotonic()
    found = {finding.name: finding for finding in examine()}
    assert time.monotonic() - begin < 30.0
    assert found["Python"].value.startswith(".".join(map(str, sys.version_info[:3])))
    assert found["Warp"].status == "found" and found["Warp"].value.startswith(importlib.metadata.version("warp-lang"))
    assert found["CPU"].status == "found"
    for name, package in (("ONNX Runtime", "onnxruntime"), ("onnx", "onnx"), ("torch", "torch")):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            assert found[name].status == "absent"
        else:
            assert found[name].status == "found" and found[name].value.startswith(version)
    if found["ONNX Runtime"].status == "found":
        assert "CPUExecutionProvider" in found["ONNX Runtime"].value


def test_examining_imports_nothing_into_this_process() -> None:
    code = "import sys\nfrom copilot4d_core.deploy.doctor import examine\nexamine()\nprint(*sys.modules)"
    machine = Machine()
    loaded = machine._run([sys.executable, "-c", code], 60.0).split()
    assert not {"torch", "warp", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "rclpy"} & set(loaded)


@pytest.mark.parametrize(("module", "expected"), [
    ("raise RuntimeError('no GPU for you')", "RuntimeError: no GPU for you"),
    ("import libmissing", "ModuleNotFoundError: No module named 'libmissing'"),
    ("raise SystemExit(3)", "SystemExit: 3"),
    ("this is no Python", "SyntaxError"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
    ("import os; os._exit(0)", "ended without an answer"),
    ("import os; os._exit(7)", "exit code 7"),
    ("import time; time.sleep(60)", "no answer in 2 s"),
    ("print('{')", "AttributeError"),
])
def test_a_package_that_breaks_is_reported_and_stops_nobody(robot: Robot, module: str, expected: str) -> None:
    robot.package("onnxruntime.py", module)
    robot.package("onnx.py", "print('hello from the import')\n__version__ = '1.2.3'")
    begin = time.monotonic()
    found = robot.examine()
    assert time.monotonic() - begin < 30.0
    assert found["ONNX Runtime"].status == "broken"
    assert expected in found["ONNX Runtime"].value
    assert "pip install onnxruntime" in found["ONNX Runtime"].advice
    assert found["onnx"] == Finding("onnx", "found", "1.2.3")
    assert "ONNX Runtime (broken)" in found["runner onnx"].advice


def gone(process: int) -> bool:
    """A process that nobody has waited for yet is a zombie: it holds no more than its number."""
    try:
        return " Z " in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_hanging_nvidia_smi_is_cut_off_with_its_children(robot: Robot, tmp_path: Path) -> None:
    robot.tool("nvidia-smi", f"/bin/sleep 60 &\necho $! > {tmp_path}/child\nwait")
    begin = time.monotonic()
    found = robot.examine()
    assert time.monotonic() - begin < 30.0
    assert (found["GPU"].status, found["GPU"].value) == ("broken", "no answer in 1 s")
    assert found["power mode"].status == "broken"
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10.0  # a killed process that waits for a core is still listed as running
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert gone(child)


def test_an_nvidia_smi_without_its_driver_is_broken(robot: Robot) -> None:
    robot.tool("nvidia-smi", "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9")
    finding = robot.examine()["GPU"]
    assert finding.status == "broken"
    assert finding.value == "exit code 9: NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."


def test_a_desktop_with_a_gpu(robot: Robot) -> None:
    robot.file("proc/driver/nvidia/version", DRIVER.format("580.65.06"))
    robot.file("proc/cpuinfo", CPUINFO_X86)
    robot.file("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
    robot.tool("nvidia-smi", 'case "$1" in *compute_cap*) echo "NVIDIA GeForce RTX 4090, 8.9, 24564 MiB";; '
                             '*) echo "Disabled, 210 MHz, 3105 MHz, 450.00 W";; esac')
    found = robot.examine()
    assert found["NVIDIA driver"] == Finding("NVIDIA driver", "found", "580.65.06")
    assert found["GPU"] == Finding("GPU", "found", "NVIDIA GeForce RTX 4090, compute capability 8.9, 24564 MiB")
    assert found["power mode"] == Finding("power mode", "found", "persistence Disabled, SM clock 210 MHz of 3105 MHz, limit 450.00 W")
    assert found["CPU"].value == "Old CPU @ 2.40GHz, 4 cores, avx2"
    assert "8-bit" in found["CPU"].advice
    assert found["CPU governor"].value == "powersave" and "performance" in found["CPU governor"].advice
    assert found["runner tensorrt"].advice == "needs Warp (absent), pycuda (absent), TensorRT (absent)"


def test_a_jetson(robot: Robot) -> None:
    robot.file("etc/nv_tegra_release", TEGRA)
    robot.file("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    robot.file("proc/driver/nvidia/version", ORIN_DRIVER)
    robot.file("proc/cpuinfo", CPUINFO_ARM)
    robot.tool("nvpmodel", 'test "$1" = -q && printf "NV Power Mode: 15W\\n0\\n"')
    robot.file("opt/ros/humble/setup.bash", "")
    found = robot.examine()
    assert found["NVIDIA driver"].value == "540.4.0"
    assert found["GPU"].value == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["power mode"].value == "15W (Jetson Linux 36.4.3)" and "nvpmodel -m 0" in found["power mode"].advice
    assert found["CPU"] == Finding("CPU", "found", "8 cores, asimd asimddp")
    assert "JetPack" in found["TensorRT"].advice and "pip" not in found["TensorRT"].advice
    assert "source /opt/ros/humble/setup.bash" in found["ROS 2"].advice
    robot.package("pycuda/__init__.py", "VERSION_TEXT = '2025.1'")
    robot.package("pycuda/driver.py", CUDA_DRIVER)
    robot.tool("nvpmodel", 'echo "NV Power Mode: MAXN_SUPER"')
    found = robot.examine()
    assert found["pycuda"] == Finding("pycuda", "found", "2025.1")
    assert found["GPU"].value == "Orin, compute capability 8.7, 7620 MiB"
    assert found["NVIDIA driver"].value == "540.4.0, CUDA 12.6"
    assert found["power mode"] == Finding("power mode", "found", "MAXN_SUPER (Jetson Linux 36.4.3)")


def test_pycuda_without_a_device_is_found_and_says_why(robot: Robot) -> None:
    robot.package("pycuda/__init__.py", "VERSION_TEXT = '2025.1'")
    robot.package("pycuda/driver.py", CUDA_DRIVER + "def init(): raise Error('cuInit failed: no CUDA-capable device is detected')\n")
    found = robot.examine()
    assert found["pycuda"].value == "2025.1; no GPU: cuInit failed: no CUDA-capable device is detected"
    assert found["GPU"].status == "absent"


def test_a_warp_that_cannot_use_the_driver_says_which_driver_it_needs(robot: Robot) -> None:
    robot.package("warp.py", "__version__ = '1.19.0'\nget_cuda_toolkit_version = lambda: (13, 4)")
    # Stands before the real package: what the doctor asks of it, on a robot with CUDA 12.6.
    robot.package("copilot4d_core/__init__.py", "")
    robot.package("copilot4d_core/kernels/__init__.py", "")
    robot.package("copilot4d_core/kernels/binaries.py", "driver_obstacle = lambda: 'Warp 1.19.0 (CUDA 13.4) needs an NVIDIA driver 580'")
    robot.file("proc/driver/nvidia/version", ORIN_DRIVER)
    found = robot.examine()
    assert found["Warp"] == Finding("Warp", "found", "1.19.0, CUDA 13.4, CPU only", "Warp 1.19.0 (CUDA 13.4) needs an NVIDIA driver 580")
    assert "a Warp that can use the driver" in found["runner tensorrt"].advice
    robot.package("copilot4d_core/kernels/binaries.py", "driver_obstacle = lambda: ''")
    assert robot.examine()["Warp"].value == "1.19.0, CUDA 13.4, fits the driver"


def test_either_tensorrt_serves_the_tensorrt_runner(robot: Robot) -> None:
    robot.package("tensorrt_rtx.py", "__version__ = '1.7.1.116'")
    assert "TensorRT" not in robot.examine()["runner tensorrt"].advice


def test_a_cache_that_cannot_be_written_is_said(robot: Robot) -> None:
    robot.file("cache", "a file where a folder should be")
    robot.environment["XDG_CACHE_HOME"] = str(robot.root / "cache")
    finding = robot.examine()["kernel cache"]
    assert finding.status == "broken" and "XDG_CACHE_HOME" in finding.advice


def test_the_users_own_cache_and_ros_are_named(robot: Robot) -> None:
    robot.environment |= {"WARP_CACHE_PATH": "/data/warp", "ROS_DISTRO": "jazzy"}
    found = robot.examine()
    assert found["kernel cache"].value == "/data/warp (WARP_CACHE_PATH)"
    assert found["ROS 2"] == Finding("ROS 2", "found", "jazzy")


def test_a_tool_that_cannot_be_started_is_no_crash(robot: Robot) -> None:
    (robot.tools / "nvidia-smi").write_bytes(b"\x7fELF of another processor")
    (robot.tools / "nvidia-smi").chmod(0o755)
    with pytest.raises(ProbeError, match="format"):
        Machine(robot.root, robot.environment).tool("nvidia-smi")
    assert robot.examine()["GPU"].status == "broken"


def test_findings_are_printed_with_the_runner_and_go_into_json(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("torch", "absent", "", "`pip install torch` [not markup]"), Finding("GPU", "broken", "no answer in 3 s", "")]
    print_findings(findings, "onnx", "on the CPU, because pycuda is not installed")
    said = " ".join(capsys.readouterr().out.split())
    assert "runner onnx: on the CPU, because pycuda is not installed" in said
    assert "broken" in said and "[not markup]" in said
    assert json.loads(json.dumps([finding._asdict() for finding in findings]))[1]["value"] == "no answer in 3 s"
