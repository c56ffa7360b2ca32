# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Building engines with the real TensorRT-RTX, which needs no GPU for it; with a stand-in see `test_engine_builder_stand_in.py`."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress
from tiny_network import NETWORK, ORIN, Recorder, T, build, ensure, graph, helper, nearest, onnx, refusal

from copilot4d_core.deploy import engine_file
from copilot4d_core.deploy.engine_builder import build_engine, engine_key
from copilot4d_core.deploy.engine_file import EngineKey, EngineRefused, read_engine
from copilot4d_core.deploy.manifest import Network
from copilot4d_core.deploy.tensorrt_library import Library, load_tensorrt

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(nearest())
    return path


@pytest.fixture(scope="session")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX, the TensorRT that builds without a GPU")
    return load_tensorrt("tensorrt_rtx")


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
