# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The fast runner of machines without a GPU: everything in our own kernels. Needs no torch and no ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

from copilot4d_core.deploy.cpu_runner import CpuRunner
from copilot4d_core.deploy.kernel_networks import DecoderKernels, EncoderKernels, obstacle
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.grid import FloatArray
from copilot4d_core.model_file import Model, read_model


class KernelRunner(CpuRunner):
    """Runs the dense networks of `kernel_networks.py`; see `Runner` for the contract."""

    def __init__(self, model: Model) -> None:
        """Pack the weights.

        Raises:
            ValueError: a model that the kernels do not fit.
        """
        if reason := obstacle(model):
            raise ValueError(f"runner kernels: {reason}")
        super().__init__(model.config, model.model_id, kernel_weights(model.tensors), "kernels")
        self._encoder, self._decoder = EncoderKernels(model), DecoderKernels(model)

    def _tokens(self, patches_HWC: FloatArray) -> TokenArray:
        return self._encoder(patches_HWC)

    def _decoded(self, tokens: TokenArray) -> tuple[FloatArray, FloatArray]:
        return self._decoder(tokens)


def kernel_runner(weights: Path) -> KernelRunner:
    """Runner of a weights file.

    Raises:
        ValueError: see `read_model` and `KernelRunner`.
    """
    return KernelRunner(read_model(weights))
