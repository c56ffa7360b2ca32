# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a runner holds of a GPU: the primary context, one stream, device memory, page-locked memory and events.

What goes in: pycuda's driver module. What comes out: Warp arrays over pycuda's memory, and everything freed in order.
Unusual: the context is the primary one, which TensorRT and Warp share, and is current only inside `active`, because a ROS
executor calls from threads of its own. The modules are arguments, so that a test passes a simulated device.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.kernels.launch import Memory

LOG = logging.getLogger("copilot4d")


class Gpu(NamedTuple):
    """The modules and the device that a runner works with."""

    cuda: Any
    """`pycuda.driver`."""
    trt: Any
    """`tensorrt` or `tensorrt_rtx`."""
    warp_device: str
    """Warp's name of the device, such as `cuda:0`."""
    kernel_scope: Callable[[Any], AbstractContextManager[Any]]
    """Makes kernels that are launched inside it run on this pycuda stream."""


class GpuError(OSError):
    """The device failed or has no memory left; the runner must be closed and opened again."""


@contextmanager
def warp_on_stream(device: str, stream: Any) -> Iterator[None]:
    """Launch Warp kernels on a stream of pycuda, on a real GPU."""
    with wp.ScopedStream(wp.Stream(device, cuda_stream=stream.handle), sync_enter=False):
        yield


def release_frames(error: BaseException) -> None:
    """Let go of what the calls that failed had in hand: a traceback would keep streams and engines alive beyond their context."""
    traceback.clear_frames(error.__traceback__)


class GpuSession:
    """Context, stream and memory on device 0; `close` gives all of it back."""

    def __init__(self, gpu: Gpu) -> None:
        """Retain the primary context and make a stream.

        Raises:
            GpuError: the driver refuses.
        """
        self.gpu = gpu
        self._device: dict[int, Any] = {}
        self._host: list[Any] = []
        self._events: list[Any] = []
        self.stream: Any = None
        # pycuda releases a context only in the thread that retained it, and a runner may be closed in another thread.
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="gpu-context")
        try:
            gpu.cuda.init()
            self._context = self._owner.submit(lambda: gpu.cuda.Device(0).retain_primary_context()).result()
        except gpu.cuda.Error as error:
            self._owner.shutdown()
            raise GpuError(f"GPU: expected a working CUDA device 0, got: {error}; `copilot4d doctor` says what is there") from error
        try:
            with self.active():
                self.stream = gpu.cuda.Stream()
        except GpuError:
            self.close()
            raise

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread, as long as the block runs.

        Raises:
            GpuError: a CUDA call in the block failed.
        """
        self._context.push()
        try:
            yield
        except self.gpu.cuda.Error as error:
            release_frames(error)
            raise GpuError(f"GPU: {error}; close this runner and open a new one") from error
        except BaseException as error:
            release_frames(error)
            raise
        finally:
            self.gpu.cuda.Context.pop()

    def kernel_scope(self) -> AbstractContextManager[Any]:
        """Warp's kernels, fills and copies inside it run on the session's stream, after what was enqueued before."""
        return self.gpu.kernel_scope(self.stream)

    @property
    def memory(self) -> Memory:
        """Memory for kernels; pycuda allocates it, Warp sees it."""
        return Memory(self.gpu.warp_device, self._empty, self._free, may_read=False)

    def _empty(self, shape: int | tuple[int, ...], dtype: Any, device: str) -> Any:
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        size = int(np.prod(lengths, dtype=np.int64)) * int(wp.types.type_size_in_bytes(dtype))
        allocation = self._allocate(size)
        array: Any = wp.array(ptr=int(allocation), dtype=dtype, shape=lengths, capacity=size, device=device)
        self._device[int(allocation)] = allocation
        return array

    def _allocate(self, size: int) -> Any:
        try:
            return self.gpu.cuda.mem_alloc(size)
        except self.gpu.cuda.MemoryError as error:
            free, total = self.gpu.cuda.mem_get_info()
            raise GpuError(f"GPU: out of memory: {size / 2**20:.0f} MiB were needed, {free / 2**20:.0f} of {total / 2**20:.0f} MiB are free; "
                           "close other programs on the GPU, or export a smaller preset or fp16") from error

    def _free(self, array: Any) -> None:
        self._device.pop(int(array.ptr)).free()

    def host(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked array: copies from and to it do not wait."""
        array: npt.NDArray[Any] = self.gpu.cuda.pagelocked_empty(shape, dtype)
        self._host.append(array)
        return array

    def free_host(self, array: npt.NDArray[Any]) -> None:
        """Give a page-locked array back."""
        self._host = [other for other in self._host if other is not array]
        array.base.free()  # type: ignore[union-attr]

    def event(self) -> Any:
        """Event for times on the stream."""
        self._events.append(self.gpu.cuda.Event())
        return self._events[-1]

    def upload(self, array: Any, values: npt.NDArray[Any]) -> None:
        """Enqueue a copy from a page-locked array to the start of a device array."""
        self.gpu.cuda.memcpy_htod_async(int(array.ptr), values, self.stream)

    def download(self, values: npt.NDArray[Any], array: Any, offset_bytes: int = 0) -> None:
        """Enqueue a copy from a device array to a page-locked one; the values are there after `stream.synchronize()`."""
        self.gpu.cuda.memcpy_dtoh_async(values, int(array.ptr) + offset_bytes, self.stream)

    def close(self) -> None:
        """Free everything, what was made last first; an error is logged, and the rest is still freed."""
        self._context.push()
        try:
            if self.stream is not None:
                self._try("wait for the stream", self.stream.synchronize)
            self._events.clear()
            for array in reversed(self._host):
                self._try("free page-locked memory", array.base.free)
            for allocation in reversed(list(self._device.values())):
                self._try("free device memory", allocation.free)
            self._host.clear()
            self._device.clear()
            self.stream = None
        finally:
            self.gpu.cuda.Context.pop()
        self._try("release the context", lambda: self._owner.submit(self._context.detach).result())
        self._owner.shutdown()

    def _try(self, what: str, step: Callable[[], Any]) -> None:
        try:
            step()
        except self.gpu.cuda.Error as error:
            LOG.warning("GPU: could not %s: %s", what, str(error))  # a log may keep its arguments, and the error holds the stream
