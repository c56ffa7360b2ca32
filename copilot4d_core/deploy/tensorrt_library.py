# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""TensorRT as this machine has it: the module, its log while it builds, and its progress as bars.

What goes in: a name, `tensorrt`, `tensorrt_rtx` or `auto`. What comes out: the module, or a refusal that says what to install.
Unusual: the module is untyped and may be one of many versions (10.3 to 11.4, RTX 1.x), so features are looked for and versions
never compared. TensorRT calls log and monitor from threads of its own, and what they raise would be lost.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress, TaskID

LOG = logging.getLogger("copilot4d")
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
INSTALL = {TENSORRT: "`pip install tensorrt` on x86; on a Jetson JetPack brings it for the system's Python, so make the virtual environment "
                     "with --system-site-packages",
           TENSORRT_RTX: "`pip install tensorrt-rtx-cu13`"}
NEEDED = ("Builder", "ILogger", "IProgressMonitor", "LayerType", "MemoryPoolType", "OnnxParser", "Runtime", "__version__")
"""What we use of the module and TensorRT 10.3 has; a folder of that name on the path has none of it."""
PLUGIN_LOOK_UP = re.compile(r"\bas plugin\b|searching for plugin|created plugin|plugin not found", re.IGNORECASE)
"""How the ONNX parsers of TensorRT 10 to 11 and RTX 1 log that they take a node for a plugin."""
LACKS_WORKSPACE = re.compile(r"insufficient workspace|sufficient workspace memory", re.IGNORECASE)
LACKS_MEMORY = re.compile(r"out ?of ?memory|bad_alloc|could not be allocated|insuff?icient memory|allocator error|fail to create host memory",
                          re.IGNORECASE)
"""How TensorRT 8 to 10 says it (NVIDIA/TensorRT issues 2035, 4258 and 4254)."""
MOST_MESSAGES = 12


class Library(NamedTuple):
    """A TensorRT that can be imported here."""

    module: Any
    name: str
    """`tensorrt` or `tensorrt_rtx`."""
    version: str


def load_tensorrt(name: str = "auto") -> Library:
    """Import TensorRT.

    Args:
        name: `tensorrt`, `tensorrt_rtx`, or `auto` for the first of them that works.
    Raises:
        ValueError: another name, or nothing that can be imported; says why and what to install.
    """
    if name not in ("auto", *INSTALL):
        raise ValueError(f"TensorRT library: expected one of auto, {', '.join(INSTALL)}, got {name!r}")
    reasons = []
    for candidate in INSTALL if name == "auto" else (name,):
        try:
            library = _import(candidate)
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(f"{candidate} cannot be used here ({error}); to have it: {INSTALL[candidate]}")
            continue
        for reason in reasons:
            LOG.info("takes %s, because %s", candidate, reason)
        return library
    raise ValueError(f"TensorRT library: expected a working {name if name != 'auto' else 'TensorRT'}: {'; '.join(reasons)}")


def _import(name: str) -> Library:
    module = importlib.import_module(name)
    missing = [feature for feature in NEEDED if not hasattr(module, feature)]
    if missing:
        raise ImportError(f"this module has no {', '.join(missing)}: it is no TensorRT, or one older than 10.3")
    return Library(module, name, str(module.__version__))


class BuildLog:
    """What TensorRT says during one build, kept for the message of a failure."""

    def __init__(self, module: Any) -> None:
        """Start empty; `logger` is the `ILogger` to give to TensorRT."""
        severity = module.ILogger.Severity
        self._errors, self._warning = (severity.INTERNAL_ERROR, severity.ERROR), severity.WARNING
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.plugin_look_ups: list[str] = []
        self.memory_use = ""
        """TensorRT's last statement about memory, if it made one."""
        self.logger: Any = type("BuildLogger", (module.ILogger,), {"log": staticmethod(self._log)})()

    def _log(self, severity: Any, message: str) -> None:
        if severity in self._errors:
            self.errors.append(message.strip())
        elif severity == self._warning:
            self.warnings.append(message.strip())
        if "MemUsage" in message:
            self.memory_use = message.strip()
        if PLUGIN_LOOK_UP.search(message):
            self.plugin_look_ups.append(message.strip())

    def text(self) -> str:
        """Errors and warnings of memory, or all warnings; the first ones, because the cause comes first."""
        messages = self.errors + [warning for warning in self.warnings if LACKS_MEMORY.search(warning)] or self.warnings
        more = [f"and {len(messages) - MOST_MESSAGES} more messages"] if len(messages) > MOST_MESSAGES else []
        return "; ".join(messages[:MOST_MESSAGES] + more) or "nothing"


    def failure(self, workspace_mib: int) -> str:
        """Why the build failed and what to do, for the end of a message."""
        said = self.text()
        if LACKS_WORKSPACE.search(said):
            reason = f"a layer needs more than the workspace limit of {workspace_mib} MiB, pass a larger --workspace-mib"
        elif LACKS_MEMORY.search(said):
            reason = (f"out of memory with a workspace limit of {workspace_mib} MiB and {_available_mib()} MiB of the machine's memory free; "
                      f"close other programs, or pass a smaller --workspace-mib")
        else:
            reason = "the build failed"
        return f"{reason}; TensorRT said: {said}" + (f"; memory: {self.memory_use}" if self.memory_use else "")


def _available_mib() -> int:
    """Free memory of the machine; on a Jetson it is the GPU's too."""
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found[1]) // 1024 if found else 0


class BuildBars:
    """Bars of a build's phases; safe to call from any thread."""

    def __init__(self, progress: Progress, title: str) -> None:
        """Show phases in `progress`, which the caller starts and stops; `title` stands before the outermost."""
        self._progress, self._title = progress, title
        self._bars: dict[str, tuple[TaskID, int]] = {}
        """By phase: its bar, and how many phases it is in."""
        self._lock, self._is_cancelled = threading.Lock(), False

    def monitor(self, module: Any) -> Any:
        """The `IProgressMonitor` to give to TensorRT."""
        methods = {name: staticmethod(getattr(self, name)) for name in ("phase_start", "step_complete", "phase_finish")}
        return type("BuildMonitor", (module.IProgressMonitor,), methods)()

    def cancel(self) -> None:
        """Make TensorRT give up at its next step."""
        self._is_cancelled = True

    def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, in another one or by itself."""
        self.phase_finish(phase)
        with self._lock:
            depth = self._bars[parent][1] + 1 if parent in self._bars else 0
            name = "  " * depth + phase if depth else f"{self._title}: {phase}"
            self._bars[phase] = (self._progress.add_task(name, total=steps), depth)

    def step_complete(self, phase: str, step: int) -> bool:
        """A step, counted from 0, is done; the answer says whether to go on."""
        with self._lock:
            if phase in self._bars:
                self._progress.update(self._bars[phase][0], completed=step + 1)
        return not self._is_cancelled

    def phase_finish(self, phase: str) -> None:
        """A phase ends, whether all its steps were done or not."""
        with self._lock:
            if phase in self._bars:
                self._progress.remove_task(self._bars.pop(phase)[0])

    def close(self) -> None:
        """Remove the bars of phases that never ended."""
        for phase in list(self._bars):
            self.phase_finish(phase)
