# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for a TensorRT 10 runtime: its engine is an ONNX file that ONNX Runtime runs on the buffers of a simulated device.

What goes in: the calls a runner makes of `tensorrt`. What comes out: what TensorRT gives, None and False after a logged error included.
Unusual: TensorRT's Python bindings keep an engine alive for its contexts; here giving it back too early is a violation.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from simulated_cuda import Context, Stream
from simulated_memory import ALIGNMENT, CudaError, DeviceAllocation, Resource

if TYPE_CHECKING:
    from simulated_device import SimulatedDevice

MAGIC = b"SIMULATED-ENGINE\n"
TENSORRT_CALLS = ("deserialize_cuda_engine", "create_execution_context", "execute_async_v3")


def simulated_engine(onnx: bytes) -> bytes:
    """What a build of this ONNX would give."""
    return MAGIC + onnx


class Severity(Enum):
    """How much a message matters."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Logger:
    """TensorRT's logger; keeps messages instead of printing them."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        self.min_severity = min_severity
        self.messages: list[str] = []

    def log(self, severity: Severity, msg: str) -> None:
        if severity.value <= self.min_severity.value:
            self.messages.append(msg)


class DataType(Enum):
    """TensorRT's numbers."""

    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)
    INT64 = 8


class TensorIOMode(Enum):
    """TensorRT's numbers."""

    NONE, INPUT, OUTPUT = range(3)


DATA_TYPES: dict[str, tuple[DataType, npt.DTypeLike]] = {
    "tensor(float)": (DataType.FLOAT, np.float32), "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int8)": (DataType.INT8, np.int8), "tensor(uint8)": (DataType.UINT8, np.uint8), "tensor(bool)": (DataType.BOOL, np.bool_),
    "tensor(int32)": (DataType.INT32, np.int32), "tensor(int64)": (DataType.INT64, np.int64),
}
"""By ONNX Runtime's names; float64 is missing, for TensorRT has none."""


class Tensor(NamedTuple):
    """One input or output."""

    name: str
    mode: TensorIOMode
    shape: tuple[int, ...]
    data_type: DataType
    dtype: np.dtype[Any]


def tensors_of(session: onnxruntime.InferenceSession) -> Iterator[Tensor]:
    """Inputs, then outputs.

    Raises:
        ValueError: a shape that is not static, or a type TensorRT has not.
    """
    for mode, arguments in ((TensorIOMode.INPUT, session.get_inputs()), (TensorIOMode.OUTPUT, session.get_outputs())):
        for argument in arguments:
            if argument.type not in DATA_TYPES or not all(isinstance(size, int) for size in argument.shape):
                raise ValueError(f"{argument.name}: expected a static shape of a type of TensorRT, got {argument.type} {argument.shape}")
            data_type, dtype = DATA_TYPES[argument.type]
            yield Tensor(argument.name, mode, tuple(argument.shape), data_type, np.dtype(dtype))


class Network:
    """What an engine and its contexts share: an opened ONNX and where to report."""

    def __init__(self, onnx: bytes, logger: Logger) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self.tensors = {tensor.name: tensor for tensor in tensors_of(self.session)}
        self.logger = logger

    def run(self, buffers: dict[str, npt.NDArray[Any]]) -> None:
        inputs = {name: buffers[name] for name, tensor in self.tensors.items() if tensor.mode is TensorIOMode.INPUT}
        outputs = [name for name in self.tensors if name not in inputs]
        for name, result in zip(outputs, self.session.run(outputs, inputs), strict=True):
            buffers[name][...] = result


class NetworkResource(Resource):
    """What a network occupies on the device; goes where a context is current, and before what it was made by."""

    def __init__(self, context: Context, network: Network, parent: object) -> None:
        super().__init__(context)
        self._network = network
        self._parent, self._parent_name = weakref.ref(parent), type(parent).__name__

    def release(self) -> None:
        if self._parent() is None:
            self.device.violations.append(f"{self._parent_name} destroyed before its {type(self).__name__}")
        if self.device.current() is None:
            self.device.violations.append(f"{type(self).__name__} destroyed where no context is current")
        super().release()


class ExecutionContext(NetworkResource):
    """`IExecutionContext`."""

    def __init__(self, context: Context, network: Network, engine: Engine) -> None:
        super().__init__(context, network, engine)
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if type(memory) is not int:
            raise TypeError(f"set_tensor_address(): incompatible function arguments: expected int, got {type(memory).__name__}")
        if name not in self._network.tensors:
            self._network.logger.log(Severity.ERROR, f"setTensorAddress: {name} is no input or output")
            return False
        if memory % ALIGNMENT:
            raise self.device.misuse(f"{name}: expected an address that {ALIGNMENT} divides, got {memory:#x}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if type(stream_handle) is not int:
            raise TypeError(f"execute_async_v3(): incompatible function arguments: expected int, got {type(stream_handle).__name__}")
        stream = self.device.resources.get(stream_handle)
        if not isinstance(stream, Stream):
            raise self.device.misuse(f"execute_async_v3: {stream_handle:#x} is the default stream, or none that is alive")
        try:
            self.device.call("execute_async_v3")
        except CudaError as error:
            self._network.logger.log(Severity.ERROR, f"enqueueV3: {error}")
            return False
        self._network.run({name: self._buffer(tensor) for name, tensor in self._network.tensors.items()})
        stream.log.append(f"execute {self._network.session.get_modelmeta().graph_name}")
        return True

    def _buffer(self, tensor: Tensor) -> npt.NDArray[Any]:
        if tensor.name not in self._addresses:
            raise self.device.misuse(f"{tensor.name}: no address was set")
        num_bytes = prod(tensor.shape) * tensor.dtype.itemsize
        data = self.device.find_memory(DeviceAllocation, self._addresses[tensor.name], num_bytes)
        if data is None:
            raise self.device.misuse(f"{tensor.name}: its address has no {num_bytes} bytes of live device memory")
        return data.view(tensor.dtype).reshape(tensor.shape)


class Engine(NetworkResource):
    """`ICudaEngine`."""

    @property
    def num_io_tensors(self) -> int:
        return len(self._network.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._network.tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._network.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._network.tensors[name].data_type

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._network.tensors[name].mode

    def create_execution_context(self) -> ExecutionContext | None:
        try:
            context = self.device.call("create_execution_context")
        except CudaError as error:
            self._network.logger.log(Severity.ERROR, f"createExecutionContext: {error}")
            return None
        return self.device.trt.ExecutionContext(context, self._network, self)


class Runtime:
    """`Runtime`; `device.trt.deserialized` counts what reached it."""

    device: SimulatedDevice

    def __init__(self, logger: Logger) -> None:
        if not isinstance(logger, Logger):
            raise TypeError(f"Runtime(): incompatible constructor arguments: expected Logger, got {type(logger).__name__}")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        data = bytes(memoryview(serialized_engine))
        self.device.trt.deserialized += 1
        try:
            context = self.device.call("deserialize_cuda_engine")
            if not data.startswith(MAGIC):
                raise ValueError("no engine of this TensorRT")
            network = Network(data.removeprefix(MAGIC), self._logger)
        except Exception as error:  # TensorRT does not raise here, whatever the bytes
            self._logger.log(Severity.ERROR, f"deserializeCudaEngine: {error}")
            return None
        return self.device.trt.Engine(context, network, self)


class TensorRt:
    """The module."""

    __version__ = "10.3.0"
    Logger, DataType, TensorIOMode = Logger, DataType, TensorIOMode

    def __init__(self, device: SimulatedDevice) -> None:
        self.deserialized = 0
        self.Runtime, self.Engine, self.ExecutionContext = device.own(Runtime), device.own(Engine), device.own(ExecutionContext)
