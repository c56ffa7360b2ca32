# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""From an export folder to a running TensorRT runner: finds the GPU, keeps the engines fresh, opens them.

What goes in: a folder of `copilot4d export`. What comes out: engines beside it, or a runner.
Unusual: an engine is built where it runs. One with the same key is used as it is, another is replaced, a damaged or foreign
one is refused before TensorRT sees it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from copilot4d_core.config import Config
from copilot4d_core.deploy.engine_builder import engine_key, ensure_engine
from copilot4d_core.deploy.engine_file import GpuIdentity
from copilot4d_core.deploy.exported_model import read_export
from copilot4d_core.deploy.gpu_session import Gpu, warp_on_stream
from copilot4d_core.deploy.kernel_weights import inference_kernels
from copilot4d_core.deploy.manifest import networks, read_manifest
from copilot4d_core.deploy.tensorrt_library import Library, load_tensorrt
from copilot4d_core.deploy.tensorrt_runner import TensorrtRunner
from copilot4d_core.kernels.binaries import driver_obstacle, load_kernels

WARP_DEVICE = "cuda:0"
WORKSPACE_MIB = 1024
CUBINS = "kernels"
DRIVER_SIGNS = (Path("/proc/driver/nvidia/version"), Path("/dev/nvmap"))
"""One of them is there where NVIDIA's driver is: the second on a Jetson."""


def load_cuda() -> Any:
    """pycuda's driver module, with the driver initialised and a device present.

    Raises:
        ValueError: pycuda is missing or broken, or finds no GPU.
    """
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        raise ValueError("no NVIDIA driver is seen here" if not any(sign.exists() for sign in DRIVER_SIGNS) else
                         f"pycuda cannot be imported ({error}); `pip install pycuda`") from error
    try:
        cuda.init()
        devices = cuda.Device.count()
    except cuda.Error as error:
        raise ValueError(f"the CUDA driver does not work: {error}") from error
    if not devices:
        raise ValueError("the CUDA driver finds no GPU")
    return cuda


def load_gpu(library: str = "auto") -> Gpu:
    """Everything that the runner needs of this machine.

    Raises:
        ValueError: one of the parts is missing; the message says which, and what to install.
    """
    import warp as wp

    cuda = load_cuda()
    if not wp.is_cuda_available():
        raise ValueError(driver_obstacle() or f"Warp {wp.__version__} finds no CUDA device")
    return Gpu(cuda, load_tensorrt(library).module, WARP_DEVICE, partial(warp_on_stream, WARP_DEVICE))


def obstacle(model: Path) -> str:
    """Why TensorRT cannot run a model here; empty if it can."""
    try:
        load_gpu()
    except ValueError as error:
        return str(error)
    if not model.is_dir():
        return f"TensorRT needs a folder of `copilot4d export`, and {model} is a weights file; export it and name the folder"
    return ""


def identity(cuda: Any) -> GpuIdentity:
    """The GPU as far as an engine depends on it."""
    device, version = cuda.Device(0), cuda.get_driver_version()
    return GpuIdentity(device.name(), device.compute_capability(), f"{version // 1000}.{version % 1000 // 10}")


def build_engines(folder: Path, out: Path | None, library: str, precision: str | None, workspace_mib: int) -> list[str]:
    """`copilot4d build-engine`: engines of both networks, built or found with the same key.

    Returns:
        One line for each.
    Raises:
        ValueError: no export, another precision than asked for, no TensorRT, no GPU for it, or a build that failed.
    """
    manifest = read_manifest(folder)
    if precision is not None and precision != manifest.precision:
        raise ValueError(f"--precision: expected {manifest.precision}, which {folder} was exported with, got {precision}; precision lives in the "
                         f"ONNX files: `copilot4d export --precision {precision}` first")
    found = load_tensorrt(library)
    try:
        gpu = identity(load_cuda())
    except ValueError as error:
        if found.name == "tensorrt":
            raise ValueError(f"{found.name} builds an engine on the GPU that runs it, and {error}") from error
        gpu = None
    engines = out or folder / "engines"
    lines = []
    for name in manifest.networks:
        start_s = time.monotonic()
        data = _engine(name, manifest.config, manifest.precision, folder, engines, found, gpu, workspace_mib)
        lines.append(f"{engines / name}.engine: {len(data) / 1e6:.1f} MB, {found.name} {found.version}, {time.monotonic() - start_s:.1f} s")
    return lines


def _engine(name: str, config: Config, precision: str, folder: Path, out: Path, library: Library, gpu: GpuIdentity | None,
            workspace_mib: int) -> bytes:
    """The engine of one network, built where there is none of its key."""
    out.mkdir(parents=True, exist_ok=True)
    onnx_path, network = folder / f"{name}.onnx", networks(config)[name]
    key = engine_key(onnx_path, network, library, gpu, precision)
    return ensure_engine(onnx_path, network, out / f"{name}.engine", key, library, workspace_mib=workspace_mib)


def open_tensorrt(folder: Path, engines: Path | None, tell: Callable[[str], None] | None = None) -> TensorrtRunner:
    """Runner of an export folder; builds what is missing or of another machine, which takes minutes.

    Kernels come from `kernels` in the folder if `copilot4d build-kernels` wrote it; else Warp compiles them at the first start.

    Raises:
        ValueError: no export, an engine or a kernel file that is refused, or a build that failed.
        GpuError: the device or TensorRT failed.
    """
    model, gpu = read_export(folder), load_gpu()
    if (folder / CUBINS).is_dir():
        load_kernels(inference_kernels(model.config), folder / CUBINS, gpu.warp_device)
    library = load_tensorrt("auto")
    if tell is not None:
        tell(f"engines of {folder}: building those that are missing or were built for another GPU, driver or TensorRT; this takes minutes once")
    data = {name: _engine(name, model.config, model.precision, folder, engines or folder / "engines", library, identity(gpu.cuda), WORKSPACE_MIB)
            for name in networks(model.config)}
    return TensorrtRunner(model.config, model.model_id, model.kernels, data, gpu)

