# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The TensorRT runner on a simulated device (see simulated_device.py): the tokens of the ONNX runner, and every fault.

No GPU is here: what this proves is the order of the calls, the memory, the threads and the errors, not TensorRT's numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import warp as wp
from simulated_device import SimulatedDevice
from simulated_tensorrt import simulated_engine
from tiny_model import half_filled_model

from copilot4d_core.data.rays import Rays, rays_from_points
from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy import tensorrt_runner
from copilot4d_core.deploy.exported_model import ExportedModel, export_model, open_model
from copilot4d_core.deploy.gpu_session import Gpu, GpuError, GpuSession
from copilot4d_core.deploy.manifest import networks
from copilot4d_core.deploy.onnx_runner import OnnxRunner
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.tensorrt_engine import TensorrtEngine
from copilot4d_core.deploy.tensorrt_runner import TensorrtRunner
from copilot4d_core.grid import Grid

ROOT = Path(__file__).resolve().parent.parent
COVERED = ("gpu_session", "tensorrt_engine", "tensorrt_runner")


@pytest.fixture(scope="module")
def model() -> ExportedModel:
    return export_model(half_filled_model())


@pytest.fixture(scope="module")
def reference(model: ExportedModel) -> OnnxRunner:
    return OnnxRunner(model)


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    """A device that must be clean at the end: nothing leaked, no write outside a buffer, no call that a real one would punish."""
    result = SimulatedDevice()
    yield result
    result.check()


def gpu(device: SimulatedDevice) -> Gpu:
    return Gpu(device.cuda, device.trt, "cpu", device.kernel_scope)


def engines(model: ExportedModel) -> dict[str, bytes]:
    return {"encoder": simulated_engine(model.encoder), "decoder": simulated_engine(model.decoder)}


def open_on(device: SimulatedDevice, model: ExportedModel) -> TensorrtRunner:
    return TensorrtRunner(model.config, model.model_id, model.kernels, engines(model), gpu(device))


def cloud(count: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 3)) * [5.0, 4.0, 1.0]).astype(np.float32)


def some_rays(count: int, seed: int = 1) -> Rays:
    return rays_from_points(cloud(count, seed), np.zeros(3, dtype=np.float32))[0]


def assert_same(first: Any, second: Any) -> None:
    for mine, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_real_scans_give_the_tokens_and_depths_of_the_onnx_runner(lidar_data: Path, device: SimulatedDevice) -> None:
    model = open_model(PACKAGED_WEIGHTS)
    folders = ("kitti_odometry_00", "kitti_object", "nuscenes_sweep", "pandar64")
    scans = [scan for folder in folders for scan in list(open_scans(lidar_data / folder))[:2]]
    assert len(scans) >= 5
    reference, grid = OnnxRunner(model), Grid(model.config)
    with open_on(device, model) as runner:
        for scan in scans:
            tokens = runner.encode(scan.points_m)
            np.testing.assert_array_equal(tokens, reference.encode(scan.points_m))
            rays, _ = rays_from_points(scan.points_m[grid.inside(scan.points_m)][::4], scan.origin_m)
            found, expected = runner.decode(tokens, rays), reference.decode(tokens, rays, with_returns=True)
            assert np.isfinite(found.depth_m).mean() > 0.9
            assert_same(found[:4], expected[:4])
            found = runner.decode(tokens, rays, with_returns=True)
            assert_same(found[:4], expected[:4])
            assert found.returns is not None and expected.returns is not None
            assert (found.returns.weight[1] > 0).mean() > 0.01
            assert_same(found.returns, expected.returns)


def test_a_frame_crosses_the_bus_once_each_way_and_rays_only_when_they_change(
        model: ExportedModel, reference: OnnxRunner, device: SimulatedDevice) -> None:
    points, rays = cloud(500), some_rays(300)
    with open_on(device, model) as runner:
        log = device.logs[-1]
        log.clear()
        tokens = runner.encode(points)
        assert log == ["event", "htod", "kernel", "event", "execute encoder", "dtoh", "event"]
        runner.decode(tokens, some_rays(300, seed=5))  # the first frame takes memory for its cells
        log.clear()
        first = runner.decode(tokens, rays)
        march = ["kernel", "dtoh", "dtoh", "event"]
        assert log == ["event", "htod", "execute decoder", "htod", "htod", "event", *march]
        log.clear()
        assert_same(runner.decode(tokens, rays), first)
        assert log == ["event", "htod", "execute decoder", "event", *march]
        assert_same(runner.decode(tokens, some_rays(300, seed=2)), reference.decode(tokens, some_rays(300, seed=2)))
        assert set(runner.stage_ms) == {"voxelize", "encode", "decode", "render"}
        assert all(value >= 0 for value in runner.stage_ms.values())


def test_a_given_mask_is_rendered(model: ExportedModel, reference: OnnxRunner, device: SimulatedDevice) -> None:
    rays = some_rays(300)
    mask = np.random.default_rng(0).random(Grid(model.config).mask_cells_YXZ) < 0.2
    with open_on(device, model) as runner:
        tokens = runner.encode(cloud(500))
        assert_same(runner.decode_with_mask(tokens, rays, mask), reference.decode_with_mask(tokens, rays, mask))


def test_memory_grows_with_points_rays_and_cells_and_nothing_is_lost(
        model: ExportedModel, reference: OnnxRunner, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_runner, "FIRST_POINTS", 100)
    monkeypatch.setattr(tensorrt_runner, "FIRST_RAYS", 10)
    monkeypatch.setattr(tensorrt_runner, "CELL_SHARE", 10_000)
    with open_on(device, model) as runner:
        for points, rays in ((cloud(90), some_rays(9)), (cloud(5000), some_rays(2000)), (cloud(90), some_rays(9))):
            tokens = runner.encode(points)
            np.testing.assert_array_equal(tokens, reference.encode(points))
            assert_same(runner.decode(tokens, rays), reference.decode(tokens, rays))


def test_all_that_warp_does_is_done_on_the_runner_s_stream(model: ExportedModel, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real GPU a fill or copy on another stream races with the kernels; on the CPU nothing would show it."""
    scopes, outside, calls = [], [], []

    @contextmanager
    def scope(stream: Any) -> Iterator[None]:
        with device.kernel_scope(stream):
            scopes.append(stream)
            yield
            scopes.pop()

    def watch(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if not scopes:
                outside.append(name)
            return whole(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((wp, "launch"), (wp.array, "zero_"), (wp.array, "assign"), (wp.utils, "array_scan"), (wp.utils, "radix_sort_pairs")):
        watch(owner, name)
    monkeypatch.setattr(tensorrt_runner, "FIRST_POINTS", 100)
    monkeypatch.setattr(tensorrt_runner, "CELL_SHARE", 10_000)
    with TensorrtRunner(model.config, model.model_id, model.kernels, engines(model), gpu(device)._replace(kernel_scope=scope)) as runner:
        tokens = runner.encode(cloud(500))
        runner.decode(tokens, some_rays(100))
        runner.decode_with_mask(tokens, some_rays(100), np.ones(Grid(model.config).mask_cells_YXZ, dtype=bool))
    assert set(calls) == {"launch", "zero_", "assign", "array_scan", "radix_sort_pairs"}
    assert not outside


def test_blank_and_outside_scans_are_encoded_and_bad_ones_refused(model: ExportedModel, reference: OnnxRunner, device: SimulatedDevice) -> None:
    with open_on(device, model) as runner:
        outside = np.full((5, 3), 99.0, dtype=np.float32)
        np.testing.assert_array_equal(runner.encode(outside), reference.encode(outside))
        for points, text in ((np.zeros((0, 3), np.float32), "empty cloud"), (np.full((2, 3), np.nan, np.float32), "2 of 2 points"),
                             (np.zeros(3, np.float32), "shape")):
            with pytest.raises(ValueError, match=text):
                runner.encode(points)
        tokens = runner.encode(cloud(50))
        with pytest.raises(ValueError, match="expected shape"):
            runner.decode(tokens[1:], some_rays(3))
        with pytest.raises(ValueError, match="below 64"):
            runner.decode(np.full_like(tokens, 64), some_rays(3))
        assert runner.encode(cloud(50)).shape == tokens.shape  # a refusal leaves the runner as it was


def test_calls_may_come_from_any_thread_and_it_may_be_closed_in_another(model: ExportedModel, reference: OnnxRunner, device: SimulatedDevice) -> None:
    expected = {seed: reference.encode(cloud(300, seed)) for seed in range(6)}
    wrong: list[str] = []

    def work(runner: TensorrtRunner, seeds: range) -> None:
        for seed in seeds:
            if not np.array_equal(runner.encode(cloud(300, seed)), expected[seed]):
                wrong.append(f"scan {seed}")

    def in_thread(target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        return thread

    runner = open_on(device, model)
    for thread in [in_thread(work, runner, range(3)), in_thread(work, runner, range(3, 6))]:
        thread.join(60)
    in_thread(runner.__exit__, None, None, None).join(60)
    assert not wrong
    with pytest.raises(GpuError, match="closed"):
        runner.encode(cloud(3))
    runner.__exit__(None, None, None)  # closing again does nothing


@pytest.mark.parametrize(("operation", "after"), [
    ("init", 0), ("retain_primary_context", 0), ("stream_create", 0), ("mem_alloc", 0), ("mem_alloc", 9), ("pagelocked_empty", 1),
    ("event_create", 2), ("deserialize_cuda_engine", 1), ("create_execution_context", 0)])
def test_a_fault_while_opening_leaves_nothing_allocated(model: ExportedModel, operation: str, after: int) -> None:
    device = SimulatedDevice()
    is_before_the_context = operation in ("init", "retain_primary_context")  # a lasting fault would have no context to end with
    device.fail(operation, after=after, error=device.cuda.MemoryError("out of memory") if is_before_the_context else None)
    with pytest.raises(GpuError):
        open_on(device, model)
    device.check()
    with open_on(device, model) as runner:  # and a second try works
        runner.encode(cloud(10))
    device.check()


@pytest.mark.parametrize("operation", ["memcpy_htod_async", "memcpy_dtoh_async", "stream_synchronize", "event_record", "event_time_since", "kernel",
                                       "execute_async_v3"])
def test_a_fault_in_the_middle_of_a_frame_is_said_and_a_new_runner_works(
        model: ExportedModel, reference: OnnxRunner, operation: str, device: SimulatedDevice) -> None:
    with open_on(device, model) as runner:
        tokens = runner.encode(cloud(100))
        device.fail(operation)
        with pytest.raises(GpuError, match="open a new one"):
            runner.encode(cloud(100))
        with pytest.raises(GpuError, match="it failed before"):
            runner.decode(tokens, some_rays(10))
    with open_on(device, model) as runner:
        np.testing.assert_array_equal(runner.encode(cloud(100)), reference.encode(cloud(100)))


def test_out_of_device_memory_says_how_much_was_needed_and_is_free(model: ExportedModel) -> None:
    device = SimulatedDevice(memory_bytes=2**20)
    with pytest.raises(GpuError, match=r"out of memory: \d+ MiB were needed, \d+ of 1 MiB are free; close other programs"):
        open_on(device, model)
    device.check()


def test_an_engine_with_other_tensors_than_the_manifest_is_refused(model: ExportedModel, device: SimulatedDevice) -> None:
    swapped = {"encoder": engines(model)["decoder"], "decoder": engines(model)["decoder"]}
    with pytest.raises(ValueError, match="encoder: expected an engine with the tensors .*patches"):
        TensorrtRunner(model.config, model.model_id, model.kernels, swapped, gpu(device))


def test_an_engine_that_tensorrt_refuses_is_named(model: ExportedModel, device: SimulatedDevice) -> None:
    with pytest.raises(GpuError, match="encoder: TensorRT .* refuses the engine .*build it again"):
        TensorrtRunner(model.config, model.model_id, model.kernels, {"encoder": b"junk", "decoder": b"junk"}, gpu(device))


def test_a_tensor_that_tensorrt_does_not_know_is_named(model: ExportedModel, device: SimulatedDevice) -> None:
    session = GpuSession(gpu(device))
    with session.active():
        buffers = {name: session.memory.array(1, wp.float32) for name in ("patches", "tokens", "nonsense")}
        with pytest.raises(GpuError, match="encoder: TensorRT refuses the address of nonsense"):
            TensorrtEngine("encoder", engines(model)["encoder"], networks(model.config)["encoder"], buffers, session)
    session.close()


def test_a_network_that_reads_too_early_would_be_noticed(model: ExportedModel, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof above rests on poison in memory that is read too early: without the wait the tokens are wrong."""
    with open_on(device, model) as runner:
        expected = runner.encode(cloud(100))
        monkeypatch.setattr(runner, "_wait", lambda *stages: None)
        assert not np.array_equal(runner.encode(cloud(100)), expected)


def test_the_runner_s_lines_are_covered_by_these_tests(tmp_path: Path) -> None:
    """At least 95 % of each file, counted in a process of its own that runs this file but for this test."""
    counted = [f"--cov=copilot4d_core.deploy.{name}" for name in COVERED]
    settings = tmp_path / "coverage.ini"  # not the project's, which are of the whole and count branches
    settings.write_text("[run]\n")
    options = ["-q", "-p", "no:cacheprovider", *counted, f"--cov-config={settings}", "--cov-report=term", "-k", "not covered"]
    done = subprocess.run([sys.executable, "-m", "pytest", __file__, *options],
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
                          env=os.environ | {"COVERAGE_FILE": str(tmp_path / "coverage"), "PYTEST_ADDOPTS": ""})  # colcon counts everything
    assert done.returncode == 0, done.stdout[-3000:]
    rows = re.findall(r"deploy/(\w+)\.py +\d+ +\d+ +(\d+)%", done.stdout)
    shares = {name: int(share) for name, share in rows}
    assert set(shares) == set(COVERED), done.stdout[-3000:]
    assert min(shares.values()) >= 95, shares


def test_onnx_networks_are_what_the_engines_hold(model: ExportedModel) -> None:
    for network in (model.encoder, model.decoder):
        onnx.checker.check_model(onnx.load_from_string(network), full_check=True)
