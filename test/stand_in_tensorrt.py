# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for TensorRT: a module with what the engine builder uses of it, for what needs a GPU or fails only on a robot."""

from __future__ import annotations

import types
from collections.abc import Callable
from enum import Enum
from typing import Any

from copilot4d_core.deploy.tensorrt_library import Library


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
