# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Simulated GPU: stands in for `pycuda.driver` and for a TensorRT runtime, to prove a TensorRT runner on a machine with no GPU.

What goes in: the calls a runner makes of `device.cuda` and `device.trt`. What comes out: what ONNX Runtime and Warp's CPU
kernels compute on one and the same memory, or the error that the real libraries give.
Unusual: no time taken here says anything about a GPU, and a runner that passes here has still never met a driver.

Operations are done on the device in the order of issue; the host sees them after it has waited. Memory that nobody wrote is poison, not zero.
`check()` at the end of a test finds what was leaked, damaged or misused.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from simulated_cuda import Context, Cuda, Stream
from simulated_memory import ByteArray, CudaError, CudaLogicError, CudaMemoryError, DeviceAllocation, Memory, MisuseError, Resource, Store
from simulated_tensorrt import TENSORRT_CALLS, TensorRt

CALLS = {
    "init": "cuInit", "retain_primary_context": "cuDevicePrimaryCtxRetain", "mem_get_info": "cuMemGetInfo",
    "mem_alloc": "cuMemAlloc", "pagelocked_empty": "cuMemHostAlloc",
    "memcpy_htod_async": "cuMemcpyHtoDAsync", "memcpy_dtoh_async": "cuMemcpyDtoHAsync",
    "memset_d8_async": "cuMemsetD8Async", "memset_d32_async": "cuMemsetD32Async",
    "stream_create": "cuStreamCreate", "stream_synchronize": "cuStreamSynchronize",
    "event_create": "cuEventCreate", "event_record": "cuEventRecord", "event_synchronize": "cuEventSynchronize",
    "event_time_since": "cuEventElapsedTime", "kernel": "cuLaunchKernel",
} | {name: name for name in TENSORRT_CALLS}
"""Operations that can be made to fail, with the function that the message names."""

T = TypeVar("T")
ResourceT = TypeVar("ResourceT", bound=Resource)


class SimulatedDevice:
    """One GPU with its driver; all state is here, so that tests do not meet."""

    def __init__(self, memory_bytes: int = 2**30) -> None:
        """Args:
            memory_bytes: device memory; an allocation beyond it fails.
        """
        self.memory_bytes = memory_bytes
        self.initialised = False
        self.violations: list[str] = []
        self.logs: list[list[str]] = []
        """The log of every stream ever made, also of those that are gone."""
        self.contexts: list[Context] = []
        self.stacks: list[list[Context]] = []
        self.freed: list[Store] = []
        self.resources: weakref.WeakValueDictionary[int, Resource] = weakref.WeakValueDictionary()
        self.broken: CudaError | None = None
        self._outcomes: dict[str, list[CudaError | None]] = {}
        self._thread = threading.local()
        self._handles = itertools.count(0x7F5C0000, 16)
        self.cuda = Cuda(self)
        self.trt = TensorRt(self)

    def fail(self, name: str, after: int = 0, error: CudaError | None = None) -> None:
        """Let a later call fail; a TensorRT call then gives None or False.

        An error other than out of memory stays, as in a corrupted context: copies in flight never arrive, and every later call but those of
        contexts and `free` fails too, until the last context is detached.

        Args:
            name: a key of `CALLS`.
            after: how many calls still succeed.
            error: what is raised; without it an illegal memory access, or out of memory for a TensorRT call.
        """
        if error is None and name in TENSORRT_CALLS:
            error = CudaMemoryError(f"{name} failed: out of memory")
        outcome = error or self.error(name, "an illegal memory access was encountered")
        self._outcomes.setdefault(name, []).extend([None] * after + [outcome])

    @contextmanager
    def kernel_scope(self, stream: Stream) -> Iterator[None]:
        """Around kernels launched on `stream`, which must be of this device and its context current; their writes are checked at the end."""
        self.issue("kernel", stream).log.append("kernel")
        yield
        if any(memory.store.is_damaged() for memory in self.living(Memory)):
            raise self.misuse("a kernel wrote outside of its buffer")

    def check(self) -> None:
        """The end of a test.

        Raises:
            AssertionError: something was misused, lives on, was written outside of or after `free`, or was to fail and was not called.
        """
        found = list(self.violations)
        found += [f"{type(resource).__name__} is still alive" for resource in self.living(Resource)]
        found += ["a context was not detached" for context in self.contexts if context.valid]
        found += ["a context is still pushed" for stack in self.stacks if stack]
        found += ["something wrote outside of live memory" for memory in self.living(Memory) if memory.store.is_damaged()]
        found += ["something wrote to freed memory" for store in self.freed if store.is_damaged() or not store.is_poison()]
        found += [f"{name} was to fail and did not" for name, outcomes in self._outcomes.items() if any(outcomes)]
        assert not found, "; ".join(found)

    # The rest is for the stand-ins.

    def own(self, kind: type[T]) -> type[T]:
        """The class as a module offers it: bound to this device."""
        return type(kind.__name__, (kind,), {"device": self})

    def register(self, resource: Resource) -> int:
        """Watch a new resource, without keeping it alive, and give it a handle."""
        handle = next(self._handles)
        self.resources[handle] = resource
        return handle

    def misuse(self, text: str) -> MisuseError:
        """The error to raise; `check` repeats it, should the caller swallow it."""
        self.violations.append(text)
        return MisuseError(text)

    def error(self, name: str, reason: str) -> CudaLogicError:
        return CudaLogicError(f"{CALLS[name]} failed: {reason}")

    def stack(self) -> list[Context]:
        """Contexts pushed in this thread."""
        if not hasattr(self._thread, "stack"):
            self._thread.stack = []
            self.stacks.append(self._thread.stack)
        stack: list[Context] = self._thread.stack
        return stack

    def current(self) -> Context | None:
        return self.stack()[-1] if self.stack() else None

    def call(self, name: str) -> Context:
        """What every CUDA call meets first: no context, an earlier error that stays, an error of its own."""
        context = self.current()
        if context is None:
            raise self.error(name, "invalid device context")
        if self.broken is not None:
            raise type(self.broken)(f"{CALLS[name]} failed: {str(self.broken).partition(' failed: ')[2]}")
        self.meet_fault(name)
        return context

    def meet_fault(self, name: str) -> None:
        outcomes = self._outcomes.get(name)
        error = outcomes.pop(0) if outcomes else None
        if error is None:
            return
        if not isinstance(error, CudaMemoryError):
            self.broken = error
            for stream in self.living(Stream):
                stream.pending.clear()
        # A new one: an exception that is stored, or named in the frame that raises it, keeps the caller's objects alive.
        raise type(error)(*error.args)

    def issue(self, name: str, stream: object) -> Stream:
        """Check the stream that an operation is given."""
        if stream is None:
            raise self.misuse(f"{name} on the default stream")
        if not isinstance(stream, self.cuda.Stream):
            raise TypeError("No registered converter was able to extract a C++ reference to type pycuda::stream "
                            f"from this Python object of type {type(stream).__name__}")
        self.call(name)
        return stream

    def in_flight(self, host: ByteArray, downloads_only: bool = False) -> bool:
        """Whether a copy that was not waited for uses this memory."""
        copies = (copy for stream in self.living(Stream) for copy in stream.pending if copy.data is not None or not downloads_only)
        return any(np.may_share_memory(copy.host, host) for copy in copies)

    def living(self, kind: type[ResourceT]) -> list[ResourceT]:
        found = (reference() for reference in self.resources.valuerefs())
        return [resource for resource in found if isinstance(resource, kind)]

    def find_memory(self, kind: type[Memory], address: int, num_bytes: int) -> ByteArray | None:
        """The bytes at an address, if they lie in one live allocation."""
        for memory in self.living(kind):
            start = address - memory.store.address
            if 0 <= start <= memory.store.data.size - num_bytes:
                return memory.store.data[start:start + num_bytes]
        return None

    def free_bytes(self) -> int:
        return self.memory_bytes - sum(memory.store.data.size for memory in self.living(DeviceAllocation))
