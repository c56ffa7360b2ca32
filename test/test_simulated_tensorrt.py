# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The simulated TensorRT: an engine runs on the memory that kernels and copies use, and each check fires."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import warp as wp
from onnx import TensorProto, helper, numpy_helper
from simulated_device import SimulatedDevice
from simulated_memory import MisuseError
from simulated_tensorrt import Severity, simulated_engine

WEIGHTS = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
FEATURES, PRODUCT, TOKENS = [[1, 2, 3], [6, 5, 4]], [[4, 5], [10, 9]], [2, 0]
"""Input, input times weights, and place of the largest input; by hand."""


def encoder(first_size: int | str = 2, kind: int = TensorProto.FLOAT) -> bytes:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=0),
             helper.make_node("Cast", ["i"], ["tokens"], to=TensorProto.INT32)]
    weights = numpy_helper.from_array(WEIGHTS.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    graph = helper.make_graph(nodes, "encoder", [helper.make_tensor_value_info("x", kind, [first_size, 3])],
                              [helper.make_tensor_value_info("y", kind, [first_size, 2]),
                               helper.make_tensor_value_info("tokens", TensorProto.INT32, [first_size])], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Loaded(NamedTuple):
    """An engine of the encoder with buffers for its tensors, on a device of its own."""

    device: SimulatedDevice
    context: Any
    stream: Any
    logger: Any
    runtime: Any
    engine: Any
    execution: Any
    buffers: dict[str, Any]

    def set_addresses(self) -> None:
        for name, buffer in self.buffers.items():
            assert self.execution.set_tensor_address(name, int(buffer)) is True

    def execute(self) -> bool:
        done: bool = self.execution.execute_async_v3(self.stream.handle)
        return done


def current_context(device: SimulatedDevice) -> Any:
    device.cuda.init()
    context = device.cuda.Device(0).retain_primary_context()
    context.push()
    return context


@pytest.fixture
def network() -> Iterator[Loaded]:
    device = SimulatedDevice()
    context = current_context(device)
    logger = device.trt.Logger(device.trt.Logger.ERROR)
    runtime = device.trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(simulated_engine(encoder()))
    assert engine is not None
    buffers = {name: device.cuda.mem_alloc(size) for name, size in (("x", 24), ("y", 16), ("tokens", 8))}
    yield Loaded(device, context, device.cuda.Stream(), logger, runtime, engine, engine.create_execution_context(), buffers)
    device.stack().clear()


@wp.kernel
def seven_minus(values: wp.array(dtype=wp.float32), out: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
    i = wp.tid()
    out[i] = 7.0 - values[i]


def test_a_kernel_and_a_network_work_on_the_same_memory(network: Loaded) -> None:
    device, cuda, stream = network.device, network.device.cuda, network.stream
    staged, tokens, product = (cuda.pagelocked_empty(*spec) for spec in (((2, 3), np.float32), (2, np.int32), ((2, 2), np.float32)))
    staged[:] = 7 - np.array(FEATURES)
    raw = cuda.mem_alloc(24)
    network.set_addresses()
    cuda.memcpy_htod_async(raw, staged, stream)
    with device.kernel_scope(stream):
        arrays = [wp.array(ptr=int(buffer), dtype=wp.float32, shape=6, device="cpu") for buffer in (raw, network.buffers["x"])]
        wp.launch(seven_minus, dim=6, inputs=arrays, device="cpu")
    assert network.execute() is True
    cuda.memcpy_dtoh_async(tokens, network.buffers["tokens"], stream)
    cuda.memcpy_dtoh_async(product, network.buffers["y"], stream)
    assert (tokens == 2145756581).all()
    assert np.isnan(product).all()
    stream.synchronize()
    assert tokens.tolist() == TOKENS
    assert product.tolist() == PRODUCT
    assert stream.log == ["htod", "kernel", "execute encoder", "dtoh", "dtoh"]


def test_an_engine_describes_its_tensors(network: Loaded) -> None:
    trt = network.device.trt
    engine = network.engine
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    assert names == ["x", "y", "tokens"]
    assert [engine.get_tensor_shape(name) for name in names] == [(2, 3), (2, 2), (2,)]
    assert [engine.get_tensor_dtype(name) for name in names] == [trt.DataType.FLOAT, trt.DataType.FLOAT, trt.DataType.INT32]
    assert [engine.get_tensor_mode(name) for name in names] == [trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT, trt.TensorIOMode.OUTPUT]


@pytest.mark.parametrize("data", [
    b"", b"ftrt", encoder(), simulated_engine(b""), simulated_engine(encoder()[:-20]), simulated_engine(encoder("n")),
    simulated_engine(encoder(kind=TensorProto.DOUBLE)),
], ids=["empty", "foreign", "onnx", "magic only", "truncated", "dynamic", "float64"])
def test_what_is_no_engine_gives_none_and_a_message(network: Loaded, data: bytes) -> None:
    assert network.device.trt.deserialized == 1
    assert network.runtime.deserialize_cuda_engine(data) is None
    assert network.device.trt.deserialized == 2
    assert len(network.logger.messages) == 1


def test_a_runtime_needs_a_logger_and_a_context(network: Loaded) -> None:
    with pytest.raises(TypeError, match="expected Logger, got NoneType"):
        network.device.trt.Runtime(None)
    with pytest.raises(TypeError, match="str"):
        network.runtime.deserialize_cuda_engine("engine.plan")
    network.logger.log(Severity.WARNING, "not kept")
    network.context.pop()
    assert network.runtime.deserialize_cuda_engine(simulated_engine(encoder())) is None
    assert network.logger.messages == ["deserializeCudaEngine: deserialize_cuda_engine failed: invalid device context"]


@pytest.mark.parametrize("convert", [np.int64, lambda address: None, str, float])
def test_addresses_and_handles_are_python_integers(network: Loaded, convert: Callable[[int], Any]) -> None:
    with pytest.raises(TypeError, match="expected int"):
        network.execution.set_tensor_address("x", convert(int(network.buffers["x"])))
    with pytest.raises(TypeError, match="expected int"):
        network.execution.execute_async_v3(convert(network.stream.handle))


def test_allocations_and_streams_are_no_addresses_and_handles(network: Loaded) -> None:
    with pytest.raises(TypeError, match="got DeviceAllocation"):
        network.execution.set_tensor_address("x", network.buffers["x"])
    with pytest.raises(TypeError, match="got Stream"):
        network.execution.execute_async_v3(network.stream)


def test_an_unknown_tensor_is_refused_and_a_crooked_address_is_found(network: Loaded) -> None:
    assert network.execution.set_tensor_address("z", int(network.buffers["x"])) is False
    assert network.logger.messages == ["setTensorAddress: z is no input or output"]
    with pytest.raises(MisuseError, match="256 divides"):
        network.execution.set_tensor_address("x", int(network.buffers["x"]) + 4)


def test_every_tensor_needs_memory_that_is_large_enough_and_alive(network: Loaded) -> None:
    with pytest.raises(MisuseError, match="x: no address was set"):
        network.execute()
    network.set_addresses()
    network.execution.set_tensor_address("y", int(network.buffers["tokens"]))
    with pytest.raises(MisuseError, match="y: its address has no 16 bytes of live device memory"):
        network.execute()
    network.set_addresses()
    network.buffers["tokens"].free()
    with pytest.raises(MisuseError, match="tokens: its address has no 8 bytes"):
        network.execute()


def test_the_default_stream_and_dead_ones_are_found(network: Loaded) -> None:
    network.set_addresses()
    stream = network.device.cuda.Stream()
    dead = stream.handle
    del stream
    for handle in (0, dead):
        with pytest.raises(MisuseError, match="default stream, or none that is alive"):
            network.execution.execute_async_v3(handle)


def test_execution_in_a_thread_without_the_context_fails(network: Loaded) -> None:
    network.set_addresses()
    network.device.cuda.memset_d32_async(network.buffers["x"], 0, 6, network.stream)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(network.execute).result() is False
        pool.submit(network.context.push).result()
        assert pool.submit(network.execute).result() is True


def test_tensorrt_faults_give_none_or_false(network: Loaded) -> None:
    network.set_addresses()
    network.device.cuda.memset_d32_async(network.buffers["x"], 0, 6, network.stream)
    for name in ("execute_async_v3", "create_execution_context", "deserialize_cuda_engine"):
        network.device.fail(name)
    assert network.execute() is False
    assert network.engine.create_execution_context() is None
    assert network.runtime.deserialize_cuda_engine(simulated_engine(encoder())) is None
    assert len(network.logger.messages) == 3
    assert network.execute() is True
    error = network.device.cuda.LogicError
    network.device.fail("execute_async_v3", error=error("enqueueV3 failed: an illegal memory access was encountered"))
    assert network.execute() is False
    with pytest.raises(error, match="^cuStreamSynchronize failed: an illegal memory access was encountered$"):
        network.stream.synchronize()


@pytest.mark.parametrize(("order", "violations"), [
    (["execution", "engine", "runtime"], []),
    (["engine", "execution", "runtime"], ["Engine destroyed before its ExecutionContext"]),
    (["execution", "runtime", "engine"], ["Runtime destroyed before its Engine"]),
])
def test_the_order_of_destruction_is_watched(order: list[str], violations: list[str]) -> None:
    device = SimulatedDevice()
    context = current_context(device)
    made: dict[str, Any] = {"runtime": device.trt.Runtime(device.trt.Logger())}
    made["engine"] = made["runtime"].deserialize_cuda_engine(simulated_engine(encoder()))
    made["execution"] = made["engine"].create_execution_context()
    for name in order:
        del made[name]
    context.pop()
    context.detach()
    assert device.violations == violations


def test_an_engine_keeps_the_context_from_being_detached(network: Loaded) -> None:
    for memory in network.buffers.values():
        memory.free()
    network.stream.release()
    network.context.pop()
    with pytest.raises(MisuseError, match="before Engine, ExecutionContext"):
        network.context.detach()
    network.execution.release()
    assert network.device.violations[1:] == ["ExecutionContext destroyed where no context is current"]
