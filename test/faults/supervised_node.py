# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A node that is started again whenever it ends, as `respawn:=true` of the launch file has it started again.

Unusual: `launch` is part of a ROS 2 installation and not on PyPI, so this supervisor stands in for it; test/test_launch.py has the real one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from faults.signal_faults import started

from copilot4d_ros.own_graph import stop


class SupervisedNode:
    """The tokenizer with the packaged weights; started again by `respawned` after it has ended."""

    def __init__(self, namespace: str, log: Path) -> None:
        self._arguments, self._log = ("-r", f"__ns:=/{namespace}", "-p", "diagnostics.period_s:=0.1", "-p", "input_qos:=reliable"), log
        self.process = started("tokenizer_node", log, *self._arguments)
        self.starts = 1

    def respawned(self) -> subprocess.Popen[bytes]:
        """Wait for the end and start again at once."""
        self.process.wait()
        self.process = started("tokenizer_node", self._log, *self._arguments)
        self.starts += 1
        return self.process

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def __enter__(self) -> SupervisedNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stop(self.process)
