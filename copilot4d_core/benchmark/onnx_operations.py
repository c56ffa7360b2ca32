# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The operations of an ONNX network, counted node by node, and the bytes that must cross its boundary.

What goes in: a static graph. What comes out: operations by kind of node, bytes of weights, inputs and outputs.
Unusual: a node of a kind that is not listed is refused, because an operation that nobody counted would lower a floor in silence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
PER_OUTPUT = {"Abs": 1, "Greater": 1, "Add": 1, "Sub": 1, "Mul": 1, "Div": 1, "Max": 1, "Min": 1, "Neg": 1, "Round": 1, "Floor": 1, "Clip": 2,
              "Sqrt": 1, "Tanh": 8, "Gelu": 8, "Softmax": 5, "LayerNormalization": 8}
"""Operations for each number of the result. Softmax: largest, difference, exponential, sum, quotient. Layer norm: sum, difference, square,
sum, product with the inverse root, scale, shift, and one for the root's share. Gelu and tanh: a polynomial of about eight steps."""
PER_INPUT = {"ArgMax": 1, "MaxPool": 1, "ReduceMax": 1, "ReduceSum": 1, "ReduceMean": 1}
"""Operations for each number of the first input."""
FREE = {"Gather", "Transpose", "Reshape", "Cast", "Concat", "Slice", "Split", "Squeeze", "Unsqueeze", "Identity"}
"""They only move numbers."""
PRODUCTS = {"MatMul", "Gemm"}


class NetworkWork(NamedTuple):
    """What a network must do at least."""

    operations: dict[str, int]
    """By kind of node."""
    weight_bytes: int
    """Constants that are read."""
    boundary_bytes: int
    """Inputs and outputs of the network."""

    @property
    def total(self) -> int:
        """Operations of all nodes."""
        return sum(self.operations.values())

    @property
    def products(self) -> int:
        """Operations of the matrix products."""
        return sum(count for kind, count in self.operations.items() if kind in PRODUCTS)


def network_work(network: bytes) -> NetworkWork:
    """Count a network.

    Raises:
        ValueError: a node whose operations are not known, or a shape that is not fixed.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(network), strict_mode=True).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = {**{info.name: _shape(info) for info in [*graph.input, *graph.output, *graph.value_info]}, **constants}
    operations: Counter[str] = Counter()
    for node in graph.node:
        operations[node.op_type] += node_operations(node, shapes)
    sizes = {tensor.name: len(tensor.raw_data) for tensor in graph.initializer}
    boundary = sum(math.prod(shapes[info.name]) * _item_bytes(info) for info in [*graph.input, *graph.output])
    return NetworkWork({kind: count for kind, count in operations.items() if count}, sum(sizes.values()), boundary)


def node_operations(node: Any, shapes: Shapes) -> int:
    """Operations of one node: a product of (m, k) and (k, n) has 2 m k n; others as the tables above say.

    Raises:
        ValueError: a kind of node that no table lists.
    """
    kind, out = node.op_type, shapes[node.output[0]]
    if kind in FREE:
        return 0
    if kind in PRODUCTS:
        inner = shapes[node.input[0]][-1]
        return 2 * math.prod(out) * inner
    if kind in PER_OUTPUT:
        # The largest of several values takes a comparison less than it has inputs.
        return PER_OUTPUT[kind] * math.prod(out) * (max(1, len(node.input) - 1) if kind in ("Max", "Min") else 1)
    if kind in PER_INPUT:
        return PER_INPUT[kind] * math.prod(shapes[node.input[0]])
    raise ValueError(f"network: expected nodes of the kinds {', '.join(sorted({*PER_OUTPUT, *PER_INPUT, *FREE, *PRODUCTS}))}, got {kind}; add it to "
                     "onnx_operations.py")


def _shape(info: Any) -> tuple[int, ...]:
    dims = info.type.tensor_type.shape.dim
    if any(not dim.HasField("dim_value") for dim in dims):
        raise ValueError(f"network: expected a fixed shape of {info.name}")
    return tuple(dim.dim_value for dim in dims)


def _item_bytes(info: Any) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type).itemsize)
