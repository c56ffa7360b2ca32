# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The simulated GPU as pycuda sees it: memory, streams and contexts keep pycuda's rules, and each check fires.

Expected messages are pycuda's: the driver function, " failed: ", and CUDA's own words.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import warp as wp
from open_device import Open, close, opened
from simulated_device import SimulatedDevice
from simulated_memory import MisuseError

NOT_CURRENT = "failed: invalid device context"
FEATURES = [[1, 2, 3], [6, 5, 4]]


@pytest.fixture
def gpu() -> Iterator[Open]:
    yield from opened()


def write_byte(address: int) -> None:
    ctypes.c_uint8.from_address(address).value ^= 0xFF


# Copies


def test_a_download_is_poison_until_the_stream_was_waited_for(gpu: Open) -> None:
    source, target = gpu.host(1, 2, 3), gpu.host(0, 0, 0)
    gpu.cuda.memcpy_htod_async(gpu.memory, source, gpu.stream)
    gpu.cuda.memcpy_dtoh_async(target, gpu.memory, gpu.stream)
    assert np.isnan(target).all()
    gpu.stream.synchronize()
    assert target.tolist() == [1, 2, 3]
    assert gpu.stream.log == ["htod", "dtoh"] == gpu.device.logs[0]
    close(gpu).check()


def test_an_event_delivers_what_was_issued_before_it(gpu: Open) -> None:
    first, second = gpu.host(), gpu.host()
    gpu.cuda.memset_d32_async(gpu.memory, 0x3F800000, 3, gpu.stream)
    gpu.cuda.memcpy_dtoh_async(first, gpu.memory, gpu.stream)
    event = gpu.cuda.Event().record(gpu.stream)
    gpu.cuda.memcpy_dtoh_async(second, gpu.memory, gpu.stream)
    event.synchronize()
    assert first.tolist() == [1, 1, 1]
    assert np.isnan(second).all()
    gpu.stream.synchronize()
    assert second.tolist() == [1, 1, 1]
    assert gpu.stream.log == ["memset", "dtoh", "event", "dtoh"]


def test_a_download_brings_what_was_there_at_its_turn(gpu: Open) -> None:
    target = gpu.host()
    gpu.cuda.memset_d8_async(gpu.memory, 0, 12, gpu.stream)
    gpu.cuda.memcpy_dtoh_async(target, gpu.memory, gpu.stream)
    gpu.cuda.memset_d8_async(gpu.memory, 0xFF, 12, gpu.stream)
    gpu.stream.synchronize()
    assert target.tolist() == [0, 0, 0]


def test_memory_that_nobody_wrote_is_not_zero(gpu: Open) -> None:
    target = gpu.host()
    assert np.isnan(target).all()
    gpu.cuda.memcpy_dtoh_async(target, gpu.memory, gpu.stream)
    gpu.stream.synchronize()
    assert np.isnan(target).all()
    assert (target.view(np.int32) == 2145756581).all()


def test_memory_of_any_size_is_poison_to_its_last_byte(gpu: Open) -> None:
    odd = gpu.cuda.mem_alloc(7)
    assert ctypes.string_at(int(odd), 7) == b"\xa5\xa5\xe5\x7f\xa5\xa5\xe5"
    close(gpu).check()


@pytest.mark.parametrize("touch", ["source", "target"])
def test_a_host_buffer_that_changes_in_flight_is_found(gpu: Open, touch: str) -> None:
    buffers = {"source": gpu.host(1, 2, 3), "target": gpu.host()}
    gpu.cuda.memcpy_htod_async(gpu.memory, buffers["source"], gpu.stream)
    gpu.cuda.memcpy_dtoh_async(buffers["target"], gpu.memory, gpu.stream)
    buffers[touch][1] = 7
    with pytest.raises(MisuseError, match="changed while a copy was in flight"):
        gpu.stream.synchronize()


def test_a_host_buffer_has_one_download_in_flight(gpu: Open) -> None:
    host = gpu.host(1, 2, 3)
    gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    with pytest.raises(MisuseError, match="another copy in flight"):
        gpu.cuda.memcpy_dtoh_async(host, gpu.memory, gpu.stream)
    gpu.stream.synchronize()
    gpu.cuda.memcpy_dtoh_async(host, gpu.memory, gpu.stream)
    with pytest.raises(MisuseError, match="download in flight"):
        gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)


def test_pageable_and_freed_host_memory_is_refused(gpu: Open) -> None:
    freed = gpu.host(1, 2, 3)
    freed.base.free()
    for host in (np.zeros(3, np.float32), freed):
        with pytest.raises(MisuseError, match="pageable or freed"):
            gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
        with pytest.raises(MisuseError, match="pageable or freed"):
            gpu.cuda.memcpy_dtoh_async(host, gpu.memory, gpu.stream)


@pytest.mark.parametrize(("call", "offset"), [("htod", 992), ("htod", -4), ("dtoh", 992), ("dtoh", -4), ("memset", 992)])
def test_what_does_not_lie_in_one_allocation_is_refused(gpu: Open, call: str, offset: int) -> None:
    place, host, neighbour = int(gpu.memory) + offset, gpu.host(1, 2, 3), gpu.cuda.mem_alloc(5000)
    calls: dict[str, tuple[Callable[[], Any], str]] = {
        "htod": (lambda: gpu.cuda.memcpy_htod_async(place, host, gpu.stream), "cuMemcpyHtoDAsync"),
        "dtoh": (lambda: gpu.cuda.memcpy_dtoh_async(host, place, gpu.stream), "cuMemcpyDtoHAsync"),
        "memset": (lambda: gpu.cuda.memset_d32_async(place, 0, 3, gpu.stream), "cuMemsetD32Async"),
    }
    with pytest.raises(gpu.cuda.LogicError, match=f"^{calls[call][1]} failed: invalid argument$"):
        calls[call][0]()
    assert gpu.stream.log == []
    assert int(neighbour) % 256 == int(gpu.memory) % 256 == 0


def test_a_memset_of_words_needs_the_address_of_a_word(gpu: Open) -> None:
    gpu.cuda.memset_d8_async(int(gpu.memory) + 2, 0, 4, gpu.stream)
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemsetD32Async failed: invalid argument$"):
        gpu.cuda.memset_d32_async(int(gpu.memory) + 2, 0, 1, gpu.stream)


def test_the_middle_of_an_allocation_is_an_address(gpu: Open) -> None:
    whole, last = gpu.cuda.pagelocked_empty((2, 125), np.float32), gpu.host(1, 2, 3)
    gpu.cuda.memcpy_htod_async(int(gpu.memory) + 988, last, gpu.stream)
    gpu.cuda.memcpy_dtoh_async(whole, gpu.memory, gpu.stream)
    gpu.stream.synchronize()
    assert whole[1, -3:].tolist() == [1, 2, 3]
    assert np.isnan(whole.ravel()[:-3]).all()


# Argument types


@pytest.mark.parametrize(("call", "error"), [
    (lambda g, h: g.cuda.mem_alloc(np.int64(4)), TypeError),
    (lambda g, h: g.cuda.mem_alloc(4.0), TypeError),
    (lambda g, h: g.cuda.mem_alloc(-1), OverflowError),
    (lambda g, h: g.cuda.Device(np.int64(0)), TypeError),
    (lambda g, h: g.cuda.pagelocked_empty(np.int64(3), np.float32), TypeError),
    (lambda g, h: g.cuda.pagelocked_empty((3, np.int64(3)), np.float32), TypeError),
    (lambda g, h: g.cuda.memcpy_htod_async(np.int64(int(g.memory)), h, g.stream), TypeError),
    (lambda g, h: g.cuda.memcpy_htod_async(h, h, g.stream), TypeError),
    (lambda g, h: g.cuda.memcpy_htod_async(g.memory, [1, 2], g.stream), TypeError),
    (lambda g, h: g.cuda.memcpy_htod_async(g.memory, np.zeros((4, 4))[:, :2], g.stream), ValueError),
    (lambda g, h: g.cuda.memcpy_htod_async(g.memory, h, g.stream.handle), TypeError),
    (lambda g, h: g.cuda.memcpy_htod_async(g.memory, h), MisuseError),
    (lambda g, h: g.cuda.memcpy_dtoh_async(h[::2], g.memory, g.stream), ValueError),
    (lambda g, h: g.cuda.memcpy_dtoh_async(bytes(4), g.memory, g.stream), ValueError),
    (lambda g, h: g.cuda.memcpy_dtoh_async(h, g.memory, 0), TypeError),
    (lambda g, h: g.cuda.memcpy_dtoh_async(h, g.memory, SimulatedDevice), TypeError),
    (lambda g, h: g.cuda.memset_d8_async(g.memory, 256, 1, g.stream), OverflowError),
    (lambda g, h: g.cuda.memset_d8_async(g.memory, 0, np.int64(1), g.stream), TypeError),
    (lambda g, h: g.cuda.memset_d32_async(g.memory, np.nan, 1, g.stream), TypeError),
    (lambda g, h: g.cuda.memset_d32_async(g.memory, -1, 1, g.stream), OverflowError),
    (lambda g, h: g.cuda.Event().record(), MisuseError),
    (lambda g, h: g.cuda.Event().record(g.stream.handle), TypeError),
])
def test_arguments_that_pycuda_does_not_take_are_refused(gpu: Open, call: Callable[[Open, Any], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(gpu, gpu.host(1, 2, 3))


def test_arrays_in_other_orders_and_bytes_of_page_locked_memory_are_taken(gpu: Open) -> None:
    host = gpu.cuda.pagelocked_empty((2, 3), np.float32)
    host[:] = FEATURES
    gpu.cuda.memcpy_htod_async(dest=gpu.memory, src=host.T, stream=gpu.stream)
    gpu.cuda.memcpy_htod_async(gpu.memory, memoryview(host)[:1], gpu.stream)
    back = gpu.host()
    gpu.cuda.memcpy_dtoh_async(back, int(gpu.memory) + 12, gpu.stream)
    gpu.stream.synchronize()
    assert back.tolist() == [6, 5, 4]


# Memory


def test_memory_is_used_by_its_address(gpu: Open) -> None:
    wp.array(ptr=int(gpu.memory), dtype=wp.float32, shape=3, device="cpu").fill_(2.5)
    back = gpu.host()
    gpu.cuda.memcpy_dtoh_async(back, gpu.memory, gpu.stream)
    gpu.stream.synchronize()
    assert back.tolist() == [2.5, 2.5, 2.5]


def test_use_after_free_and_double_free_are_refused(gpu: Open) -> None:
    host = gpu.host(1, 2, 3)
    gpu.memory.free()
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemcpyHtoDAsync failed: invalid argument$"):
        gpu.cuda.memcpy_htod_async(gpu.memory, host, gpu.stream)
    with pytest.raises(gpu.cuda.LogicError, match="^device_allocation::free failed: invalid resource handle$"):
        gpu.memory.free()
    host.base.free()
    with pytest.raises(gpu.cuda.LogicError, match="^pagelocked_host_allocation::free failed: invalid resource handle$"):
        host.base.free()


@pytest.mark.parametrize("offset", [-1, 1000, -4096, 5095])
def test_a_write_outside_is_found_by_free_and_by_check(gpu: Open, offset: int) -> None:
    write_byte(int(gpu.memory) + offset)
    with pytest.raises(AssertionError, match="wrote outside of live memory"):
        gpu.device.check()
    with pytest.raises(MisuseError, match="wrote outside of DeviceAllocation of 1000 bytes"):
        gpu.memory.free()


def test_a_write_after_free_is_found(gpu: Open) -> None:
    device = close(gpu)
    device.check()
    write_byte(int(gpu.memory) + 999)
    with pytest.raises(AssertionError, match="wrote to freed memory"):
        device.check()


def test_memory_runs_out(gpu: Open) -> None:
    assert gpu.cuda.mem_get_info() == (9000, 10_000)
    assert gpu.cuda.Device(0).total_memory() == 10_000
    with pytest.raises(gpu.cuda.MemoryError, match="^cuMemAlloc failed: out of memory$") as refusal:
        gpu.cuda.mem_alloc(9001)
    assert not isinstance(refusal.value, MemoryError)
    filled = gpu.cuda.mem_alloc(9000)
    del filled
    assert gpu.cuda.mem_get_info() == (9000, 10_000)


def test_empty_memory_is_refused(gpu: Open) -> None:
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemAlloc failed: invalid argument$"):
        gpu.cuda.mem_alloc(0)
    with pytest.raises(gpu.cuda.LogicError, match="^cuMemHostAlloc failed: invalid argument$"):
        gpu.cuda.pagelocked_empty((0, 3), np.float32)


def test_page_locked_memory_freed_in_flight_is_found(gpu: Open) -> None:
    host = gpu.host()
    gpu.cuda.memcpy_dtoh_async(host, gpu.memory, gpu.stream)
    with pytest.raises(MisuseError, match="freed while a copy is in flight"):
        host.base.free()


def test_what_is_dropped_in_flight_is_found() -> None:
    device = SimulatedDevice()
    device.cuda.init()
    context = device.cuda.Device(0).retain_primary_context()
    context.push()
    stream, host, memory = device.cuda.Stream(), device.cuda.pagelocked_empty(3, np.float32), device.cuda.mem_alloc(12)
    device.cuda.memcpy_dtoh_async(host, memory, stream)
    del host
    assert device.violations == ["page-locked memory freed while a copy is in flight"]
    del stream
    assert device.violations[1:] == ["stream dropped while copies are in flight"]
    del memory
    context.pop()
    context.detach()
