# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the module `pycuda.driver`, of which it has what a runner needs.

What goes in: the calls a runner makes of pycuda. What comes out: what they do to a simulated device, or pycuda's error with its message.
Unusual: argument types and the rules of threads follow pycuda's C++ source; the default stream (`None`), which pycuda takes, is misuse.
"""

from __future__ import annotations

import math
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from simulated_memory import (
    POISON,
    ByteArray,
    CudaError,
    CudaLogicError,
    CudaMemoryError,
    CudaRuntimeError,
    DeviceAllocation,
    PagelockedHostAllocation,
    Resource,
    fill,
    host_bytes,
    strict_int,
)

if TYPE_CHECKING:
    from simulated_device import SimulatedDevice


class Copy(NamedTuple):
    """A copy in flight: how many operations its stream had with it, host memory, its checksum at the call, what a download brings."""

    position: int
    host: ByteArray
    checksum: int
    data: ByteArray | None


class Stream(Resource):
    """`pycuda.driver.Stream`; `log` names what it was given, in order."""

    def __init__(self, flags: int = 0) -> None:
        super().__init__(self.device.call("stream_create"))
        self.log: list[str] = []
        self.device.logs.append(self.log)
        self.pending: list[Copy] = []
        self.done = 0

    def synchronize(self) -> None:
        self.device.call("stream_synchronize")
        self.finish(len(self.log))

    def add_copy(self, name: str, host: ByteArray, data: ByteArray | None) -> None:
        self.log.append(name)
        self.pending.append(Copy(len(self.log), host, zlib.crc32(host.data), data))

    def finish(self, position: int) -> None:
        """The host has waited for the first `position` operations."""
        self.done = max(self.done, position)
        while self.pending and self.pending[0].position <= position:
            copy = self.pending.pop(0)
            if zlib.crc32(copy.host.data) != copy.checksum:
                raise self.device.misuse("page-locked memory changed while a copy was in flight")
            if copy.data is not None:
                copy.host[:] = copy.data

    def clean_up(self) -> None:
        if self.pending:
            raise self.device.misuse("stream dropped while copies are in flight")


class Event(Resource):
    """`pycuda.driver.Event`; its time is the host's, for an operation is done when it is issued."""

    def __init__(self, flags: int = 0) -> None:
        super().__init__(self.device.call("event_create"))
        self._stream: Stream | None = None
        self._position, self._time_s = 0, 0.0

    def record(self, stream: Stream | None = None) -> Event:
        self._stream = self.device.issue("event_record", stream)
        self._stream.log.append("event")
        self._position, self._time_s = len(self._stream.log), time.perf_counter()
        return self

    def synchronize(self) -> Event:
        self.device.call("event_synchronize")
        if self._stream is not None:
            self._stream.finish(self._position)
        return self

    def time_since(self, earlier: Event, /) -> float:
        """Milliseconds."""
        self.device.call("event_time_since")
        if earlier._stream is None or self._stream is None:
            raise self.device.error("event_time_since", "invalid resource handle")
        if earlier._stream.done < earlier._position or self._stream.done < self._position:
            raise CudaRuntimeError("cuEventElapsedTime failed: device not ready")
        return (self._time_s - earlier._time_s) * 1e3


class Context:
    """A retained primary context; current only in threads that pushed it."""

    device: SimulatedDevice

    def __init__(self) -> None:
        self.valid, self.thread = True, threading.get_ident()
        self.device.contexts.append(self)

    def push(self) -> None:
        if not self.valid:
            raise CudaLogicError("cuCtxPushCurrent failed: invalid device context")
        self.device.stack().append(self)

    @classmethod
    def pop(cls) -> None:
        if not cls.device.stack():
            raise CudaLogicError("context::pop failed: invalid device context - cannot pop non-current context")
        cls.device.stack().pop()

    def detach(self) -> None:
        if not self.valid:
            raise CudaLogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        if any(self in stack for stack in self.device.stacks):
            raise self.device.misuse("context detached while pushed")
        if threading.get_ident() != self.thread:
            raise self.device.misuse("context detached in another thread than it was retained in: pycuda never releases it then")
        if alive := [type(resource).__name__ for resource in self.device.living(Resource) if resource.context is self]:
            raise self.device.misuse(f"context detached before {', '.join(alive)}")
        self.valid = False
        if not any(context.valid for context in self.device.contexts):
            self.device.broken = None  # the last release destroys the primary context, and its error with it


class Device:
    """`pycuda.driver.Device`."""

    device: SimulatedDevice

    def __init__(self, ordinal: int, /) -> None:
        if not self.device.initialised:
            raise CudaLogicError("cuDeviceGet failed: initialization error")
        if strict_int(ordinal) != 0:
            raise CudaLogicError("cuDeviceGet failed: invalid device ordinal")

    def name(self) -> str:
        return "Simulated GPU"

    def compute_capability(self) -> tuple[int, int]:
        return 8, 7

    def total_memory(self) -> int:
        return self.device.memory_bytes

    def retain_primary_context(self) -> Context:
        self.device.meet_fault("retain_primary_context")
        return self.device.cuda.Context()


class Cuda:
    """The module."""

    Error, MemoryError, LogicError, RuntimeError = CudaError, CudaMemoryError, CudaLogicError, CudaRuntimeError

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device
        self.Device, self.Context = device.own(Device), device.own(Context)
        self.Stream, self.Event = device.own(Stream), device.own(Event)
        self.DeviceAllocation, self.PagelockedHostAllocation = device.own(DeviceAllocation), device.own(PagelockedHostAllocation)

    def init(self, flags: int = 0) -> None:
        self._device.meet_fault("init")
        self._device.initialised = True

    def get_driver_version(self) -> int:
        return 12060

    def mem_get_info(self) -> tuple[int, int]:
        """Free and total bytes."""
        self._device.call("mem_get_info")
        return self._device.free_bytes(), self._device.memory_bytes

    def mem_alloc(self, num_bytes: int, /) -> DeviceAllocation:
        size = strict_int(num_bytes)
        context = self._device.call("mem_alloc")
        if size == 0:
            raise self._device.error("mem_alloc", "invalid argument")
        if size > self._device.free_bytes():
            raise CudaMemoryError("cuMemAlloc failed: out of memory")
        return self.DeviceAllocation(context, size)

    def pagelocked_empty(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        sizes = tuple(strict_int(size) for size in ((shape,) if isinstance(shape, int) else shape))
        num_bytes = math.prod(sizes) * np.dtype(dtype).itemsize
        context = self._device.call("pagelocked_empty")
        if num_bytes == 0:
            raise self._device.error("pagelocked_empty", "invalid argument")
        return self.PagelockedHostAllocation(context, num_bytes).as_array(sizes, np.dtype(dtype))

    def memcpy_htod_async(self, dest: DeviceAllocation | int, src: Any, stream: Stream | None = None) -> None:
        host, address = host_bytes(src, writable=False), self._pointer(dest)
        queue = self._device.issue("memcpy_htod_async", stream)
        source, target = self._pagelocked(host), self._device_bytes("memcpy_htod_async", address, host.size)
        if self._device.in_flight(source, downloads_only=True):
            raise self._device.misuse("upload of page-locked memory that a download in flight still fills")
        target[:] = source
        queue.add_copy("htod", source, None)

    def memcpy_dtoh_async(self, dest: Any, src: DeviceAllocation | int, stream: Stream | None = None) -> None:
        host, address = host_bytes(dest, writable=True), self._pointer(src)
        queue = self._device.issue("memcpy_dtoh_async", stream)
        target, source = self._pagelocked(host), self._device_bytes("memcpy_dtoh_async", address, host.size)
        if self._device.in_flight(target):
            raise self._device.misuse("download to page-locked memory that another copy in flight still uses")
        fill(target, POISON)
        queue.add_copy("dtoh", target, source.copy())

    def memset_d8_async(self, dest: DeviceAllocation | int, data: int, size: int, stream: Stream | None = None) -> None:
        self._memset("memset_d8_async", dest, strict_int(data, 2**8).to_bytes(1, "little"), size, stream)

    def memset_d32_async(self, dest: DeviceAllocation | int, data: int, size: int, stream: Stream | None = None) -> None:
        self._memset("memset_d32_async", dest, strict_int(data, 2**32).to_bytes(4, "little"), size, stream)

    def _memset(self, call: str, dest: DeviceAllocation | int, value: bytes, size: int, stream: Stream | None) -> None:
        address, num_bytes = self._pointer(dest), strict_int(size) * len(value)
        queue = self._device.issue(call, stream)
        if address % len(value):
            raise self._device.error(call, "invalid argument")
        fill(self._device_bytes(call, address, num_bytes), np.frombuffer(value, np.uint8))
        queue.log.append("memset")

    def _pointer(self, pointer: DeviceAllocation | int) -> int:
        return int(pointer) if isinstance(pointer, self.DeviceAllocation) else strict_int(pointer)

    def _device_bytes(self, call: str, address: int, num_bytes: int) -> ByteArray:
        if (found := self._device.find_memory(DeviceAllocation, address, num_bytes)) is None:
            raise self._device.error(call, "invalid argument")
        return found

    def _pagelocked(self, host: ByteArray) -> ByteArray:
        if (found := self._device.find_memory(PagelockedHostAllocation, host.ctypes.data, host.size)) is None:
            raise self._device.misuse("copy with pageable or freed host memory: the call would wait for the device")
        return found
