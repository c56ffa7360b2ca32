# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""CUDA binaries of the kernels, compiled ahead of time on a machine that needs no GPU.

In: kernels, and the compute capabilities of the robots' GPUs. Out: a folder of cubins with an index, and its loading on a GPU.
Unusual: a cubin is native code and fits one capability only, so it is loaded only when its SHA-256, Warp's version and the hash of
the kernel's source are those of the index. Robots that run CUDA 12 need a Warp that was built with it: `driver_obstacle` tells.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import warp as wp

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.kernels.launch import num_cores

INDEX = "kernels.json"
SCHEMA_VERSION = 1
LEAST_DRIVER = {12: 525, 13: 580}
"""NVIDIA driver that a Warp built with this CUDA needs. Source: Warp's documentation, "CUDA Requirements"."""


class BuiltKernel(NamedTuple):
    """One Warp module for one compute capability; a module holds the kernels that were written together."""

    module: str
    """Warp's name of the module."""
    module_hash: str
    """Of its source and settings."""
    names: tuple[str, ...]
    """Its kernels."""
    arch: int
    """Compute capability times ten."""
    file: str
    sha256: str
    meta_file: str
    """What Warp wants to know of the file."""
    meta_sha256: str

    def __str__(self) -> str:
        return f"sm_{self.arch} {self.file}: {', '.join(self.names)}"


def modules_of(kernels: Iterable[wp.Kernel]) -> list[Any]:
    """The Warp modules of these kernels, in their order."""
    return list(dict.fromkeys(kernel.module for kernel in kernels))


def build_kernels(kernels: Sequence[wp.Kernel], archs: Sequence[int], out: Path, tell: Callable[[str], None] | None = None) -> list[BuiltKernel]:
    """Compile every module for every capability; replaces what an earlier build left in the folder.

    Source: Warp's ahead-of-time workflow, which needs neither driver nor GPU since Warp 1.12.

    Args:
        kernels: from the files of `kernels/`.
        archs: compute capabilities times ten, such as 87 for Orin.
        out: folder, made where it is missing; the index appears last.
        tell: takes a line for each file once it is compiled.
    Raises:
        ValueError: a capability that this Warp cannot compile for, or its compiler failed.
    """
    wanted = _checked_archs(archs)
    modules = modules_of(kernels)
    if not modules:
        raise ValueError("kernels: expected at least one, got none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def compile_one(module: Any) -> list[BuiltKernel]:
            built = _compile(module, wanted, folder)
            for kernel in built if tell is not None else []:
                tell(str(kernel))
            return built

        # The compiler runs without the interpreter lock, one module a thread.
        with ThreadPoolExecutor(num_cores()) as pool:
            built = [kernel for of_module in pool.map(compile_one, modules) for kernel in of_module]
        _write(built, folder, out)
    return built


def _checked_archs(archs: Sequence[int]) -> list[int]:
    supported = wp.get_cuda_supported_archs()
    if not supported:
        raise ValueError(f"Warp {wp.config.version} was built without CUDA here; compile the kernels on Linux")
    unknown = sorted(set(archs) - set(supported))
    if unknown or not archs:
        raise ValueError(f"architectures: expected some of {', '.join(map(str, supported))}, which Warp {wp.config.version} (CUDA {_cuda()}) "
                         f"can compile for, got {', '.join(map(str, unknown)) or 'none'}")
    return sorted(set(archs))


def _cuda() -> str:
    return ".".join(map(str, wp.get_cuda_toolkit_version() or ("?",)))


def _compile(module: Any, archs: list[int], folder: Path) -> list[BuiltKernel]:
    try:
        wp.compile_aot_module(module, arch=archs, module_dir=folder, use_ptx=False)
    except Exception as error:  # Warp raises nothing narrower
        raise ValueError(f"Warp {wp.config.version} could not compile {module.name} for {', '.join(map(str, archs))}: {error}; "
                         "what its compiler said stands above") from error
    identifier, meta = module.get_module_identifier(), f"{module.get_module_identifier()}.meta"
    files = {arch: f"{identifier}.sm{arch}.cubin" for arch in archs}
    missing = [file for file in (*files.values(), meta) if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"expected Warp to write {', '.join(missing)}, got files of other names; Warp {wp.config.version} is not known here")
    return [BuiltKernel(module.name, module.get_module_hash().hex(), tuple(module.kernels), arch, file, _digest(folder / file),
                        meta, _digest(folder / meta)) for arch, file in files.items()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(built: list[BuiltKernel], folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    before = _files(read_index(out)[1]) if (out / INDEX).exists() else set()
    for name in sorted(_files(built)):
        with replacing_file(out / name) as file:
            file.write((folder / name).read_bytes())
    index = {"schema_version": SCHEMA_VERSION, "warp": wp.config.version, "cuda": _cuda(), "kernels": [kernel._asdict() for kernel in built]}
    with replacing_file(out / INDEX) as file:
        file.write(json.dumps(index, indent=1).encode())
    for name in before - _files(built):
        (out / name).unlink(missing_ok=True)


def _files(built: Iterable[BuiltKernel]) -> set[str]:
    return {name for kernel in built for name in (kernel.file, kernel.meta_file)}


def read_index(folder: Path) -> tuple[str, list[BuiltKernel]]:
    """Warp's version and the files of a build.

    Raises:
        ValueError: no such folder, or its index is not one.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
        if index["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"version {index['schema_version']} of it")
        built = [BuiltKernel(**entry | {"names": tuple(entry["names"])}) for entry in index["kernels"]]
        outside = [name for name in _files(built) if Path(name).name != name]
        if outside:
            raise ValueError(f"the file name {outside[0]!r}")
        return str(index["warp"]), built
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: expected {INDEX}, as `copilot4d build-kernels` writes it, found none") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the index of `copilot4d build-kernels`, got {error}; build the kernels again") from error


def check_kernels(kernels: Sequence[wp.Kernel], folder: Path, arch: int) -> list[Any]:
    """The modules of these kernels, after a look at every byte that would be loaded.

    Args:
        arch: compute capability of the GPU times ten.
    Raises:
        ValueError: the folder is of another Warp, another source or other GPUs, or a file of it was changed.
    """
    version, built = read_index(folder)
    if version != wp.config.version:
        raise ValueError(f"{folder}: expected kernels of Warp {wp.config.version}, which is installed, got those of Warp {version}; {_again(arch)}")
    modules = modules_of(kernels)
    for module in modules:
        same = [kernel for kernel in built if (kernel.module, kernel.module_hash) == (module.name, module.get_module_hash().hex())]
        if not same:
            raise ValueError(f"{folder}: expected {module.name} as it is in this copilot4d, for this model, got kernels of another; {_again(arch)}")
        fitting = [kernel for kernel in same if kernel.arch == arch]
        if not fitting:
            raise ValueError(f"{folder}: expected kernels for sm_{arch}, got sm_{', sm_'.join(str(kernel.arch) for kernel in same)}; {_again(arch)}")
        _check_file(folder / fitting[0].file, fitting[0].sha256, arch)
        _check_file(folder / fitting[0].meta_file, fitting[0].meta_sha256, arch)
    return modules


def _check_file(path: Path, sha256: str, arch: int) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: expected the file that was built, found none; {_again(arch)}")
    if _digest(path) != sha256:
        raise ValueError(f"{path}: expected the file that was built, got another or a damaged one; {_again(arch)}")


def _again(arch: int) -> str:
    return f"`copilot4d build-kernels --arch {arch}` makes them"


def load_kernels(kernels: Sequence[wp.Kernel], folder: Path, device: str) -> None:
    """Load the binaries for a GPU, so that no launch of these kernels compiles.

    Args:
        kernels: those that will be launched.
        folder: of `build_kernels`.
        device: Warp device name, such as `cuda:0`.
    Raises:
        ValueError: no such GPU, a driver that is too old, or binaries that do not fit; the message says which.
    """
    obstacle = driver_obstacle()
    if obstacle:
        raise ValueError(f"device {device}: {obstacle}")
    target = wp.get_device(device)
    if not target.is_cuda:
        raise ValueError(f"device: expected a CUDA device for kernels that were compiled ahead of time, got {device}")
    for module in check_kernels(kernels, folder, target.arch):
        try:
            wp.load_aot_module(module, device=target, arch=target.arch, module_dir=folder, use_ptx=False)
        except Exception as error:  # Warp raises nothing narrower
            raise ValueError(f"{folder}: {device} ({target.name}) refused {module.name}: {error}") from error


def driver_obstacle() -> str:
    """Why this Warp cannot use this machine's NVIDIA driver; empty if it can."""
    return driver_mismatch(wp.get_cuda_toolkit_version(), wp.get_cuda_driver_version())


def driver_mismatch(toolkit: tuple[int, int] | None, driver: tuple[int, int] | None) -> str:
    """Why a Warp cannot use a driver; empty if it can.

    Args:
        toolkit: CUDA version that Warp was built with; None: without CUDA.
        driver: newest CUDA version that the driver supports; None: no driver.
    """
    if toolkit is None:
        return f"Warp {wp.config.version} was built without CUDA"
    number = f" {LEAST_DRIVER[toolkit[0]]}" if toolkit[0] in LEAST_DRIVER else ""
    needed = f"Warp {wp.config.version} (CUDA {toolkit[0]}.{toolkit[1]}) needs an NVIDIA driver{number} (CUDA {toolkit[0]}.0) or newer"
    if driver is None:
        return f"{needed}, and none works here"
    if driver < (toolkit[0], 0):
        return f"{needed}, this machine's is for CUDA {driver[0]}.{driver[1]}; update it, or on JetPack 6 `pip install 'warp-lang>=1.14,<1.18'`"
    return ""
