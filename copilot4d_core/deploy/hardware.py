# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The hardware that the runners stand on, and how fast it may go: driver, GPU, power mode, processor.

In: the machine. Out: a finding for each.
Unusual: a Jetson's nvidia-smi knows little or is missing, so it is asked for its name and its power mode in its own way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from copilot4d_core.deploy.machine import Machine, ProbeError

FOUND, ABSENT, BROKEN = "found", "absent", "broken"
CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve")
"""That the networks are faster with, on x86-64 and on ARM; asimd is NEON, asimddp its dot product."""
INT8_FLAGS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
JETPACK = "part of JetPack: `sudo apt install nvidia-jetpack`"


class Finding(NamedTuple):
    """One part of the machine."""

    name: str
    status: str
    """found, absent or broken."""
    value: str
    """Version or kind; for a broken part what it said."""
    advice: str = ""
    """What to do about it; empty for nothing."""


def jetson(machine: Machine) -> str:
    """Release of Jetson Linux, such as `36.4.3`; empty elsewhere."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", machine.read("etc/nv_tegra_release"))
    return f"{found[1]}.{found[2]}" if found else ""


def driver(machine: Machine, pycuda: dict[str, Any]) -> Finding:
    """The NVIDIA driver, from its own file or from what pycuda said."""
    found = re.search(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", machine.read("proc/driver/nvidia/version") + "\n")
    cuda = f"CUDA {pycuda['cuda']}" if "cuda" in pycuda else ""
    value = ", ".join(part for part in (found[1] if found else "", cuda) if part)
    if value:
        return Finding("NVIDIA driver", FOUND, value)
    advice = JETPACK if jetson(machine) else "for the tensorrt runner, with an NVIDIA GPU: install its driver, 580 or newer"
    return Finding("NVIDIA driver", ABSENT, "", advice)


def gpu(machine: Machine, pycuda: dict[str, Any]) -> Finding:
    """Name, compute capability and memory of the first GPU, from pycuda or nvidia-smi; of a Jetson, its model."""
    if "gpu" in pycuda:
        return Finding("GPU", FOUND, pycuda["gpu"])
    if jetson(machine):
        return Finding("GPU", FOUND, machine.read("proc/device-tree/model") or "of this Jetson")
    return _tool("GPU", lambda: _smi(machine, "{}, compute capability {}, {}", "name", "compute_cap", "memory.total"),
                 "the tensorrt runner needs an NVIDIA GPU; the others run on the CPU")


def power(machine: Machine) -> Finding:
    """Power mode of a Jetson, or clocks and limit of a GPU."""
    release = jetson(machine)
    if not release:
        return _tool("power mode", lambda: _smi(machine, "persistence {}, SM clock {} of {}, limit {}",
                                                "persistence_mode", "clocks.sm", "clocks.max.sm", "power.limit"), "")
    finding = _tool("power mode", lambda: _nvpmodel(machine), f"nvpmodel is {JETPACK}")
    is_slow = finding.status == FOUND and "MAXN" not in finding.value
    return finding._replace(value=f"{finding.value} (Jetson Linux {release})".strip(),
                            advice="for full speed: `sudo nvpmodel -m 0 && sudo jetson_clocks`" if is_slow else finding.advice)


def _nvpmodel(machine: Machine) -> str | None:
    said = machine.tool("nvpmodel", "-q")
    found = re.search(r"NV Power Mode:\s*(\S+)", said or "")
    if said is not None and not found:
        raise ProbeError(f"nvpmodel -q said {said[:80]!r}")
    return found[1] if found else None


def _smi(machine: Machine, text: str, *fields: str) -> str | None:
    said = machine.tool("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    if said is None:
        return None
    values = [value.strip() for value in (said.splitlines() or [""])[0].split(",")]
    if len(values) != len(fields):
        raise ProbeError(f"nvidia-smi said {said[:80]!r}")
    return text.format(*values)


def _tool(name: str, ask: Callable[[], str | None], advice: str) -> Finding:
    try:
        value = ask()
    except ProbeError as error:
        return Finding(name, BROKEN, str(error), "its tool does not work; is the driver the one of the running kernel?")
    return Finding(name, ABSENT, "", advice) if value is None else Finding(name, FOUND, value)


def cpu(machine: Machine) -> Finding:
    """Processor, cores, and the instructions that the networks gain from."""
    text = machine.read("proc/cpuinfo")
    lines = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())]
    if not lines:
        return Finding("CPU", ABSENT, "", "no /proc/cpuinfo here")
    facts = dict(lines)
    cores = sum(key == "processor" for key, _ in lines)
    has = set((facts.get("flags") or facts.get("Features") or "").split())
    named = " ".join(flag for flag in CPU_FLAGS if flag in has)
    advice = "" if has & INT8_FLAGS else "no 8-bit dot products: --int8 gains little here"
    return Finding("CPU", FOUND, ", ".join(part for part in (facts.get("model name", ""), f"{cores} cores", named) if part), advice)


def governor(machine: Machine) -> Finding:
    """How the system chooses the processor's clock."""
    value = machine.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if not value:
        return Finding("CPU governor", ABSENT, "", "")
    return Finding("CPU governor", FOUND, value, "" if value == "performance" else "for steady times: `sudo cpupower frequency-set -g performance`")
