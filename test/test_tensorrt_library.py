# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which TensorRT is taken, what is said where there is none, and the bars of a build."""

from __future__ import annotations

import importlib
import logging
import types
from typing import Any

import pytest
from rich.progress import Progress
from stand_in_tensorrt import Stage, stand_in

from copilot4d_core.deploy.tensorrt_library import BuildBars, Library, load_tensorrt


def test_bars_follow_phases_in_phases() -> None:
    progress = Progress(disable=True)
    bars = BuildBars(progress, "encoder")
    bars.phase_start("outer", None, 4)
    bars.phase_start("inner", "outer", 2)
    assert bars.step_complete("inner", 0)
    assert bars.step_complete("never heard of", 7)
    assert [(task.description, task.completed, task.total) for task in progress.tasks] == [("encoder: outer", 0, 4), ("  inner", 1, 2)]
    bars.phase_finish("outer")
    bars.phase_finish("outer")
    bars.phase_start("inner", "outer", 3)
    assert [(task.description, task.completed, task.total) for task in progress.tasks] == [("encoder: inner", 0, 3)]
    bars.cancel()
    assert not bars.step_complete("inner", 1)
    bars.close()
    assert progress.tasks == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `import` finds by name: a module, or the error to raise."""
    found: dict[str, Any] = {}

    def find(name: str) -> Any:
        what = found.get(name, ImportError(f"No module named {name!r}"))
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(importlib, "import_module", find)
    return found


def test_auto_takes_tensorrt_then_tensorrt_rtx(installed: dict[str, Any]) -> None:
    installed["tensorrt_rtx"] = stand_in(Stage()).module
    assert load_tensorrt("auto") == Library(installed["tensorrt_rtx"], "tensorrt_rtx", "10.3.0")
    installed["tensorrt"] = stand_in(Stage()).module
    assert load_tensorrt("auto") == Library(installed["tensorrt"], "tensorrt", "10.3.0")
    assert load_tensorrt("tensorrt_rtx").module is installed["tensorrt_rtx"]


@pytest.mark.parametrize("broken", [ImportError("libnvinfer.so.10: cannot open shared object file"), OSError("libnvinfer.so.10: cannot open"),
                                    RuntimeError("libnvinfer.so.10: wrong version"), types.ModuleType("a folder of that name")])
def test_a_tensorrt_that_does_not_work_is_told_and_auto_takes_the_other(installed: dict[str, Any], caplog: pytest.LogCaptureFixture,
                                                                         broken: Any) -> None:
    installed.update(tensorrt=broken, tensorrt_rtx=stand_in(Stage()).module)
    reason = "libnvinfer.so.10" if isinstance(broken, Exception) else "no Builder, ILogger, IProgressMonitor"
    with pytest.raises(ValueError, match=f"expected a working tensorrt: .*{reason}.*pip install tensorrt` on x86; on a Jetson JetPack brings it"):
        load_tensorrt("tensorrt")
    with caplog.at_level(logging.INFO, "copilot4d"):
        assert load_tensorrt("auto").name == "tensorrt_rtx"
    assert reason in caplog.text


def test_what_to_install_is_told_where_there_is_none(installed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pip install tensorrt-rtx-cu13"):
        load_tensorrt("tensorrt_rtx")
    with pytest.raises(ValueError, match="JetPack brings it.*pip install tensorrt-rtx-cu13"):
        load_tensorrt("auto")
    with pytest.raises(ValueError, match="expected one of auto, tensorrt, tensorrt_rtx, got 'os'"):
        load_tensorrt("os")
