# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Memory of a simulated device, page-locked host memory, and pycuda's errors.

What goes in: sizes, and whatever a caller passes as integer or host buffer. What comes out: bytes between guards, or the error pycuda gives.
Unusual: what real CUDA would let pass in silence raises `MisuseError`, which no handler of CUDA errors swallows.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from simulated_cuda import Context
    from simulated_device import SimulatedDevice

ByteArray = npt.NDArray[np.uint8]
POISON = np.frombuffer(b"\xa5\xa5\xe5\x7f", np.uint8)
"""Fills memory that nobody wrote: NaN as float32, 2145756581 as int32."""
GUARD, GUARD_BYTES = 0x5C, 4096
"""What lies before and after every allocation."""
ALIGNMENT = 256
"""Bytes; what cuMemAlloc keeps and TensorRT asks for."""


class CudaError(Exception):
    """`pycuda.driver.Error`; like its subclasses no relative of Python's own errors."""


class CudaMemoryError(CudaError):
    """`pycuda.driver.MemoryError`: out of memory."""


class CudaLogicError(CudaError):
    """`pycuda.driver.LogicError`: a wrong argument, handle or context, or an illegal memory access."""


class CudaRuntimeError(CudaError):
    """`pycuda.driver.RuntimeError`: no device, or an event that is not ready."""


class ArgumentError(TypeError):
    """`Boost.Python.ArgumentError`."""


class MisuseError(AssertionError):
    """Something that real CUDA would not report."""


def strict_int(value: object, limit: int = 2**64) -> int:
    """Boost.Python takes Python's own int (PyLong_Check) and nothing that merely converts, such as np.int64."""
    if not isinstance(value, int):
        raise ArgumentError(f"Python argument types did not match C++ signature: expected int, got {type(value).__name__}")
    if not 0 <= value < limit:
        raise OverflowError(f"expected an unsigned integer below {limit}, got {value}")
    return value


def host_bytes(host: Any, writable: bool) -> ByteArray:
    """Flat view of what offers a contiguous buffer, as PyObject_GetBuffer with PyBUF_ANY_CONTIGUOUS gives it to pycuda."""
    view = memoryview(host)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    if writable and view.readonly:
        raise ValueError("buffer source array is read-only")
    return np.asarray(view).reshape(-1, order="A").view(np.uint8)


def fill(target: ByteArray, pattern: ByteArray) -> None:
    """Repeat the pattern over the target; its last copy may be cut."""
    repeats = target.size // pattern.size
    whole, rest = np.split(target, [repeats * pattern.size])
    whole.view(f"V{pattern.size}")[:] = pattern.view(f"V{pattern.size}")
    rest[:] = pattern[:rest.size]


class Store:
    """Aligned bytes between guards; they outlive their allocation, so that a late write is found."""

    def __init__(self, num_bytes: int) -> None:
        whole = np.full(num_bytes + 2 * GUARD_BYTES + ALIGNMENT, GUARD, np.uint8)
        start = GUARD_BYTES + -(whole.ctypes.data + GUARD_BYTES) % ALIGNMENT
        self.address = whole.ctypes.data + start
        self.data = whole[start:start + num_bytes]
        self._guards = whole[:start], whole[start + num_bytes:]
        fill(self.data, POISON)

    def is_damaged(self) -> bool:
        """Whether something wrote outside."""
        return any(bool((guard != GUARD).any()) for guard in self._guards)

    def is_poison(self) -> bool:
        """Whether nothing wrote inside."""
        expected = np.empty_like(self.data)
        fill(expected, POISON)
        return np.array_equal(self.data, expected)


class Resource:
    """What lives in a context until it is freed or dropped; pycuda's `context_dependent`."""

    device: SimulatedDevice
    alive = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.handle = self.device.register(self)
        self.alive = True

    def release(self) -> None:
        """Clean up where the context is current, or in the thread that made it; elsewhere pycuda warns and leaks."""
        self.alive = False
        if self.device.current() is self.context or self.context.thread == threading.get_ident():
            self.device.resources.pop(self.handle, None)
            self.clean_up()
        else:
            self.device.violations.append(f"{type(self).__name__} leaked: given back in a thread where its context is not current")
            warnings.warn(f"{type(self).__name__} in out-of-thread context could not be cleaned up", UserWarning, stacklevel=3)

    def clean_up(self) -> None:
        """What a kind of resource does when it goes."""

    def __del__(self) -> None:
        if self.alive:
            with suppress(MisuseError):  # recorded, and nobody could catch it here
                self.release()


class Memory(Resource):
    """Memory that is freed once."""

    cxx_name = ""

    def __init__(self, context: Context, num_bytes: int) -> None:
        self.store = Store(num_bytes)
        super().__init__(context)

    def free(self) -> None:
        if not self.alive:
            raise CudaLogicError(f"{self.cxx_name}::free failed: invalid resource handle")
        self.release()

    def clean_up(self) -> None:
        fill(self.store.data, POISON)
        self.device.freed.append(self.store)
        if self.store.is_damaged():
            raise self.device.misuse(f"something wrote outside of {type(self).__name__} of {self.store.data.size} bytes")


class DeviceAllocation(Memory):
    """Device memory; `int()` is an address that ctypes and Warp's CPU arrays can use."""

    cxx_name = "device_allocation"

    def __int__(self) -> int:
        return self.store.address

    __index__ = __int__


class PagelockedHostAllocation(Memory):
    """The `.base` of what `pagelocked_empty` returns."""

    cxx_name = "pagelocked_host_allocation"

    def as_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array whose base is this allocation."""
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (self.store.address, False)}
        return np.asarray(self)

    def clean_up(self) -> None:
        in_flight = self.device.in_flight(self.store.data)
        super().clean_up()
        if in_flight:
            raise self.device.misuse("page-locked memory freed while a copy is in flight")
