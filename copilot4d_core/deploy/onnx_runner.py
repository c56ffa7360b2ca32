# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The runner of machines without a GPU: dense nets in ONNX Runtime, sparse stages in the kernels. Needs no torch."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from copilot4d_core.deploy.cpu_runner import CpuRunner
from copilot4d_core.deploy.exported_model import ExportedModel
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import FloatArray
from copilot4d_core.kernels.launch import num_cores

INT8_STAGE = "encoder.stage2"
INT8_LAYERS = ("query/product", "key/product")
"""What INT8 runs in eight bits: linear layers behind a layer norm and before a softmax. Of 23 real scans (`mini`) 99.9 % of the tokens stay, and 99 %
of the depths on agreeing rays move by less than 12 mm. With the values, too, which nothing dampens, 99.8 % and 28 mm. The decoder stays in float32,
because its errors move depths."""


class OnnxRunner(CpuRunner):
    """Runs the exported networks on the CPU; see `Runner` for the contract."""

    def __init__(self, model: ExportedModel, int8: bool = False) -> None:
        """Load the networks.

        Args:
            int8: `INT8_LAYERS` with eight-bit weights and activations that are scaled scan by scan.
        """
        super().__init__(model.config, model.model_id, model.kernels, "onnx int8" if int8 else "onnx")
        self._encoder, self._decoder = open_session(quantized(model.encoder) if int8 else model.encoder), open_session(model.decoder)

    def _tokens(self, patches_HWC: FloatArray) -> TokenArray:
        (tokens,) = self._encoder.run(["tokens"], {"patches": patches_HWC})
        return np.asarray(tokens, dtype=np.uint16)

    def _decoded(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        features, skip = self._decoder.run(["features", "skip_logits"], {"tokens": tokens.astype(np.int32)})
        return features, skip


def open_session(network: bytes) -> Any:
    """ONNX Runtime session on all cores of the CPU.

    Raises:
        ValueError: ONNX Runtime is not installed, or is too old for the network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"runner onnx: expected ONNX Runtime, got: {error}; `pip install onnxruntime`") from error
    _share_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Idle threads of one network would spin on the cores that the other network and the kernels need: a fifth of a frame on two cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but Exception
        reason = " ".join(str(error).split())
        raise ValueError(f"runner onnx: ONNX Runtime {onnxruntime.__version__} refuses the network: {reason}; the export may be of a newer version "
                         "of copilot4d: update ONNX Runtime, or export the weights again") from error


@cache
def _share_memory() -> None:
    """One pool of memory for all networks of the process, which run one after the other; grown by what is asked for.

    At paper size a pool for each, doubled when it is full, takes 4.1 GB, this one 2.4 GB, at the same speed.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    place = onnxruntime.OrtMemoryInfo("Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1}))


def quantized(network: bytes) -> bytes:
    """The encoder with `INT8_LAYERS` in eight bits, scaled per output channel.

    Weights are unsigned: with signed ones the sums of a CPU without eight-bit dot products (AVX2 without VNNI) saturate at 16 bits,
    and 96.4 % of the tokens stay there (nine real scans). Symmetric, because a zero of its own for each channel moves depths more.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load_from_string(network)
    kept = [node.name for node in graph.graph.node
            if node.op_type == "MatMul" and not (node.name.startswith(INT8_STAGE) and node.name.endswith(INT8_LAYERS))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        quantize_dynamic(graph, path, op_types_to_quantize=["MatMul"], nodes_to_exclude=kept, per_channel=True, weight_type=QuantType.QUInt8,
                         extra_options={"WeightSymmetric": True})
        return path.read_bytes()
