# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Building engines: with the real TensorRT-RTX, which needs no GPU for it, and with a stand-in for what only a robot has."""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from copilot4d_core.deploy import engine_file
from copilot4d_core.deploy.engine_builder import BuildReport, build_engine, engine_key, ensure_engine
from copilot4d_core.deploy.engine_file import EngineKey, EngineRefused, GpuIdentity, read_engine
from copilot4d_core.deploy.manifest import Network, TensorSpec
from copilot4d_core.deploy.tensorrt_library import BuildBars, Library, load_tensorrt

onnx = pytest.importorskip("onnx", reason="needs onnx to make networks")
helper, T = onnx.helper, onnx.TensorProto
ORIN = GpuIdentity("Orin", (8, 7), "540.4.0")
NETWORK = Network((TensorSpec("scores", (2, 3), "float32", ""),), (TensorSpec("tokens", (2,), "int32", ""),))


def graph(inputs: dict[str, tuple[int, Any]], outputs: dict[str, tuple[int, Any]], nodes: list[Any], constants: tuple[Any, ...] = (),
          opset: int = 20) -> bytes:
    sides = ([helper.make_tensor_value_info(name, *what) for name, what in side.items()] for side in (inputs, outputs))
    model = helper.make_model(helper.make_graph(nodes, "g", *sides, list(constants)), opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def nearest(axis: int = 1, opset: int = 20) -> bytes:
    """Index of the largest score of each row, as in the encoder; two nodes."""
    return graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.INT32, (2,))},
                 [helper.make_node("ArgMax", ["scores"], ["index"], name="best", axis=axis, keepdims=0),
                  helper.make_node("Cast", ["index"], ["tokens"], name="small", to=T.INT32)], opset=opset)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(nearest())
    return path


@pytest.fixture(scope="session")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX, the TensorRT that builds without a GPU")
    return load_tensorrt("tensorrt_rtx")


def build(path: Path, library: Library, network: Network = NETWORK, gpu: GpuIdentity | None = None, workspace_mib: int = 64,
          progress: Progress | None = None) -> BuildReport:
    """Build beside the ONNX, with a timing cache."""
    return build_engine(path, network, path.with_suffix(".engine"), engine_key(path, network, library, gpu, "fp32"), library,
                        workspace_mib=workspace_mib, timing_cache=path.with_suffix(".timing"), progress=progress or Progress(disable=True))


def refusal(path: Path, library: Library, network: Network = NETWORK, gpu: GpuIdentity | None = None) -> str:
    """Message of a refused build, which writes nothing."""
    with pytest.raises(ValueError) as caught:
        build(path, library, network, gpu)
    assert not list(path.parent.glob("*.engine*"))
    return str(caught.value)


# With the real TensorRT-RTX.


def test_a_network_becomes_an_engine(encoder: Path, rtx: Library) -> None:
    report = build(encoder, rtx)
    data = read_engine(encoder.with_suffix(".engine"), engine_key(encoder, NETWORK, rtx, None, "fp32"))
    assert data is not None
    assert report.engine_bytes == len(data) > 10_000
    assert report.nodes == 2
    assert report.layers >= 2
    assert 0 < report.seconds < 60
    assert report.warnings == ()
    assert not encoder.with_suffix(".timing").exists(), "TensorRT-RTX has no use for a timing cache, and would ask for a GPU"


def test_the_key_names_everything_that_an_engine_depends_on(encoder: Path) -> None:
    key = engine_key(encoder, NETWORK, Library(None, "tensorrt", "10.3.0"), ORIN, "fp16")
    assert key == EngineKey(hashlib.sha256(nearest()).hexdigest(), "tensorrt", "10.3.0", "Orin", "8.7", "540.4.0", "fp16",
                            "scores float32 2x3 -> tokens int32 2")


def test_an_engine_made_ahead_of_time_is_for_any_gpu(encoder: Path) -> None:
    key = engine_key(encoder, NETWORK, Library(None, "tensorrt_rtx", "1.7"), None, "fp32")
    assert (key.gpu_name, key.compute_capability, key.driver) == ("any", "any", "any")


def test_tensorrt_without_a_gpu_says_where_it_builds(encoder: Path) -> None:
    with pytest.raises(ValueError, match="expected an NVIDIA GPU, found none; TensorRT builds on the robot itself"):
        engine_key(encoder, NETWORK, Library(None, "tensorrt", "10.3.0"), None, "fp32")


def changed(side: int, **change: Any) -> Network:
    sides = [NETWORK.inputs, NETWORK.outputs]
    sides[side] = (sides[side][0]._replace(**change),)
    return Network(*sides)


@pytest.mark.parametrize("network", [
    changed(0, name="patches"), changed(0, shape=(3, 2)), changed(0, dtype="int32"), changed(0, shape=(1, 2, 3)),
    changed(1, name="index"), changed(1, shape=(3,)), changed(1, dtype="float32"), changed(1, dtype="int64"),
    Network(NETWORK.outputs, NETWORK.inputs), Network(NETWORK.inputs, NETWORK.outputs * 2), Network(NETWORK.inputs, ()),
])
def test_another_boundary_than_the_manifest_is_refused(encoder: Path, rtx: Library, network: Network) -> None:
    assert "encoder.onnx: expected inputs and outputs [[(" in refusal(encoder, rtx, network)


ARGMAX = [helper.make_node("ArgMax", ["scores"], ["tokens"], name="best", axis=1, keepdims=0)]
DOUBLE = [helper.make_node("Cast", ["scores"], ["single"], to=T.FLOAT), helper.make_node("ArgMax", ["single"], ["index"], axis=1, keepdims=0),
          helper.make_node("Cast", ["index"], ["tokens"], to=T.INT32)]


@pytest.mark.parametrize(("content", "message"), [
    (graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.INT64, (2,))}, ARGMAX), "got: tokens is int64, a boundary has float32 and int32"),
    (graph({"scores": (T.DOUBLE, (2, 3))}, {"tokens": (T.INT32, (2,))}, DOUBLE), "got: scores is float64, a boundary has float32 and int32"),
    (graph({"scores": (T.BFLOAT16, (2, 3))}, {"tokens": (T.INT32, (2,))}, DOUBLE), "got: scores is type 16, a boundary has"),
    (b"", "got: a file that is none"), (b"hello world this is not onnx", "got: a file that is none"), (b"\xff" * 50, "got: a file that is none"),
    (nearest()[:-30], "got: a file that is none, or half of one"),
])
def test_what_tensorrt_would_change_without_a_word_is_refused(tmp_path: Path, rtx: Library, content: bytes, message: str) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    assert message in refusal(path, rtx)


def test_weights_outside_the_file_are_refused(tmp_path: Path, rtx: Library) -> None:
    outside = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    outside.ClearField("raw_data")
    outside.data_location = T.EXTERNAL
    outside.external_data.add(key="location", value="weights.bin")
    path = tmp_path / "encoder.onnx"
    path.write_bytes(graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.INT32, (2,))}, [helper.make_node("Add", ["scores", "w"], ["s"]), *DOUBLE[1:]],
                           (outside,)))
    assert "got: weights outside the file" in refusal(path, rtx)


def test_a_network_with_an_open_shape_is_refused(tmp_path: Path, rtx: Library) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(graph({"scores": (T.FLOAT, ("n", 3))}, {"tokens": (T.INT32, ("n",))}, [
        helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0), helper.make_node("Cast", ["index"], ["tokens"], to=T.INT32)]))
    assert "TensorRT reads [[('scores', (-1, 3)" in refusal(path, rtx)


@pytest.mark.parametrize(("node", "operator"), [
    (helper.make_node("NonZero", ["scores"], ["tokens"], name="where"), "NonZero (node where)"),
    (helper.make_node("ScatterElements", ["scores", "rows", "scores"], ["tokens"], name="sum", reduction="add"), "ScatterElements"),
    (helper.make_node("Unique", ["scores"], ["tokens"], name="set"), "Unique (node set)"),
    (helper.make_node("MyPlugin", ["scores"], ["tokens"], name="mine", domain="mine"), "MyPlugin (node mine)"),
])
def test_an_operator_that_tensorrt_does_not_take_is_named(tmp_path: Path, rtx: Library, node: Any, operator: str) -> None:
    path = tmp_path / "encoder.onnx"
    rows = onnx.numpy_helper.from_array(np.zeros((2, 3), np.int32), "rows")
    path.write_bytes(graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.FLOAT, (2, 3))}, [node], (rows,)))
    message = refusal(path, rtx)
    assert f"encoder.onnx: tensorrt_rtx {rtx.version} does not take this network: " in message
    assert operator in message


def test_a_network_of_a_newer_onnx_is_refused(tmp_path: Path, rtx: Library) -> None:
    path = tmp_path / "encoder.onnx"
    node = helper.make_node("OfTomorrow", ["scores"], ["tokens"])
    path.write_bytes(graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.FLOAT, (2, 3))}, [node], opset=99))
    assert "OfTomorrow" in refusal(path, rtx)


def test_the_second_refusal_says_as_much_as_the_first(tmp_path: Path, encoder: Path, rtx: Library) -> None:
    build(encoder, rtx)
    path = tmp_path / "other" / "decoder.onnx"
    path.parent.mkdir()
    node = helper.make_node("NoSuchOp", ["scores"], ["tokens"], name="no")
    path.write_bytes(graph({"scores": (T.FLOAT, (2, 3))}, {"tokens": (T.INT32, (2,))}, [node]))
    messages = {refusal(path, rtx) for _ in range(3)}
    assert len(messages) == 1
    assert "NoSuchOp (node no)" in messages.pop()


class Recorder(Progress):
    """Remembers what a person would have seen."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.seen: list[str] = []
        self.threads: set[int] = set()

    def add_task(self, description: str, *args: Any, **more: Any) -> Any:
        self.seen.append(description)
        self.threads.add(threading.get_ident())
        return super().add_task(description, *args, **more)


def test_the_phases_of_a_build_are_shown_and_removed(encoder: Path, rtx: Library) -> None:
    progress = Recorder()
    build(encoder, rtx, progress=progress)
    assert progress.seen[0] == "encoder: Building engine"
    assert any(name.startswith("    ") for name in progress.seen), "phases in phases are indented"
    assert progress.threads.isdisjoint({threading.main_thread().ident}), "the main thread waits for Ctrl-C"
    assert progress.tasks == []


def recording(library: Library) -> tuple[Library, list[Any]]:
    """The same library, and the settings of every build with it."""
    configs: list[Any] = []

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._builder = library.module.Builder(logger)

        def create_builder_config(self) -> Any:
            configs.append(self._builder.create_builder_config())
            return configs[-1]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._builder, name)

    module = types.SimpleNamespace(**{name: getattr(library.module, name) for name in dir(library.module)})
    module.Builder = Builder
    return library._replace(module=module), configs


def test_the_limit_reaches_tensorrt_and_float32_stays_float32(encoder: Path, rtx: Library) -> None:
    library, configs = recording(rtx)
    build(encoder, library, workspace_mib=37)
    assert configs[0].get_memory_pool_limit(rtx.module.MemoryPoolType.WORKSPACE) == 37 * 1024 * 1024
    assert not configs[0].get_flag(rtx.module.BuilderFlag.TF32)


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_of_nothing_is_refused(encoder: Path, rtx: Library, limit: int) -> None:
    with pytest.raises(ValueError, match=f"--workspace-mib: expected at least 1, got {limit}"):
        build(encoder, rtx, workspace_mib=limit)


def ensure(path: Path, library: Library, gpu: GpuIdentity | None = None) -> bytes:
    return ensure_engine(path, NETWORK, path.with_suffix(".engine"), engine_key(path, NETWORK, library, gpu, "fp32"), library, workspace_mib=64)


def test_an_engine_with_the_same_key_is_used_and_another_is_replaced(encoder: Path, rtx: Library) -> None:
    library, builds = recording(rtx)
    first = ensure(encoder, library)
    assert ensure(encoder, library) == first
    assert len(builds) == 1
    ensure(encoder, library, ORIN)
    assert len(builds) == 2
    encoder.write_bytes(nearest(opset=19))
    ensure(encoder, library, ORIN)
    assert len(builds) == 3
    ensure(encoder, library, ORIN)
    assert len(builds) == 3


def test_a_damaged_engine_is_refused_and_not_built_again(encoder: Path, rtx: Library) -> None:
    library, builds = recording(rtx)
    engine = encoder.with_suffix(".engine")
    engine.write_bytes(ensure(encoder, library)[:-1])
    with pytest.raises(EngineRefused, match="truncated"):
        ensure(encoder, library)
    assert len(builds) == 1


def test_an_engine_that_another_program_replaced_is_not_run(encoder: Path, rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_file, "write_engine", lambda path, data, key: None)
    with pytest.raises(ValueError, match="another program replaced this engine"):
        ensure(encoder, rtx)


def test_a_network_that_changed_after_its_key_was_made_is_refused(encoder: Path, rtx: Library) -> None:
    key = engine_key(encoder, NETWORK, rtx, None, "fp32")
    encoder.write_bytes(nearest(opset=19))
    with pytest.raises(ValueError, match="it changed meanwhile"):
        build_engine(encoder, NETWORK, encoder.with_suffix(".engine"), key, rtx, workspace_mib=64, timing_cache=None, progress=Progress(disable=True))


KILLED = """
import sys, time
from pathlib import Path
from rich.progress import Progress
from copilot4d_core.deploy.engine_builder import build_engine, engine_key
from copilot4d_core.deploy.manifest import Network, TensorSpec
from copilot4d_core.deploy.tensorrt_library import load_tensorrt
class Slow(Progress):
    def add_task(self, *args, **more):
        print("building", flush=True)
        time.sleep(60)
network = Network((TensorSpec("scores", (2, 3), "float32", ""),), (TensorSpec("tokens", (2,), "int32", ""),))
path, library = Path(sys.argv[1]), load_tensorrt("tensorrt_rtx")
build_engine(path, network, path.with_suffix(".engine"), engine_key(path, network, library, None, sys.argv[2]), library,
             workspace_mib=64, timing_cache=None, progress=Slow(disable=True))
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_build_that_is_killed_half_way_leaves_the_old_engine(encoder: Path, rtx: Library, precision: str) -> None:
    old = ensure(encoder, rtx)
    program = subprocess.Popen([sys.executable, "-c", KILLED, str(encoder), precision], stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"building\n"
    program.kill()
    assert program.wait(timeout=60) == -signal.SIGKILL
    program.stdout.close()
    assert read_engine(encoder.with_suffix(".engine"), engine_key(encoder, NETWORK, rtx, None, "fp32")) == old
    assert read_engine(encoder.with_suffix(".engine"), engine_key(encoder, NETWORK, rtx, None, "fp16")) is None
    assert ensure(encoder, rtx) == old


# With a stand-in for TensorRT, for what needs a GPU or fails only on a robot.

OUT_OF_MEMORY = [("ERROR", "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"),
                 ("WARNING", "Requested amount of GPU memory (15485030400 bytes) could not be allocated."),
                 ("INFO", "[MemUsageChange] Init CUDA: CPU +1, GPU +2, now: CPU 3215, GPU 697 (MiB)"),
                 ("ERROR", "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node {a}.)")]
"""What TensorRT 10.3 says (NVIDIA/TensorRT issue 4258)."""
NO_WORKSPACE = [("ERROR", "Error Code 4: Internal Error (Could not find any implementation for node {a} due to insufficient workspace.)")]


class Stage:
    """What the stand-in shall do, and what was done with it."""

    def __init__(self) -> None:
        self.says: list[tuple[str, str]] = []
        self.parser_says: list[tuple[str, str]] = []
        self.built: Any = b"engine of the stand-in"
        self.steps: Callable[[Any], bool] = lambda monitor: True
        self.layer_types: list[str] = ["MATRIX"]
        self.has_gpu = True
        self.takes_timings = True
        self.flags: list[int] = []
        self.caches: list[bytes] = []
        self.mismatch: list[bool] = []


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class LayerType(Enum):
    MATRIX, PLUGIN, PLUGIN_V2, PLUGIN_V3 = range(4)


class DataType(Enum):
    FLOAT, HALF, INT8, INT32 = range(4)


class ILogger:
    Severity = Severity


class IProgressMonitor:
    pass


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> memoryview:
        return memoryview(self.content + b"+")


class Config:
    def __init__(self, stage: Stage) -> None:
        self.stage, self.cache, self.limits = stage, None, {}

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, content: bytes) -> Cache:
        self.stage.caches.append(content)
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self.stage.mismatch.append(ignore_mismatch)
        if cache.content and not self.stage.takes_timings:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


def stand_in(stage: Stage, strongly_typed: bool = True, tf32: bool = False) -> Library:
    """A module with what our code uses of TensorRT 10 and 11."""
    module: Any = types.ModuleType("tensorrt")

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger
            if not stage.has_gpu:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int) -> Any:
            stage.flags.append(flags)
            tensors = ([types.SimpleNamespace(name="scores", shape=(2, 3), dtype=DataType.FLOAT)],
                       [types.SimpleNamespace(name="tokens", shape=(2,), dtype=DataType.INT32)])
            layers = [types.SimpleNamespace(name=f"layer {index}", type=LayerType[name]) for index, name in enumerate(stage.layer_types)]
            return types.SimpleNamespace(num_inputs=1, num_outputs=1, num_layers=len(layers), get_input=tensors[0].__getitem__,
                                         get_output=tensors[1].__getitem__, get_layer=layers.__getitem__)

        def create_builder_config(self) -> Config:
            return Config(stage)

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            for severity, message in stage.says:
                self.logger.log(Severity[severity], message)
            if isinstance(stage.built, Exception):
                raise stage.built
            return stage.built if stage.steps(config.progress_monitor) else None

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            self.logger = logger

        def parse(self, content: bytes) -> bool:
            for severity, message in stage.parser_says:
                self.logger.log(Severity[severity], message)
            return True

    flags = {"STRONGLY_TYPED": 1} if strongly_typed else {"EXPLICIT_BATCH": 0}
    vars(module).update(
        __version__="10.3.0", Builder=Builder, ILogger=ILogger, IProgressMonitor=IProgressMonitor, LayerType=LayerType, DataType=DataType,
        Runtime=object, OnnxParser=OnnxParser, MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
        BuilderFlag=types.SimpleNamespace(**({"TF32": 7} if tf32 else {})), NetworkDefinitionCreationFlag=types.SimpleNamespace(**flags))
    return Library(module, "tensorrt", "10.3.0")


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
