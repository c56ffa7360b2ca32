# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d build-engine`: an ONNX network to a TensorRT engine, on the machine that runs it.

What goes in: a network of an export folder. What comes out: a sealed engine file, or the one that was already there.
Unusual: everything that can be refused is refused before the build, which takes minutes on a robot. The build runs in a thread
of its own, so that Ctrl-C reaches the main thread, which tells TensorRT by the answer to its next step.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from copilot4d_core.deploy import engine_file
from copilot4d_core.deploy.engine_file import ANY, EngineKey, GpuIdentity
from copilot4d_core.deploy.manifest import Network, TensorSpec, sha256_of
from copilot4d_core.deploy.tensorrt_library import TENSORRT_RTX, BuildBars, BuildLog, Library

LOG = logging.getLogger("copilot4d")
LOOK_EVERY_S = 0.1
"""How soon Ctrl-C is seen."""
ELEMENT_TYPES = {1: "float32", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}
"""ONNX's numbers of types that a boundary has, or may have by mistake."""


class BuildReport(NamedTuple):
    """What a build took and gave."""

    seconds: float
    nodes: int
    """Of the ONNX network."""
    layers: int
    """Of TensorRT's, before it fuses them."""
    engine_bytes: int
    warnings: tuple[str, ...]
    """What TensorRT complained about and built in spite of."""


def engine_key(onnx_path: Path, network: Network, library: Library, gpu: GpuIdentity | None, precision: str) -> EngineKey:
    """Key of the engine that this network, library and GPU make.

    Args:
        gpu: None builds ahead of time for any GPU, which only TensorRT-RTX can.
    Raises:
        ValueError: TensorRT without a GPU.
    """
    if gpu is None and library.name != TENSORRT_RTX:
        raise ValueError(f"{library.name} {library.version}: expected an NVIDIA GPU, found none; TensorRT builds on the robot itself, so run this "
                         "there (TensorRT-RTX alone builds without a GPU)")
    name, capability, driver = (ANY, ANY, ANY) if gpu is None else (gpu.name, "{}.{}".format(*gpu.compute_capability), gpu.driver)
    return EngineKey(sha256_of(onnx_path), library.name, library.version, name, capability, driver, precision,
                     f"{_shapes(network.inputs)} -> {_shapes(network.outputs)}")


def _shapes(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {'x'.join(map(str, spec.shape))}" for spec in specs)


def ensure_engine(onnx_path: Path, network: Network, engine_path: Path, key: EngineKey, library: Library, *, workspace_mib: int) -> bytes:
    """The engine of this key: as it lies there, or built, with bars on stderr, where there is none or one of another key.

    Raises:
        EngineRefused: what lies there is damaged, altered or from elsewhere.
        ValueError, OSError: as `build_engine`.
    """
    if (found := engine_file.read_engine(engine_path, key)) is not None:
        return found
    with Progress(console=Console(stderr=True), transient=True) as progress:
        report = build_engine(onnx_path, network, engine_path, key, library, workspace_mib=workspace_mib,
                              timing_cache=engine_path.with_name(f"{engine_path.name}.timing"), progress=progress)
    LOG.info("%s: built in %.1f s from %d ONNX nodes, %d bytes", engine_path, report.seconds, report.nodes, report.engine_bytes)
    data = engine_file.read_engine(engine_path, key)
    if data is None:
        raise ValueError(f"{engine_path}: another program replaced this engine while it was built; let one program build, then run again")
    return data


def build_engine(onnx_path: Path, network: Network, engine_path: Path, key: EngineKey, library: Library, *, workspace_mib: int,
                 timing_cache: Path | None, progress: Progress) -> BuildReport:
    """Build an engine and write it with its sidecar.

    Args:
        network: boundary that the manifest states.
        key: of `engine_key`, for this same file.
        workspace_mib: most scratch memory of one layer.
        timing_cache: timings of earlier builds, read and written; TensorRT-RTX times on first use instead and takes none.
        progress: shows the phases; the caller starts and stops it.
    Raises:
        ValueError: a network with another boundary, a plugin or an operator that TensorRT does not take, or a failed build.
        OSError: the engine cannot be written.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    start, trt, log = time.monotonic(), library.module, BuildLog(library.module)
    if workspace_mib < 1:
        raise ValueError(f"--workspace-mib: expected at least 1, got {workspace_mib}")
    engine_file.prepare_to_write(engine_path)
    onnx, nodes = _read_onnx(onnx_path, key)
    builder = _builder(library, log)
    definition = _parse(onnx_path, onnx, builder, library, log)
    _check_definition(onnx_path, definition, network, trt, log)
    config, bars = builder.create_builder_config(), BuildBars(progress, engine_path.stem)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
    config.progress_monitor = bars.monitor(trt)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # 10-bit products would choose other codes than the float32 that the graph states
    timings = None if library.name == TENSORRT_RTX else timing_cache
    if timings is not None:
        _take_timings(config, timings, key)
    data = _build(builder, definition, config, bars, log)
    if data is None:
        raise ValueError(f"{onnx_path}: {library.name} {library.version} built no engine: {log.failure(workspace_mib)}")
    if timings is not None:
        engine_file.write_timing_cache(timings, bytes(config.get_timing_cache().serialize()), key.environment)
    engine_file.write_engine(engine_path, data, key)
    return BuildReport(time.monotonic() - start, nodes, definition.num_layers, len(data), (*log.errors, *log.warnings))


def _read_onnx(path: Path, key: EngineKey) -> tuple[bytes, int]:
    """The network and its number of nodes, after a look at what TensorRT would change without a word.

    TensorRT turns float64 into float32, takes an empty or a foreign file for an empty network, and reads weights outside
    the file, for which the key's SHA-256 does not vouch.
    """
    onnx = path.read_bytes()
    if hashlib.sha256(onnx).hexdigest() != key.onnx_sha256:
        raise ValueError(f"{path}: expected the file that the engine's key names, it changed meanwhile; run again")
    nodes = 0
    try:
        for number, value in _fields(dict(_fields(memoryview(onnx)))[7]):
            nodes += number == 1
            if number == 5 and dict(_fields(value)).get(14) == 1:
                raise ValueError("weights outside the file")
            if number in (11, 12):
                _check_element_type(dict(_fields(value)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "a file that is none, or half of one"
        raise ValueError(f"{path}: expected an ONNX network of `copilot4d export`, got: {reason}; export it again") from error
    return onnx, nodes


def _check_element_type(value_info: dict[int, Any]) -> None:
    tensor = dict(_fields(dict(_fields(value_info[2]))[1]))
    kind = ELEMENT_TYPES.get(tensor[1], f"type {tensor[1]}")
    if kind not in ("float32", "int32"):
        raise ValueError(f"{bytes(value_info[1]).decode()} is {kind}, a boundary has float32 and int32")


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of every field of a protobuf message; ONNX files are such, and a robot needs no `onnx` for this little."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        size, position = _varint(message, position) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], position)
        if position + size > len(message):
            raise IndexError
        yield tag >> 3, message[position:position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte, position = message[position], position + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError


def _builder(library: Library, log: BuildLog) -> Any:
    try:
        return library.module.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # TypeError is how the bindings report that there is none
        raise ValueError(f"{library.name} {library.version}: expected a working GPU and driver, TensorRT made no builder ({error}); "
                         f"it said: {log.text()}; `copilot4d doctor` says what is there") from error


def _parse(path: Path, onnx: bytes, builder: Any, library: Library, log: BuildLog) -> Any:
    """Network definition of TensorRT; strongly typed, which newer versions are without being asked."""
    trt = library.module
    flags: Any = getattr(trt, "NetworkDefinitionCreationFlag", None)
    definition = builder.create_network(1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0)
    parser = trt.OnnxParser(definition, log.logger)
    if not parser.parse(onnx):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        # Some errors name no operator; then the parser's function does, such as importScatterElements.
        reasons = [f"{error.node_operator() or error.func()} (node {error.node_name() or 'without a name'}): {error.desc()}" for error in errors]
        raise ValueError(f"{path}: {library.name} {library.version} does not take this network: {'; '.join(reasons) or log.text()}; "
                         "export it again with this version of copilot4d")
    return definition


def _check_definition(path: Path, definition: Any, network: Network, trt: Any, log: BuildLog) -> None:
    """Compare TensorRT's view of the boundary with the manifest's, and refuse plugins, which are foreign code."""
    kinds = {"float32": trt.DataType.FLOAT, "int32": trt.DataType.INT32}
    expected = [[(spec.name, tuple(spec.shape), kinds.get(spec.dtype)) for spec in specs] for specs in network]
    sides = ([definition.get_input(index) for index in range(definition.num_inputs)],
             [definition.get_output(index) for index in range(definition.num_outputs)])
    found = [[(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in side] for side in sides]
    if found != expected:
        raise ValueError(f"{path}: expected inputs and outputs {expected}, TensorRT reads {found}; export it again with this version of copilot4d")
    layers = [definition.get_layer(index) for index in range(definition.num_layers)]
    plugins = {kind for name, kind in trt.LayerType.__members__.items() if name.startswith("PLUGIN")}
    wrong = [layer.name for layer in layers if layer.type in plugins] + log.plugin_look_ups
    if wrong:
        raise ValueError(f"{path}: expected a network without plugins, got {'; '.join(wrong)}; export it again with this version of copilot4d")


def _take_timings(config: Any, path: Path, key: EngineKey) -> None:
    stored = engine_file.read_timing_cache(path, key.environment)
    cache = None if stored is None else config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return
    if path.exists():
        LOG.warning("%s: these timings are damaged or of another TensorRT or GPU; starting new ones", path)
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _build(builder: Any, definition: Any, config: Any, bars: BuildBars, log: BuildLog) -> bytes | None:
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="tensorrt-build") as thread:  # its end waits for the build's
            thread.submit(int).result()  # a thread that Ctrl-C meets while it starts would not be waited for
            try:
                building = thread.submit(builder.build_serialized_network, definition, config)
                while wait([building], LOOK_EVERY_S).not_done:
                    pass
            except KeyboardInterrupt:
                bars.cancel()
                raise
    finally:
        bars.close()
    try:
        return None if building.result() is None else bytes(building.result())
    except (MemoryError, RuntimeError) as error:
        log.errors.append(str(error) or "out of memory")
        return None
