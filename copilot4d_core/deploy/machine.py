# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What can be asked of a machine: its small files, its tools, and a Python process of its own.

In: a path, a command, or Python code. Out: text, or why there is none.
Unusual: a package with native code may hang, crash or change the process that imports it, so it is imported in a child with
a time limit; a tool that hangs is killed with all that it started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import copilot4d_core

_PRELUDE = """
import importlib.metadata, importlib.util, json, os, sys
sys.path = [path for path in sys.path if path] + [{home!r}]
answer = {{}}
try:
    if importlib.util.find_spec({package!r}) is None:
        answer["absent"] = True
    else:
{code}
except BaseException as error:
    answer["broken"] = f"{{type(error).__name__}}: {{error}}"
print("\\n" + json.dumps(answer), flush=True)
os._exit(0)
"""


class ProbeError(Exception):
    """A tool or a package is there, and does not answer."""


@dataclass(frozen=True)
class Machine:
    """Where to look; another one stands in for a robot in tests."""

    root: Path = Path("/")
    """Of the file system."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: str = sys.executable
    tool_timeout_s: float = 3.0
    import_timeout_s: float = 8.0
    """A cold import from a slow card takes seconds."""

    def read(self, path: str) -> str:
        """Text of a small file, by its path from the root; empty if there is none."""
        try:
            return (self.root / path).read_bytes().decode(errors="replace").replace("\0", "").strip()
        except OSError:
            return ""

    def tool(self, name: str, *arguments: str) -> str | None:
        """What a tool prints; None if it is not installed.

        Raises:
            ProbeError: it failed, or did not answer in time.
        """
        path = shutil.which(name, path=self.environment.get("PATH", ""))
        return None if path is None else self._run([path, *arguments], self.tool_timeout_s)

    def package(self, name: str, code: str) -> dict[str, Any] | None:
        """What code says that uses a package, in a Python process of its own; None if the package is not installed.

        Args:
            name: that is imported.
            code: lines that fill the dict `answer`.
        Raises:
            ProbeError: an import or a call of it failed, crashed, or did not answer in time.
        """
        body = "\n".join(f"        {line}" for line in code.strip().splitlines())
        home = str(Path(copilot4d_core.__file__).parent.parent)
        said = self._run([self.python, "-c", _PRELUDE.format(home=home, package=name, code=body)], self.import_timeout_s)
        try:
            answer: dict[str, Any] = json.loads(said.splitlines()[-1])
        except (IndexError, ValueError) as error:
            raise ProbeError("ended without an answer") from error
        if "broken" in answer:
            raise ProbeError(answer["broken"])
        return None if "absent" in answer else answer

    def _run(self, command: list[str], timeout_s: float) -> str:
        try:
            process = subprocess.Popen(command, env=dict(self.environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            raise ProbeError(str(error)) from error
        try:
            out, error_text = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # One that hangs in the driver cannot even be killed; nobody waits for it.
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0.5)
            raise ProbeError(f"no answer in {timeout_s:g} s") from error
        if process.returncode < 0:
            raise ProbeError(f"crashed with {signal.Signals(-process.returncode).name}")
        if process.returncode:
            said = (out + error_text).decode(errors="replace").strip().splitlines()
            raise ProbeError(f"exit code {process.returncode}{': ' + said[-1] if said else ''}")
        return out.decode(errors="replace").strip()
