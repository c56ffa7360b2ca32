# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The smallest network that is built like the encoder, and how tests build it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from copilot4d_core.deploy.engine_builder import BuildReport, build_engine, engine_key, ensure_engine
from copilot4d_core.deploy.engine_file import GpuIdentity
from copilot4d_core.deploy.manifest import Network, TensorSpec
from copilot4d_core.deploy.tensorrt_library import Library

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


def ensure(path: Path, library: Library, gpu: GpuIdentity | None = None) -> bytes:
    return ensure_engine(path, NETWORK, path.with_suffix(".engine"), engine_key(path, NETWORK, library, gpu, "fp32"), library, workspace_mib=64)


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
