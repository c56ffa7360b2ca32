# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The simulated GPU as pycuda sees it: contexts, threads, events and faults; see `test_simulated_device.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import warp as wp
from open_device import Open, close, in_thread, opened
from simulated_device import SimulatedDevice
from simulated_memory import MisuseError

NOT_CURRENT = "failed: invalid device context"
FEATURES = [[1, 2, 3], [6, 5, 4]]


@pytest.fixture
def gpu() -> Iterator[Open]:
    yield from opened()


# Contexts and threads


@pytest.mark.parametrize("call", [
    lambda g, h: g.cuda.mem_alloc(4),
    lambda g, h: g.cuda.mem_get_info(),
    lambda g, h: g.cuda.pagelocked_empty(3, np.float32),
    lambda g, h: g.cuda.memcpy_htod_async(g.memory, h, g.stream),
    lambda g, h: g.cuda.memcpy_dtoh_async(h, g.memory, g.stream),
    lambda g, h: g.cuda.memset_d8_async(g.memory, 0, 4, g.stream),
    lambda g, h: g.cuda.memset_d32_async(g.memory, 0, 1, g.stream),
    lambda g, h: g.cuda.Stream(),
    lambda g, h: g.stream.synchronize(),
    lambda g, h: g.cuda.Event(),
    lambda g, h: g.device.kernel_scope(g.stream).__enter__(),
])
def test_a_thread_without_the_context_is_refused(gpu: Open, call: Callable[[Open, Any], Any]) -> None:
    host = gpu.host(1, 2, 3)
    error = in_thread(lambda: call(gpu, host))
    assert isinstance(error, gpu.cuda.LogicError)
    assert str(error).endswith(NOT_CURRENT)
    gpu.context.pop()
    with pytest.raises(gpu.cuda.LogicError, match=NOT_CURRENT):
        call(gpu, host)
    gpu.context.push()
    call(gpu, host)


def test_a_context_is_not_current_before_push() -> None:
    cuda = SimulatedDevice().cuda
    with pytest.raises(cuda.LogicError, match="^cuDeviceGet failed: initialization error$"):
        cuda.Device(0)
    cuda.init()
    with pytest.raises(cuda.LogicError, match="^cuDeviceGet failed: invalid device ordinal$"):
        cuda.Device(1)
    device = cuda.Device(0)
    assert (device.name(), device.compute_capability(), cuda.get_driver_version()) == ("Simulated GPU", (8, 7), 12060)
    context = device.retain_primary_context()
    with pytest.raises(cuda.LogicError, match=NOT_CURRENT):
        cuda.mem_alloc(4)
    with pytest.raises(cuda.LogicError, match="cannot pop non-current context"):
        cuda.Context.pop()
    context.detach()
    for call in (context.detach, context.push):
        with pytest.raises(cuda.LogicError, match="invalid device context"):
            call()


def test_a_context_pushed_twice_is_popped_twice(gpu: Open) -> None:
    gpu.context.push()
    gpu.cuda.Context.pop()
    gpu.cuda.mem_alloc(4)
    gpu.cuda.Context.pop()
    with pytest.raises(gpu.cuda.LogicError, match=NOT_CURRENT):
        gpu.cuda.mem_alloc(4)


def test_detach_refuses_while_something_lives(gpu: Open) -> None:
    with pytest.raises(MisuseError, match="detached while pushed"):
        gpu.context.detach()
    gpu.context.pop()
    with pytest.raises(MisuseError, match="before Stream, DeviceAllocation"):
        gpu.context.detach()
    with pytest.raises(AssertionError, match="detached while pushed.*Stream is still alive.*DeviceAllocation is still alive.*not detached"):
        gpu.device.check()


def test_detach_belongs_to_the_thread_that_retained(gpu: Open) -> None:
    gpu.memory.free()
    gpu.stream.release()
    gpu.context.pop()
    error = in_thread(gpu.context.detach)
    assert isinstance(error, MisuseError)
    assert "another thread" in str(error)


def test_a_context_left_pushed_in_another_thread_is_found(gpu: Open) -> None:
    assert in_thread(gpu.context.push) is None
    with pytest.raises(AssertionError, match="still pushed"):
        gpu.device.check()


def test_another_thread_works_with_the_context_pushed(gpu: Open) -> None:
    source, back = gpu.host(4, 5, 6), gpu.host()

    def work() -> None:
        gpu.context.push()
        gpu.cuda.memcpy_htod_async(gpu.memory, source, gpu.stream)
        gpu.cuda.memcpy_dtoh_async(back, gpu.memory, gpu.stream)
        gpu.stream.synchronize()
        gpu.memory.free()
        gpu.context.pop()

    assert in_thread(work) is None
    assert back.tolist() == [4, 5, 6]
    assert gpu.device.violations == []


def test_free_without_the_context_works_only_where_it_was_retained(gpu: Open) -> None:
    other = gpu.cuda.mem_alloc(500)
    gpu.context.pop()
    other.free()
    with pytest.warns(UserWarning, match="out-of-thread context could not be cleaned up"):
        assert in_thread(gpu.memory.free) is None
    assert gpu.device.free_bytes() == 9000
    with pytest.raises(AssertionError, match="DeviceAllocation leaked"):
        gpu.device.check()


def test_devices_do_not_share_anything(gpu: Open) -> None:
    other = SimulatedDevice()
    with pytest.raises(other.cuda.LogicError, match=NOT_CURRENT):
        other.cuda.Stream()
    other.check()


# Events, kernels and faults


def test_events_measure_host_time(gpu: Open) -> None:
    start, end = gpu.cuda.Event(), gpu.cuda.Event()
    start.record(gpu.stream)
    end.synchronize()  # CUDA returns at once from an event that was never recorded
    with pytest.raises(gpu.cuda.LogicError, match="^cuEventElapsedTime failed: invalid resource handle$"):
        end.time_since(start)
    time.sleep(0.02)
    end.record(gpu.stream)
    with pytest.raises(gpu.cuda.RuntimeError, match="^cuEventElapsedTime failed: device not ready$"):
        end.time_since(start)
    end.synchronize()
    assert 20 <= end.time_since(start) < 2000


@wp.kernel
def write_index(out: wp.array(dtype=wp.float32), first: int):  # type: ignore[valid-type]
    out[first + wp.tid()] = wp.float32(first + wp.tid())


def test_a_kernel_that_writes_outside_is_found_at_once(gpu: Open) -> None:
    out = wp.array(ptr=int(gpu.memory), dtype=wp.float32, shape=250, device="cpu")
    with gpu.device.kernel_scope(gpu.stream):
        wp.launch(write_index, dim=250, inputs=[out, 0], device="cpu")
    assert gpu.stream.log == ["kernel"]
    with pytest.raises(MisuseError, match="kernel wrote outside"), gpu.device.kernel_scope(gpu.stream):
        wp.launch(write_index, dim=250, inputs=[out, 1], device="cpu")


def test_a_fault_hits_the_call_it_was_meant_for_and_stays(gpu: Open) -> None:
    host = gpu.host(1, 2, 3)
    back = gpu.host()
    gpu.device.fail("memcpy_htod_async", after=2)
    gpu.cuda.memcpy_dtoh_async(back, gpu.memory, gpu.stream)
    gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemcpyHtoDAsync failed: an illegal memory access was encountered$"):
        gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    with pytest.raises(gpu.cuda.LogicError, match="^cuStreamSynchronize failed: an illegal memory access was encountered$"):
        gpu.stream.synchronize()
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemAlloc failed: an illegal memory access was encountered$"):
        gpu.cuda.mem_alloc(4)
    assert np.isnan(back).all()
    device = close(gpu)
    device.check()
    context = gpu.cuda.Device(0).retain_primary_context()
    context.push()
    assert gpu.cuda.mem_alloc(4)
    context.pop()
    context.detach()
    device.check()


def test_an_error_of_the_tests_choice_is_raised(gpu: Open) -> None:
    gpu.device.fail("stream_synchronize", error=gpu.cuda.RuntimeError("cuStreamSynchronize failed: uncorrectable ECC error encountered"))
    for call, name in ((gpu.stream.synchronize, "cuStreamSynchronize"), (gpu.cuda.Event, "cuEventCreate")):
        with pytest.raises(gpu.cuda.RuntimeError, match=f"^{name} failed: uncorrectable ECC error encountered$"):
            call()


def test_a_broken_context_stays_broken_while_anyone_retains_it(gpu: Open) -> None:
    other = gpu.cuda.Device(0).retain_primary_context()
    gpu.device.fail("stream_synchronize")
    with pytest.raises(gpu.cuda.LogicError):
        gpu.stream.synchronize()
    close(gpu)
    other.push()
    with pytest.raises(gpu.cuda.LogicError, match="illegal memory access"):
        gpu.cuda.Stream()


def test_out_of_memory_does_not_stay(gpu: Open) -> None:
    gpu.device.fail("mem_alloc", error=gpu.cuda.MemoryError("cuMemAlloc failed: out of memory"))
    with pytest.raises(gpu.cuda.MemoryError):
        gpu.cuda.mem_alloc(4)
    gpu.cuda.mem_alloc(4).free()


@pytest.mark.parametrize("name", ["init", "retain_primary_context"])
def test_the_start_can_fail(gpu: Open, name: str) -> None:
    gpu.device.fail(name)
    with pytest.raises(gpu.cuda.LogicError):
        gpu.cuda.init() if name == "init" else gpu.cuda.Device(0).retain_primary_context()


def test_a_fault_that_nobody_met_is_found(gpu: Open) -> None:
    device = close(gpu)
    device.fail("mem_alloc", after=1)
    with pytest.raises(AssertionError, match="mem_alloc was to fail and did not"):
        device.check()
    with pytest.raises(KeyError, match="memcpy_htod"):
        device.fail("memcpy_htod")
