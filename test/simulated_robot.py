# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`python simulated_robot.py` runs the real node on a simulated GPU: its engines hold ONNX, its kernels run on the CPU.

What is real: the node, the export folder, the engine files with their sidecars, the TensorRT runner. What is not: the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulated_device import SimulatedDevice
from simulated_tensorrt import simulated_engine

from copilot4d_core.deploy import engine_builder, engine_file, open_tensorrt
from copilot4d_core.deploy.engine_builder import BuildReport
from copilot4d_core.deploy.engine_file import EngineKey
from copilot4d_core.deploy.gpu_session import Gpu
from copilot4d_core.deploy.tensorrt_library import Library


class SimulatedRobot:
    """A machine with a simulated GPU, whose TensorRT makes simulated engines; counts its builds."""

    def __init__(self, patch: Any) -> None:
        """Take the place of what would look for a GPU; `patch(module, name, value)` sets an attribute."""
        self.device, self.builds, self.version, self.gpu_name = SimulatedDevice(), 0, "10.3.0", "Orin"
        gpu = Gpu(self.device.cuda, self.device.trt, "cpu", self.device.kernel_scope)
        patch(open_tensorrt, "load_gpu", lambda library="auto": gpu)
        patch(open_tensorrt, "load_tensorrt", lambda name: Library(self.device.trt, "tensorrt", self.version))
        patch(open_tensorrt, "identity", lambda cuda: engine_file.GpuIdentity(self.gpu_name, (8, 7), "12.6"))
        patch(engine_builder, "build_engine", self._build)

    def _build(self, onnx_path: Path, network: Any, engine_path: Path, key: EngineKey, library: Library, **rest: Any) -> BuildReport:
        self.builds += 1
        engine_file.write_engine(engine_path, simulated_engine(onnx_path.read_bytes()), key)
        return BuildReport(0.0, 1, 1, engine_path.stat().st_size, ())


if __name__ == "__main__":
    import sys

    from copilot4d_ros.tokenizer_node import main

    robot = SimulatedRobot(setattr)
    try:
        main()
    finally:
        robot.device.check()
        print(f"simulated GPU: clean, {robot.builds} engines built", file=sys.stderr)
