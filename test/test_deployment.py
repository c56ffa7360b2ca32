# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every preset through the whole path that a robot takes, on a real TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_kinds import KINDS, tiny_with

from copilot4d_core.cli import main
from copilot4d_core.deploy.export import export
from copilot4d_core.deploy.manifest import read_manifest
from copilot4d_core.deploy.open_tensorrt import build_engines
from copilot4d_core.model_file import random_model

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64: pip install tensorrt-rtx-cu13")
ROOT = Path(__file__).resolve().parent.parent
LARGEST_PEAK_BYTES = 2.5e9
"""Of a process that encodes and decodes one scan at paper size; the dense feature grid and voxel volume alone would add 5.4 GB."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A home of our own for the secret that seals engines."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    yield
    patch.undo()


@pytest.mark.parametrize(("name", "precision"), [("tiny", "fp32"), ("mini", "fp32"), ("mini", "fp16"), ("paper", "fp16")])
def test_export_parses_and_builds(name: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / name
    which = [] if name == "mini" else ["--preset", name]
    assert main(["export", *which, "--precision", precision, "--out", str(out)]) == 0
    assert "of torch's tokens" in capsys.readouterr().out
    lines = build_engines(out, None, "tensorrt_rtx", precision, 1024)
    assert [line.split()[0] for line in lines] == [f"{out / 'engines' / part}.engine:" for part in ("encoder", "decoder")]
    for part in ("encoder", "decoder"):
        sidecar = json.loads((out / "engines" / f"{part}.engine.json").read_text())
        assert sidecar["key"]["onnx_sha256"] == read_manifest(out).file_sha256[f"{part}.onnx"]
        assert (sidecar["key"]["library"], sidecar["key"]["precision"]) == ("tensorrt_rtx", precision)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "engines").glob("*.engine")}
    assert main(["build-engine", "--onnx", str(out), "--precision", precision]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "engines").glob("*.engine")} == before, "the same key builds nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_quantiser_builds(kind: str, tmp_path: Path) -> None:
    out = tmp_path / kind
    export(random_model(tiny_with(kind)), out, "fp16")
    assert len(build_engines(out, None, "tensorrt_rtx", "fp16", 1024)) == 2


def test_build_engine_refuses_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tiny"
    assert main(["export", "--preset", "tiny", "--out", str(out)]) == 0
    capsys.readouterr()
    for arguments, text in ((["--precision", "fp16"], "--precision: expected fp32"), (["--library", "cudnn"], "expected one of auto, tensorrt"),
                            (["--workspace-mib", "0"], "--workspace-mib: expected at least 1, got 0")):
        assert main(["build-engine", "--onnx", str(out), *arguments]) == 2
        assert text in capsys.readouterr().err
    assert main(["build-engine", "--onnx", str(tmp_path / "nothing")]) == 2
    assert "expected a folder of `copilot4d export`" in capsys.readouterr().err


def test_paper_size_encodes_and_decodes_in_bounded_memory() -> None:
    """Random weights, a simulated scan, 65,536 rays, in a process of its own whose peak memory is read at its end."""
    # VmHWM, not getrusage: the latter starts with what the parent process had.
    code = ("import re, numpy as np\n"
            "from copilot4d_core.config import preset\nfrom copilot4d_core.model_file import random_model\n"
            "from copilot4d_core.deploy.exported_model import export_model\nfrom copilot4d_core.deploy.onnx_runner import OnnxRunner\n"
            "from copilot4d_core.data.simulator import simulate_drive\nfrom copilot4d_core.data.sensors import SphericalPattern\n"
            "scan = next(iter(simulate_drive(3, 1, 'hdl64')))\nrays = SphericalPattern(64, 1024).rays(np.zeros(3, np.float32))\n"
            "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024\n"
            "with OnnxRunner(export_model(random_model(preset('paper')))) as runner:\n"
            "    tokens = runner.encode(scan.points_m)\n    encoded = peak()\n    runner.decode(tokens, rays)\n"
            "    print(encoded, peak(), *runner.stage_ms.values())\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    encoded, decoded, *stages = map(float, done.stdout.split())
    print(f"\npeak memory: {encoded / 1e9:.2f} GB after encode, {decoded / 1e9:.2f} GB after decode; ms {[round(stage) for stage in stages]}")
    assert 0 < encoded <= decoded <= LARGEST_PEAK_BYTES
