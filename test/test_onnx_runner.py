# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The ONNX Runtime runner: the contract, torch's results, and no torch in its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.exported_model import export_model, open_model
from copilot4d_core.deploy.onnx_runner import OnnxRunner, open_session
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.torch_runner import torch_runner
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import read_model

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def runner() -> OnnxRunner:
    return OnnxRunner(open_model(PACKAGED_WEIGHTS))


def scan_and_rays(seed: int = 5) -> tuple[np.ndarray, Rays]:
    scan = next(iter(simulate_drive(seed, 1, "hdl64")))
    inside = scan.points_m[Grid(read_model(PACKAGED_WEIGHTS).config).inside(scan.points_m)]
    return scan.points_m, rays_from_points(inside[::8], scan.origin_m)[0]


def test_tokens_and_depths_are_torch_s(runner: OnnxRunner) -> None:
    points, rays = scan_and_rays()
    with torch_runner(PACKAGED_WEIGHTS) as reference:
        tokens = reference.encode(points)
        assert (runner.encode(points) == tokens).mean() > 0.999
        expected, found = reference.decode(tokens, rays), runner.decode(tokens, rays)
        mask = np.random.default_rng(0).random(Grid(runner.config).mask_cells_YXZ) < 0.05
        masked, wanted = runner.decode_with_mask(tokens, rays, mask), reference.decode_with_mask(tokens, rays, mask)
    assert (runner.model_id, runner.config) == (reference.model_id, reference.config)
    for mine, theirs in ((found, expected), (masked, wanted)):
        np.testing.assert_array_equal(np.isnan(mine.depth_m), np.isnan(theirs.depth_m))
        np.testing.assert_allclose(mine.depth_m, theirs.depth_m, atol=1e-3)
        np.testing.assert_allclose(mine.opacity, theirs.opacity, atol=1e-4)


def test_the_order_of_points_does_not_matter(runner: OnnxRunner) -> None:
    points, _ = scan_and_rays()
    tokens = runner.encode(points)
    for seed in range(3):
        np.testing.assert_array_equal(runner.encode(np.random.default_rng(seed).permutation(points)), tokens)


def test_int8_keeps_most_tokens(runner: OnnxRunner) -> None:
    points, _ = scan_and_rays()
    with OnnxRunner(open_model(PACKAGED_WEIGHTS), int8=True) as reduced:
        same = (reduced.encode(points) == runner.encode(points)).mean()
    assert 0.97 <= same < 1.0, "fewer bits must change something, and not much"


def test_bad_input_is_refused(runner: OnnxRunner) -> None:
    points, rays = scan_and_rays()
    for wrong, text in ((np.zeros((0, 3), np.float32), "empty cloud"), (np.full((2, 3), np.inf, np.float32), "2 of 2 points"),
                        (np.zeros(3, np.float32), "expected shape")):
        with pytest.raises(ValueError, match=text):
            runner.encode(wrong)
    tokens = runner.encode(points)
    with pytest.raises(ValueError, match=r"expected shape \(64, 64\)"):
        runner.decode(tokens[:5], rays)
    with pytest.raises(ValueError, match="below 1024"):
        runner.decode(np.full_like(tokens, 65535), rays)


def test_stage_times_are_told(runner: OnnxRunner) -> None:
    points, rays = scan_and_rays()
    runner.decode(runner.encode(points), rays)
    assert set(runner.stage_ms) == {"voxelize", "encode", "decode", "render"}
    assert all(value > 0 for value in runner.stage_ms.values())


def test_a_network_that_onnx_runtime_does_not_know_is_refused() -> None:
    import onnx

    graph = onnx.load_from_string(export_model(read_model(PACKAGED_WEIGHTS)).encoder)
    graph.opset_import[0].version = 999
    with pytest.raises(ValueError, match="ONNX Runtime .* refuses the network.*newer version"):
        open_session(graph.SerializeToString())


def test_it_needs_no_torch(tmp_path: Path) -> None:
    """The packaged weights, a scan, and depth, in a process in which torch cannot be imported."""
    code = ("import sys\nsys.modules['torch'] = None\n"
            "import numpy as np\nfrom copilot4d_core.deploy.open_runner import open_runner\nfrom copilot4d_core.data.rays import rays_from_points\n"
            "points = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)\n"
            "with open_runner(runner='onnx', tell=print) as runner:\n"
            "    tokens = runner.encode(points)\n"
            "    rays, _ = rays_from_points(points, np.zeros(3, np.float32))\n"
            "    print(tokens.shape, len(runner.decode(tokens, rays).depth_m))\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "runner onnx: as asked"
    assert second == "(64, 64) 1000"
