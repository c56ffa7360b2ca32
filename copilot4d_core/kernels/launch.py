# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Runs a Warp kernel over rows, on the CPU with one thread per core.

Warp executes a CPU launch serially and releases the interpreter lock, so a launch is cut into parts, which all
cores work through.
Every kernel here therefore takes the index of its first row as its first argument and writes only its own row:
the result does not depend on how the rows were cut.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import warp as wp

from copilot4d_core.kernels.cache import use_process_cache
from copilot4d_core.kernels.helper_threads import HelperThreads

wp.config.log_level = wp.LOG_ERROR
wp.config.enable_backward = False


def _init_warp() -> None:
    """Start Warp; its native code warns on stderr that there is no CUDA driver, which on a machine without one is no news."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            wp.init()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
    else:
        wp.init()


KERNEL_CACHE = use_process_cache(_init_warp)
"""Compiled kernels of this process; None where the user or another library has chosen a folder."""
CPU = "cpu"


def keep_compiled_kernels() -> None:
    """Let later processes have what this one compiled, without waiting for its end, which may be a kill."""
    if KERNEL_CACHE is not None:
        KERNEL_CACHE.publish()


class Memory(NamedTuple):
    """Where kernels run, who allocates for them, and whether the host may look."""

    device: str = CPU
    """Warp device name."""
    empty: Callable[..., Any] = wp.empty
    """Makes an array: `empty(shape, dtype=..., device=...)`."""
    free: Callable[[Any], None] = lambda array: None
    """Gives an array's memory back at once; Warp's own arrays do so by themselves."""
    may_read: bool = True
    """Whether the host may read lengths between two kernels; on a GPU it would have to wait for them."""

    def array(self, shape: Any, dtype: Any) -> Any:
        """Array whose content is not set."""
        return self.empty(shape, dtype=dtype, device=self.device)

    def place(self, values: npt.NDArray[Any], dtype: Any, ndim: int = 1) -> Any:
        """Array with these values; `ndim` counts without the axis of a vector type."""
        array = self.array(values.shape[:ndim], dtype)
        array.assign(np.ascontiguousarray(values))
        return array


CPU_MEMORY = Memory()
_PARTS_PER_CORE = 8
"""Rows differ in cost: far rays are longer."""
_MIN_ROWS_PER_PART = 256
_compiled: set[tuple[Any, ...]] = set()


def num_cores() -> int:
    """Cores this process may use: its part of them where torchrun has started several, which would only take turns on each other's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@cache
def _helpers() -> HelperThreads:
    return HelperThreads(num_cores() - 1)


def launch_rows(kernel: wp.Kernel, rows: int, inputs: Sequence[Any], device: str = CPU, least: int = _MIN_ROWS_PER_PART,
                parts_per_core: int = _PARTS_PER_CORE) -> None:
    """Run `kernel(first_row, *inputs)` once for every row.

    Args:
        kernel: its first argument is the int32 index of the first row of the part.
        rows: number of rows; 0 does nothing.
        inputs: remaining arguments, arrays on `device`.
        device: Warp device name.
        least: rows that are worth a thread of their own.
        parts_per_core: 1 where all rows cost the same, for each part costs some microseconds.
    """
    if rows == 0:
        return
    parts = min(parts_per_core * num_cores(), max(1, rows // least)) if device == CPU and num_cores() > 1 else 1
    if parts == 1:
        wp.launch(kernel, dim=rows, inputs=[0, *inputs], device=device)
        return
    bounds = [rows * part // parts for part in range(parts + 1)]
    left = iter(range(parts))  # shared: a core that is done early takes the next part

    def work() -> None:
        # One command changed for each part: a launch of its own costs four times as much, and holds the other core up.
        command = wp.launch(kernel, dim=1, inputs=[0, *inputs], device=device, record_cmd=True)
        for part in left:
            command.set_param_at_index(0, bounds[part])
            command.set_dim(bounds[part + 1] - bounds[part])
            command.launch()

    signature = (kernel, *(getattr(value, "dtype", None) for value in inputs))
    if signature not in _compiled:
        work()  # The first launch compiles; threads that start together would compile the same module twice.
        _compiled.add(signature)
        return
    _helpers().work_with(work, min(num_cores(), parts) - 1)
