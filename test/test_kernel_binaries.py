# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled ahead of time: real cubins for the robots' GPUs, and nothing is loaded that is not what was built."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import warp as wp

from copilot4d_core.config import preset
from copilot4d_core.deploy.kernel_weights import inference_kernels
from copilot4d_core.kernels import binaries
from copilot4d_core.kernels.binaries import BuiltKernel, build_kernels, check_kernels, driver_mismatch, load_kernels

ARCHS = [75, 87, 89, 90, 110, 120]
"""Turing, Orin, Ada, Hopper, Thor, Blackwell."""
EM_CUDA = 190
"""ELF machine of NVIDIA CUDA. Source: the ELF registry, as in LLVM's BinaryFormat/ELF.h."""


@wp.kernel
def add_kernel(values: wp.array(dtype=wp.float32), other: float):  # type: ignore[valid-type]
    i = wp.tid()
    values[i] = values[i] + other


@wp.kernel
def half_kernel(values: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
    i = wp.tid()
    values[i] = 0.5 * values[i]


def scale_kernel(factor: int) -> wp.Kernel:
    @wp.kernel(module="unique")
    def scale(values: wp.array(dtype=wp.float32)):  # type: ignore[valid-type]
        i = wp.tid()
        values[i] = values[i] * float(wp.static(factor))

    return scale


KERNELS = [add_kernel, half_kernel, scale_kernel(3)]


class Cubin:
    """What a cubin says of itself, read by the ELF specification (64 bit, little endian)."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        assert data[:6] == b"\x7fELF\x02\x01"
        self.machine = struct.unpack_from("<H", data, 18)[0]
        flags = struct.unpack_from("<I", data, 48)[0]
        # The SM number moved from the lowest byte to the next one with version 8 of CUDA's ABI (CUDA 13).
        self.sm = (flags >> 8 if data[8] >= 8 else flags) & 0xFF
        begin, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, begin + i * size) for i in range(count)]
        self.functions: set[str] = set()
        for section in sections:
            if section[1] == 2:  # symbol table; its names lie in the section that it links to
                names = sections[section[6]][4]
                for offset in range(section[4], section[4] + section[5], 24):
                    name, info = struct.unpack_from("<IB", data, offset)
                    if info & 0xF == 2:
                        self.functions.add(data[names + name:data.index(b"\0", names + name)].decode())


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BuiltKernel], list[str]]:
    out = tmp_path_factory.mktemp("build") / "kernels"
    lines: list[str] = []
    return out, build_kernels(KERNELS, ARCHS, out, lines.append), lines


@pytest.fixture
def folder(built_once: tuple[Path, list[BuiltKernel], list[str]], tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(built_once[0], tmp_path / "kernels"))


def test_every_module_is_compiled_for_every_gpu(built_once: tuple[Path, list[BuiltKernel], list[str]]) -> None:
    out, built, lines = built_once
    assert sorted(kernel.arch for kernel in built) == sorted(ARCHS * 2)  # two modules: this file's, and that of `scale`
    assert sorted(map(str, built)) == sorted(lines)
    assert {path.name for path in out.iterdir()} == {"kernels.json"} | {kernel.file for kernel in built} | {kernel.meta_file for kernel in built}


def test_the_cubins_are_code_for_their_gpu_and_hold_their_kernels(built_once: tuple[Path, list[BuiltKernel], list[str]]) -> None:
    out, built, _ = built_once
    for kernel in built:
        cubin = Cubin(out / kernel.file)
        assert (cubin.machine, cubin.sm) == (EM_CUDA, kernel.arch)
        assert kernel.names
        for name in kernel.names:
            assert any(function.startswith(f"{name}_") and function.endswith("_cuda_kernel_forward") for function in cubin.functions), cubin.functions
    assert {name for kernel in built for name in kernel.names} == {kernel.key for kernel in KERNELS}


def test_all_kernels_of_inference_compile_for_the_oldest_and_the_newest_gpu(tmp_path: Path) -> None:
    """Orin and Thor are README's own command, which `test_readme.py` runs; a compiler that does these four does those in between."""
    archs = [ARCHS[0], ARCHS[-1]]
    kernels = inference_kernels(preset("tiny"))
    built = build_kernels(kernels, archs, tmp_path)
    assert {kernel.key for kernel in kernels} <= {name for kernel in built for name in kernel.names}
    assert {(kernel.arch, Cubin(tmp_path / kernel.file).sm) for kernel in built} == {(arch, arch) for arch in archs}
    for arch in archs:
        assert check_kernels(kernels, tmp_path, arch)
    with pytest.raises(ValueError, match="for this model, got kernels of another"):
        check_kernels(inference_kernels(preset("mini")), tmp_path, 75)


def test_a_second_build_takes_the_place_of_the_first(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    build_kernels([add_kernel], [87], folder)
    names = {path.name for path in folder.iterdir()}
    assert {name.rpartition(".")[2] for name in names} == {"json", "txt", "meta", "cubin"} and len(names) == 4
    check_kernels([add_kernel], folder, 87)
    with pytest.raises(ValueError, match="expected kernels for sm_75, got sm_87"):
        check_kernels([add_kernel], folder, 75)


def test_a_build_that_fails_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def broken(*arguments: object, **named: object) -> None:
        raise Exception("CUDA kernel build failed with error code 6")

    monkeypatch.setattr(wp, "compile_aot_module", broken)
    with pytest.raises(ValueError, match="could not compile .* for 87.*error code 6"):
        build_kernels(KERNELS, [87], folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("archs", [[42], [87, 42], []])
def test_an_unknown_gpu_is_refused_with_those_that_are_known(archs: list[int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected some of 75, .*\b87, .*\b120\b.*got (42|none)"):
        build_kernels(KERNELS, archs, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_changed_byte_is_noticed_in_every_file(folder: Path) -> None:
    check_kernels(KERNELS, folder, 87)
    files = [path for path in folder.iterdir() if ".sm87." in path.name or path.suffix == ".meta"]
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        for position in {*range(0, len(whole), 1024), len(whole) - 1}:
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1:])
            with pytest.raises(ValueError, match=f"{path.name}.*damaged"):
                check_kernels(KERNELS, folder, 87)
        path.write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=f"{path.name}.*damaged"):
            check_kernels(KERNELS, folder, 87)
        path.unlink()
        with pytest.raises(ValueError, match=f"{path.name}.*found none"):
            check_kernels(KERNELS, folder, 87)
        path.write_bytes(whole)


def test_kernels_of_another_warp_or_another_source_are_refused(folder: Path) -> None:
    index = json.loads((folder / "kernels.json").read_text())
    (folder / "kernels.json").write_text(json.dumps(index | {"warp": "1.14.0"}))
    with pytest.raises(ValueError, match=f"expected kernels of Warp {wp.config.version}.*got those of Warp 1.14.0.*build-kernels --arch 87"):
        check_kernels(KERNELS, folder, 87)
    (folder / "kernels.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected scale.* as it is in this copilot4d.*--arch 87"):
        check_kernels([scale_kernel(4)], folder, 87)


@pytest.mark.parametrize("content", [
    None, "", "{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "warp": "1", "kernels": [{"module": "x"}]}'])
def test_what_is_no_index_is_refused_by_name(folder: Path, content: str | None) -> None:
    (folder / "kernels.json").unlink()
    if content is not None:
        (folder / "kernels.json").write_text(content)
    with pytest.raises(ValueError, match=r"kernels\.json.*copilot4d build-kernels"):
        check_kernels(KERNELS, folder, 87)


def test_an_index_that_names_files_elsewhere_is_refused(folder: Path) -> None:
    index = json.loads((folder / "kernels.json").read_text())
    index["kernels"][0]["file"] = "../elsewhere.cubin"
    (folder / "kernels.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="elsewhere"):
        check_kernels(KERNELS, folder, 87)


def test_without_a_gpu_loading_says_what_is_missing(folder: Path) -> None:
    if wp.get_cuda_driver_version() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(ValueError, match="cuda:0: Warp .* needs an NVIDIA driver .*none works here"):
        load_kernels(KERNELS, folder, "cuda:0")


def test_the_cpu_is_no_place_for_cubins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "driver_obstacle", lambda: "")
    with pytest.raises(ValueError, match="expected a CUDA device .* got cpu"):
        load_kernels(KERNELS, folder, "cpu")


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GPU that Warp would name, and Warp's loader with its own signature."""
    device = SimpleNamespace(is_cuda=True, arch=87, name="Orin")
    monkeypatch.setattr(binaries, "driver_obstacle", lambda: "")
    monkeypatch.setattr(wp, "get_device", lambda name: device)
    loader = mock.create_autospec(wp.load_aot_module)
    monkeypatch.setattr(wp, "load_aot_module", loader)
    return SimpleNamespace(device=device, loader=loader)


def test_on_a_gpu_each_module_is_loaded_from_its_cubin(folder: Path, orin: Any) -> None:
    load_kernels(KERNELS, folder, "cuda:0")
    assert orin.loader.call_args_list == [
        mock.call(module, device=orin.device, arch=87, module_dir=folder, use_ptx=False) for module in (add_kernel.module, KERNELS[2].module)]


def test_a_damaged_folder_is_refused_before_warp_loads_anything(folder: Path, orin: Any) -> None:
    next(folder.glob("*scale*.sm87.cubin")).write_bytes(b"not code")
    with pytest.raises(ValueError, match="damaged"):
        load_kernels(KERNELS, folder, "cuda:0")
    orin.loader.assert_not_called()


def test_a_gpu_that_refuses_a_cubin_is_named(folder: Path, orin: Any) -> None:
    orin.loader.side_effect = Exception("Failed to load CUDA module")
    with pytest.raises(ValueError, match=r"cuda:0 \(Orin\) refused .*Failed to load CUDA module"):
        load_kernels(KERNELS, folder, "cuda:0")


@pytest.mark.parametrize(("toolkit", "driver", "expected"), [
    # Warp's documentation: CUDA 12.x needs driver 525 (CUDA 12.0), 13.x driver 580 (CUDA 13.0); a major version is compatible in itself.
    ((12, 9), (12, 6), ""),
    ((12, 9), (13, 0), ""),
    ((13, 4), (13, 0), ""),
    ((13, 4), (12, 6), "driver 580 .*this machine's is for CUDA 12.6.*JetPack 6"),
    ((12, 9), (11, 8), "driver 525 .*CUDA 11.8"),
    ((13, 4), None, "driver 580 .*none works here"),
    (None, None, "built without CUDA"),
])
def test_the_driver_that_a_warp_needs(toolkit: tuple[int, int] | None, driver: tuple[int, int] | None, expected: str) -> None:
    said = driver_mismatch(toolkit, driver)
    if expected:
        assert re.search(expected, said)
    else:
        assert said == ""
