# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A static ONNX graph, node by node: names, constants, and the few operators that a Swin transformer needs.

What goes in: NumPy arrays. What comes out: an `onnx.ModelProto`, the same bytes for the same arrays.
Unusual: shapes are known while the graph is built, so it has no shape arithmetic; matrices are stored as (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from copilot4d_core.deploy.manifest import Network, TensorSpec

OPSET = 20
IR_VERSION = 9
"""Of opset 20; TensorRT 10.3 and ONNX Runtime 1.17 read it."""
LAYER_NORM_EPS = 1e-5
TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.float16): TensorProto.FLOAT16, np.dtype(np.int32): TensorProto.INT32}
Array = npt.NDArray[Any]


class OnnxBuilder:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        """Start empty; `tensors` are the model's, by name, linear layers as (out, in)."""
        self.tensors = tensors
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def node(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Any operator with one result, which gets the node's name."""
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: Array) -> str:
        """A constant; floating-point ones in the precision that is set."""
        array = np.asarray(array)
        array = np.ascontiguousarray(array.astype(self.dtype) if array.dtype.kind == "f" else array)
        self._constants[name] = numpy_helper.from_array(array.reshape(array.shape), name)
        return name

    def cast(self, name: str, value: str, dtype: npt.DTypeLike) -> str:
        """Change the type of a value, and the precision of what follows if it is a floating-point one."""
        kind = np.dtype(dtype)
        self.dtype = kind if kind.kind == "f" else self.dtype
        return self.node("Cast", name, [value], to=TYPES[kind])

    def linear(self, name: str, value: str, weight_IO: Array, bias_O: Array) -> str:
        """Matrix product and bias."""
        product = self.node("MatMul", f"{name}/product", [value, self.constant(f"{name}/weight", weight_IO)])
        return self.node("Add", name, [product, self.constant(f"{name}/bias", bias_O)])

    def layer_norm(self, name: str, value: str) -> str:
        """The model's layer norm of that name over the last axis, as one node."""
        scale, shift = (self.constant(f"{name}.{part}", self.tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.node("LayerNormalization", name, [value, scale, shift], axis=-1, epsilon=LAYER_NORM_EPS)

    def reshape(self, name: str, value: str, shape: Sequence[int]) -> str:
        """The same numbers in another shape."""
        return self.node("Reshape", name, [value, self.constant(f"{name}/shape", np.array(shape, dtype=np.int64))])

    def rows(self, name: str, value: str, order: npt.NDArray[np.integer[Any]]) -> str:
        """Rows of a value in another order; the value itself where the order is the one that it has."""
        if np.array_equal(order, np.arange(len(order))):
            return value
        return self.node("Gather", name, [value, self.constant(f"{name}/order", order.astype(np.int32))], axis=0)

    def model(self, name: str, network: Network, producer_version: str) -> ModelProto:
        """The finished graph with this boundary."""
        def value_info(spec: TensorSpec) -> Any:
            return helper.make_tensor_value_info(spec.name, TYPES[np.dtype(spec.dtype)], spec.shape)

        graph = helper.make_graph(self._nodes, name, [value_info(spec) for spec in network.inputs], [value_info(spec) for spec in network.outputs],
                                  list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="copilot4d",
                                 producer_version=producer_version)
