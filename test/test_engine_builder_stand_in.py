# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Building engines with a stand-in for TensorRT, for what needs a GPU or fails only on a robot."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from stand_in_tensorrt import Stage, stand_in
from tiny_network import ORIN, Recorder, build, ensure, nearest, refusal

OUT_OF_MEMORY = [("ERROR", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"),
                 ("WARNING", "Requested amount of GPU memory (15485030400 bytes) could not be allocated."),
                 ("INFO", "[MemUsageChange] Init CUDA: CPU +1, GPU +2, now: CPU 3215, GPU 697 (MiB)"),
                 ("ERROR", "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node {a}.)")]
"""What TensorRT 10.3 says (NVIDIA/TensorRT issue 4258)."""
NO_WORKSPACE = [("ERROR", "Error Code 4: Internal Error (Could not find any implementation for node {a} due to insufficient workspace.)")]
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(nearest())
    return path


@pytest.mark.parametrize(("strongly_typed", "flags"), [(True, 2), (False, 0)])
def test_strong_typing_is_asked_for_where_it_can_be(encoder: Path, strongly_typed: bool, flags: int) -> None:
    stage = Stage()
    report = build(encoder, stand_in(stage, strongly_typed), gpu=ORIN)
    assert stage.flags == [flags]
    assert report.engine_bytes == len(b"engine of the stand-in")


def test_what_tensorrt_built_in_spite_of_is_reported(encoder: Path) -> None:
    stage = Stage()
    stage.says = [("WARNING", "a warning"), ("VERBOSE", "a detail"), ("ERROR", "an error of one tactic")]
    assert build(encoder, stand_in(stage), gpu=ORIN).warnings == ("an error of one tactic", "a warning")


@pytest.mark.parametrize(("says", "message"), [
    (OUT_OF_MEMORY, r"out of memory with a workspace limit of 64 MiB and \d+ MiB of the machine's memory free; close other programs, or pass a "
                    r"smaller --workspace-mib; TensorRT said: \[defaultAllocator.*15485030400 bytes.*; memory: .*GPU 697"),
    (NO_WORKSPACE, "a layer needs more than the workspace limit of 64 MiB, pass a larger --workspace-mib; TensorRT said: .*insufficient workspace"),
    ([("ERROR", "Error Code 7: no reason")], "built no engine: the build failed; TensorRT said: Error Code 7: no reason$"),
    ([("WARNING", "only a hint")], "built no engine: the build failed; TensorRT said: only a hint$"),
    ([], "built no engine: the build failed; TensorRT said: nothing$"),
    ([("ERROR", f"error {number}") for number in range(15)], "error 0; .*; error 11; and 3 more messages$"),
])
def test_a_failed_build_says_why(encoder: Path, says: list[tuple[str, str]], message: str) -> None:
    stage = Stage()
    stage.says, stage.built = says, None
    with pytest.raises(ValueError, match=message):
        build(encoder, stand_in(stage), gpu=ORIN)
    assert not encoder.with_suffix(".engine").exists()
    assert not encoder.with_suffix(".timing").exists()


@pytest.mark.parametrize(("error", "message"), [(MemoryError("std::bad_alloc"), "out of memory with"), (MemoryError(), "out of memory with"),
                                                (RuntimeError("internal"), "TensorRT said: internal")])
def test_an_exception_of_the_build_is_told_like_a_failure(encoder: Path, error: Exception, message: str) -> None:
    stage = Stage()
    stage.built = error
    assert message in refusal(encoder, stand_in(stage), gpu=ORIN)


def test_a_gpu_that_tensorrt_cannot_use_is_told(encoder: Path) -> None:
    stage = Stage()
    stage.has_gpu = False
    assert "expected a working GPU and driver" in (message := refusal(encoder, stand_in(stage), gpu=ORIN))
    assert "error: 35" in message


@pytest.mark.parametrize("layer", ["PLUGIN", "PLUGIN_V2", "PLUGIN_V3"])
def test_a_plugin_is_refused(encoder: Path, layer: str) -> None:
    stage = Stage()
    stage.layer_types = ["MATRIX", layer]
    assert "expected a network without plugins, got layer 1;" in refusal(encoder, stand_in(stage), gpu=ORIN)


@pytest.mark.parametrize("says", ["No importer registered for op: Foo. Attempting to import as plugin.",
                                  "Searching for plugin: Foo, plugin_version: 1, plugin_namespace: ", "Successfully created plugin: Foo"])
def test_a_look_up_of_a_plugin_is_refused(encoder: Path, says: str) -> None:
    stage = Stage()
    stage.parser_says = [("INFO", says)]
    assert f"without plugins, got {says.strip()}" in refusal(encoder, stand_in(stage), gpu=ORIN)


def test_timings_are_kept_beside_the_engine_and_taken_again(encoder: Path) -> None:
    stage = Stage()
    for _ in range(3):
        build(encoder, stand_in(stage), gpu=ORIN)
    assert stage.caches == [b"", b"+", b"++"]
    assert not any(stage.mismatch), "timings of another GPU are never forced on TensorRT"


def test_timings_that_are_damaged_or_of_another_place_are_discarded(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage, timings = Stage(), encoder.with_suffix(".timing")
    build(encoder, stand_in(stage), gpu=ORIN)
    assert not caplog.messages
    timings.write_bytes(timings.read_bytes()[:-1] + b"!")
    build(encoder, stand_in(stage), gpu=ORIN)
    build(encoder, stand_in(stage), gpu=ORIN._replace(driver="another"))
    build(encoder, stand_in(stage)._replace(version="10.4.0"), gpu=ORIN)
    assert stage.caches == [b"", b"", b"", b""]
    assert [message.split(": these timings")[0] for message in caplog.messages] == [str(timings)] * 3


def test_timings_that_tensorrt_does_not_take_are_discarded(encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    build(encoder, stand_in(stage), gpu=ORIN)
    stage.takes_timings = False
    build(encoder, stand_in(stage), gpu=ORIN)
    assert stage.caches == [b"", b"+", b""]
    assert len(caplog.messages) == 1


def test_ctrl_c_stops_the_build_at_its_next_step(encoder: Path) -> None:
    stage, library = Stage(), stand_in(Stage())
    assert ensure(encoder, library, ORIN) == b"engine of the stand-in"
    answers: list[bool] = []

    def steps(monitor: Any) -> bool:
        monitor.phase_start("Building engine", None, 1000)
        answers.append(monitor.step_complete("Building engine", 0))
        os.kill(os.getpid(), signal.SIGINT)
        for step in range(1, 1000):
            time.sleep(0.01)
            answers.append(monitor.step_complete("Building engine", step))
            if not answers[-1]:
                return False  # phase_finish never comes
        return True

    stage.steps, progress = steps, Recorder()
    encoder.write_bytes(nearest(opset=19))
    with pytest.raises(KeyboardInterrupt):
        build(encoder, stand_in(stage), gpu=ORIN, progress=progress)
    assert answers[0] is True
    assert answers[-1] is False
    assert len(answers) < 500
    assert progress.tasks == []
    encoder.write_bytes(nearest())
    assert ensure(encoder, library, ORIN) == b"engine of the stand-in", "the old engine is untouched"
