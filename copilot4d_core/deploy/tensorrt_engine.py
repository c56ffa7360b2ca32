# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One TensorRT engine, bound to fixed device buffers.

What goes in: the bytes of a verified engine file. What comes out: a network that runs on a stream.
Unusual: addresses are set once, because the buffers are allocated once; what the engine says of its tensors is compared
with the manifest before anything runs.
"""

from __future__ import annotations

from typing import Any

from copilot4d_core.deploy.gpu_session import GpuError, GpuSession, release_frames
from copilot4d_core.deploy.manifest import Network


class TensorrtEngine:
    """Runtime, engine and execution context; `close` frees them in the reverse order, while the GPU context is current."""

    def __init__(self, name: str, data: bytes, network: Network, buffers: dict[str, Any], session: GpuSession) -> None:
        """Deserialise and bind.

        Args:
            name: for messages, `encoder` or `decoder`.
            data: engine file, verified.
            network: boundary that the manifest states.
            buffers: Warp array for every tensor of it.
        Raises:
            GpuError: TensorRT refuses the engine, or finds no memory for it.
            ValueError: the engine has other tensors than the manifest.
        """
        self.name = name
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        try:
            self._open(data, network, buffers, session.gpu.trt)
        except BaseException as error:
            release_frames(error)
            self.close()
            raise

    def _open(self, data: bytes, network: Network, buffers: dict[str, Any], trt: Any) -> None:
        name = self.name
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise GpuError(f"{name}: TensorRT {trt.__version__} refuses the engine (its log says why); build it again: `copilot4d build-engine`")
        _check_boundary(name, self._engine, network, trt)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise GpuError(f"{name}: TensorRT made no execution context, most likely for want of GPU memory; close other programs on the GPU")
        for tensor, array in buffers.items():
            if not self._context.set_tensor_address(tensor, int(array.ptr)):
                raise GpuError(f"{name}: TensorRT refuses the address of {tensor}")

    def enqueue(self, stream: Any) -> None:
        """Run on a pycuda stream, which is not the default one; only enqueues.

        Raises:
            GpuError: TensorRT could not.
        """
        if not self._context.execute_async_v3(int(stream.handle)):
            raise GpuError(f"{self.name}: TensorRT could not run the network; close this runner and open a new one")

    def close(self) -> None:
        """Free context, engine and runtime, in this order."""
        self._context = None
        self._engine = None
        self._runtime = None


def _check_boundary(name: str, engine: Any, network: Network, trt: Any) -> None:
    kinds = {"float32": trt.DataType.FLOAT, "int32": trt.DataType.INT32}
    expected = {spec.name: (tuple(spec.shape), kinds[spec.dtype], mode)
                for mode, specs in ((trt.TensorIOMode.INPUT, network.inputs), (trt.TensorIOMode.OUTPUT, network.outputs)) for spec in specs}
    tensors = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {tensor: (tuple(engine.get_tensor_shape(tensor)), engine.get_tensor_dtype(tensor), engine.get_tensor_mode(tensor)) for tensor in tensors}
    if found != expected:
        raise ValueError(f"{name}: expected an engine with the tensors {expected}, got {found}; build it again: `copilot4d build-engine`")
