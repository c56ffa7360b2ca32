# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench` on the preset `tiny`: what it prints and writes, and that the alternatives it compares do the same work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import write_tiny_weights

from copilot4d_core.benchmark import training_step
from copilot4d_core.benchmark.compare import stage_pairs
from copilot4d_core.benchmark.frames import load_frames
from copilot4d_core.benchmark.model_choice import ModelChoice, chosen_model
from copilot4d_core.benchmark.numpy_patch_map import numpy_patch_map
from copilot4d_core.benchmark.plain_torch import patch_map_of
from copilot4d_core.benchmark.scaling import Sizes, measure_case, measure_scaling, scaling_cases
from copilot4d_core.benchmark.scaling_report import scaling_figure, scaling_tree
from copilot4d_core.cli import main
from copilot4d_core.cli_bench import node_words
from copilot4d_core.config import preset
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.evaluation.pictures import save_figure
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import random_model

SMALL = ["--preset", "tiny", "--frames", "2", "--points", "5000", "--rays", "256"]
STAGES = ["voxelize", "encode", "decode", "render"]


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    words = ["bench", *SMALL, "--runner", "onnx", "--runner", "torch", "--rate", "20", "--seconds", "0.5"]
    assert main([*words, "--json", str(folder / "out.json"), "--picture", str(folder / "out.png")]) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads of torch that wait for each other take minutes for tiny products."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TestCore:
    def test_each_runner_has_a_line_with_the_agreed_keys(self, run: Path) -> None:
        results = lines(run / "out.json")
        assert [result["runner"] for result in results] == ["onnx", "torch"]
        for result in results:
            assert {"commit", "config", "hardware", "power_mode", "versions", "frames_sent", "frames_missed", "end_to_end_ms", "stage_ms",
                    "rss_mib"} <= set(result)
            assert set(result["end_to_end_ms"]) == {"p50", "p90", "p99", "max"}
            assert result["frames_sent"] == 10 and 0 <= result["frames_missed"] < 10 and result["rss_mib"] > 50
            assert list(result["stage_ms"]) == STAGES
            assert all(row["floor"] > 0 and 0 < row["p50"] <= row["p99"] for row in result["stage_ms"].values())
            whole, parts = result["end_to_end_ms"]["p50"], sum(row["p50"] for row in result["stage_ms"].values())
            assert whole > 0.7 * parts, "the whole is not less than its parts"
            assert result["config"] | {"model": ""} == {
                "model": "", "preset": "tiny", "is_random": True, "mask": "of the scan", "source": "simulated drive", "frames": 2, "points": 5000,
                "rays": 256, "int8": False, "seconds": 0.5}

    def test_both_runners_have_the_same_floors(self, run: Path) -> None:
        onnx, other = lines(run / "out.json")
        assert onnx["work"] == other["work"] and onnx["machine"] == other["machine"]
        # bytes and operations over the rates that stand beside them, by hand
        work, machine = onnx["work"]["encode"], onnx["machine"]
        expected_ms = max(work["bytes"] / machine["bandwidth_gb_s"], work["operations"] / machine["matrix_gflop_s"]) / 1e6
        assert onnx["stage_ms"]["encode"]["floor"] == pytest.approx(expected_ms, rel=1e-3)

    def test_the_picture_has_a_bar_a_runner(self, run: Path) -> None:
        with Image.open(run / "out.png") as picture:
            assert picture.size == (1500, 555)

    def test_a_table_names_stages_floors_and_what_was_measured(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["bench", *SMALL, "--runner", "onnx", "--rate", "100", "--seconds", "0.05"]) == 0
        out = capsys.readouterr().out
        for text in (*STAGES, "end to end", "p50 / floor", "simulated drive", "random weights predict an empty one", "GFLOP/s", "peak throughput"):
            assert text in out
        assert json.loads(out.splitlines()[-1])["mode"] == "core"

    @pytest.mark.parametrize(("words", "text"), [
        (["--rays", "100"], "--rays: expected a multiple of 64"), (["--rate", "0"], "expected --rate and --seconds above 0"),
        (["--frames", "0"], "--frames: expected at least 1"), (["--preset", "huge"], "preset: expected one of"),
        (["--repeats", "0"], "--repeats: expected at least 1"), (["--picture", "x.jpg"], "ends in .png"),
        (["--runner", "fast"], "runner: expected one of")])
    def test_refusals(self, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
        base = ["bench", "--frames", "1", "--points", "100"] if "--frames" not in words else ["bench"]
        assert main([*base, *words]) == 2
        assert text in capsys.readouterr().err


class TestAlternatives:
    def test_the_patch_map_is_the_same_in_kernels_numpy_and_torch(self) -> None:
        model = random_model(preset("tiny"))
        weights, points = kernel_weights(model.tensors), load_frames(None, None, 1, 3000).clouds_m[0]
        ours = CpuStages(weights, model.config).patch_map(points).copy()
        assert np.std(ours) > 0.1
        np.testing.assert_allclose(numpy_patch_map(points, weights.pillars, Grid(model.config)), ours, atol=1e-4)
        np.testing.assert_allclose(patch_map_of(model)(points), ours, atol=1e-4)

    @pytest.mark.parametrize(("kind", "networks"), [("vq", ["encode", "decode"] * 2), ("fsq", ["encode", "decode"])])
    def test_every_pair_gives_the_same_result(self, tmp_path: Path, kind: str, networks: list[str]) -> None:
        """Half-filled space, so that every ray meets something and there are depths to compare; fsq has no kernels to be compared."""
        chosen = ModelChoice(write_tiny_weights(tmp_path / "w.safetensors", kind), False)
        pairs = stage_pairs(chosen, load_frames(None, None, 1, 3000).clouds_m[0], 128)
        assert [pair.what for pair in pairs][2:] == ["march of 128 rays", "cells and march of 128 rays", *networks]
        for pair in pairs:
            ours = np.array(pair.ours(), copy=True)
            assert np.isfinite(ours).any()
            np.testing.assert_allclose(ours, pair.other(), atol=1e-3, equal_nan=True)

    def test_the_plain_training_step_has_the_losses_and_gradients_of_the_kernels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training_step, "RAYS", 128)
        weights = write_tiny_weights(tmp_path / "w.safetensors")
        example = training_step.training_example(weights)
        fast, plain = (training_step.training_module(weights, is_plain) for is_plain in (False, True))
        # The second loss depends on the weights after the first step, so on its gradients.
        ours, theirs = ([training_step.step(module, example) for _ in range(2)] for module in (fast, plain))
        assert ours[0] != ours[1] and ours == pytest.approx(theirs, rel=1e-4)
        assert (example.depth_R > 0).all() and len(example.depth_R) == 128

    def test_memory_of_a_step_is_measured_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        assert 5 < training_step.step_memory_mib(write_tiny_weights(tmp_path / "w.safetensors"), False) < 2000


class TestScalingAndEstimate:
    def test_sizes_are_measured_and_drawn(self, tmp_path: Path) -> None:
        cloud = load_frames(None, None, 1, None).clouds_m[0]
        with chosen_model(None, "tiny") as model:
            cases = scaling_cases(preset("tiny"), 2000, 64, Sizes((500, 2000), (64, 256), (20, 40), (16, 32)))
            rows = [measure_case(model, case, cloud, 2) for case in cases]
            (alone,) = measure_scaling(model, cases[:1], cloud, 1)
        assert [(row.axis, row.value) for row in rows] == [
            ("points", 500), ("points", 2000), ("rays", 64), ("rays", 256), ("region", 20), ("region", 40), ("tokens", 256), ("tokens", 1024)]
        assert all(row.ms["total"] >= max(row.ms[stage] for stage in STAGES) > 0 for row in rows)
        assert alone.memory_mib > 5, "a fresh process takes memory for the model"
        assert set(scaling_tree(rows, "t")["slopes"]) == {"points", "rays", "region", "tokens"}
        save_figure(scaling_figure(rows), tmp_path / "s.png")
        with Image.open(tmp_path / "s.png") as picture:
            assert picture.size[0] > 2000

    def test_estimates_are_marked(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert main(["bench", "--estimate", *SMALL, "--json", str(tmp_path / "e.json")]) == 0
        out = capsys.readouterr().out
        assert "ESTIMATES, not measured" in out and "Published by others" in out and out.count("est. ms") + out.count("est.") >= 4
        assert lines(tmp_path / "e.json")[0]["is_measured"] is False


def test_the_node_gets_the_arguments_as_they_were_given() -> None:
    import argparse

    from copilot4d_core.cli_bench import add_bench_arguments

    parser = argparse.ArgumentParser()
    add_bench_arguments(parser)
    given = ["--runner", "onnx", "--runner", "torch", "--int8", "--data", "a b", "--points", "7", "--preset", "tiny", "--rate", "5.0"]
    assert vars(parser.parse_args(node_words(parser.parse_args(given)))) == vars(parser.parse_args(given))
