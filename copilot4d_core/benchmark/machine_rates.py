# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How fast this machine moves and multiplies numbers: what no stage can beat.

What goes in: nothing. What comes out: bytes a second and float32 operations a second, measured here on all cores.
Unusual: the product runs in ONNX Runtime with the settings of the networks, because that is what runs them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np

from copilot4d_core.deploy.onnx_runner import open_session
from copilot4d_core.kernels.launch import num_cores

COPIED_BYTES = 128 * 2**20
"""Far more than the caches of a processor hold."""
MATRIX = 1536
REPEATS = 9


class MachineRates(NamedTuple):
    """Of this process on this machine."""

    bandwidth_gb_s: float
    """Memory, by a copy on all cores: bytes read plus bytes written, the best of the repeats."""
    matrix_gflop_s: float
    """float32 product of two large matrices, 2 operations for each multiplication and addition, the best of the repeats."""
    cores: int


def measure_rates(copied_bytes: int = COPIED_BYTES, matrix: int = MATRIX, repeats: int = REPEATS) -> MachineRates:
    """Measure both rates; takes a second or two.

    Raises:
        ValueError: ONNX Runtime is not installed.
    """
    return MachineRates(2 * copied_bytes / _best_s(_copy(copied_bytes), repeats) / 1e9, 2 * matrix**3 / _best_s(_product(matrix), repeats) / 1e9,
                        num_cores())


@cache
def machine_rates() -> MachineRates:
    """Rates of this machine, measured once in a process, so that runs side by side have the same floors."""
    return measure_rates()


def _copy(size: int) -> Callable[[], object]:
    source, target = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint8)
    source[:], target[:] = 1, 2  # pages that were only promised are no memory yet
    cores = num_cores()
    parts = [slice(size * core // cores, size * (core + 1) // cores) for core in range(cores)]
    pool = ThreadPoolExecutor(cores)

    def part(which: slice) -> None:
        np.copyto(target[which], source[which])

    return lambda: list(pool.map(part, parts))


def _product(size: int) -> Callable[[], object]:
    from onnx import TensorProto, helper, numpy_helper

    from copilot4d_core.deploy.onnx_builder import IR_VERSION, OPSET

    # The second factor is a constant, as the weights of a network are, so ONNX Runtime lays it out beforehand.
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32), "weight")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (size, size)) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "product", ends[:1], ends[1:], [weight])
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = open_session(network.SerializeToString())
    x = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)
    return lambda: session.run(["y"], {"x": x})


def _best_s(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return min(times)
