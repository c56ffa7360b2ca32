# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Many steps in one launch on the CPU: each thread takes rows of a step until none is left, and all go on together.

In: a kernel whose code begins with `STEPS`, and the number of its steps. Out: every row of every step has run once, the steps in their order.
Unusual: a launch of its own for each step costs 0.2 ms, most of it until a second thread is awake and the interpreter lets go; a network
has ten steps. Threads that wait spin, and leave the core to others when that takes long. A thread that comes late finds the steps done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import warp as wp

from copilot4d_core.kernels.launch import CPU, launch_rows, num_cores

MOST_THREADS = 8
"""A step has some hundred rows of some ten microseconds: more threads would wait for each other."""
_APART = 16
"""Numbers between two counters, so that no two lie in the same line of a cache."""

STEPS = f"""
    int leave_core(void) __asm__("sched_yield");
    int* counter = counters.data;
    const auto side_by_side = [&](int rows, auto&& row) {{
        int *const next = counter, *const done = counter + {_APART};
        counter += {2 * _APART};
        for (int i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < rows;) {{
            row(i);
            __atomic_fetch_add(done, 1, __ATOMIC_RELEASE);
        }}
        for (int waits = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) < rows; ++waits)
            if (waits > 2000) leave_core();
    }};
"""
"""To be put before the code of a snippet that has `counters`; what a step writes may be read in the next."""


class Crew:
    """Launches one kernel of several steps again and again; not from two threads at once."""

    def __init__(self, steps: int) -> None:
        """`steps`: how often the kernel's code calls `side_by_side`, at most."""
        self._counts = np.zeros(2 * _APART * steps, dtype=np.int32)
        self.counters: Any = wp.array(self._counts, dtype=wp.int32, device=CPU, copy=False)

    def launch(self, kernel: wp.Kernel, inputs: Sequence[Any]) -> None:
        """Run all steps.

        Args:
            kernel: its first argument is an int that nobody looks at, its second an array that the code knows as `counters`.
            inputs: remaining arguments.
        """
        self._counts[:] = 0
        launch_rows(kernel, min(num_cores(), MOST_THREADS), [self.counters, *inputs], least=1, parts_per_core=1)
