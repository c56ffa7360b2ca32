# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A simulated GPU in use, as the tests of its rules begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from simulated_device import SimulatedDevice
from simulated_memory import Resource


class Open(NamedTuple):
    """A device in use, with 1000 bytes of its memory."""

    device: SimulatedDevice
    context: Any
    stream: Any
    memory: Any

    @property
    def cuda(self) -> Any:
        return self.device.cuda

    def host(self, *values: float) -> npt.NDArray[np.float32]:
        """Page-locked; poison without values."""
        array = self.cuda.pagelocked_empty(len(values) or 3, np.float32)
        if values:
            array[:] = values
        return array


def opened() -> Iterator[Open]:
    """A device whose context is current; for a fixture."""
    device = SimulatedDevice(memory_bytes=10_000)
    device.cuda.init()
    context = device.cuda.Device(0).retain_primary_context()
    context.push()
    yield Open(device, context, device.cuda.Stream(), device.cuda.mem_alloc(1000))
    device.stack().clear()


def close(gpu: Open) -> SimulatedDevice:
    """Give everything of a test back; returns the device, for a last check."""
    for resource in gpu.device.living(Resource):
        resource.release()
    gpu.context.pop()
    gpu.context.detach()
    return gpu.device


def in_thread(work: Callable[[], Any]) -> BaseException | None:
    """What `work` raised in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).exception()
