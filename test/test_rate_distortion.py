# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Rate and distortion: Draco comes back, curves are read as worked by hand, and the command leaves its picture, numbers and verdict."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from stand_in_runner import MODEL_ID, StandInRunner

from copilot4d_core.cli import main
from copilot4d_core.cli_model import _weights_in
from copilot4d_core.config import preset
from copilot4d_core.evaluation import draco_codec
from copilot4d_core.evaluation.rate_comparison import MEASURES, bytes_for, is_best_rate, sentences, value_at
from copilot4d_core.evaluation.rate_distortion import BITS, DRACO, ENTROPY_CODED, FIXED_RATE, OCTREE, STEPS_M, TOKENS, TRUE_RAYS, Row, means
from copilot4d_core.grid import FloatArray

CHAMFER, FSCORE = MEASURES


def row(codec: str, size: float, chamfer_m: float, fscore: float, setting: str = "", scan: str = "mean") -> Row:
    return Row("drive", scan, codec, setting, size, chamfer_m, fscore / 2, fscore, 100, 50)


ROWS = [row(TOKENS, 1000, 0.3, 0.7, f"m, {ENTROPY_CODED}"), row(TOKENS, 10000, 0.3, 0.7, f"m, {FIXED_RATE}"),
        row(TRUE_RAYS, 1000, 0.2, 0.8, f"m, {ENTROPY_CODED}"),
        row(OCTREE, 10000, 0.2, 0.9), row(OCTREE, 100, 0.8, 0.1), row(OCTREE, 100000, 0.1, 1.0),
        row(DRACO, 2000, 0.4, 0.2), row(DRACO, 4000, 0.35, 0.6)]


class TestComparison:
    # The octree has 0.8 m with 10^2 bytes and 0.2 m with 10^4, so half-way, with 10^3, it has 0.5 m, and 0.3 m with 10^(2 + 2 * 5 / 6).
    def test_curves_are_straight_over_the_logarithm_of_the_bytes(self) -> None:
        assert value_at(ROWS, "drive", OCTREE, CHAMFER, 1000) == pytest.approx(0.5)
        assert value_at(ROWS, "drive", OCTREE, FSCORE, 1000) == pytest.approx(0.5)
        assert bytes_for(ROWS, "drive", OCTREE, CHAMFER, 0.3) == pytest.approx(10 ** (2 + 2 * 5 / 6))
        assert bytes_for(ROWS, "drive", OCTREE, FSCORE, 0.7) == pytest.approx(10**3.5)

    def test_beyond_its_settings_nothing_is_said_of_a_codec(self) -> None:
        assert np.isnan([value_at(ROWS, "drive", DRACO, CHAMFER, size) for size in (1000, 5000)]).all()
        assert np.isnan(value_at(ROWS, "another", OCTREE, CHAMFER, 1000))
        assert np.isnan(bytes_for(ROWS, "drive", DRACO, CHAMFER, 0.3))
        assert bytes_for(ROWS, "drive", DRACO, CHAMFER, 0.45) == 2000

    def test_sentences_name_the_winner_whoever_it_is(self) -> None:
        assert sentences(ROWS) == [
            "drive, m, entropy-coded, 1,000 bytes a scan:",
            "  Chamfer distance: tokens win with 0.30 m; octree 0.50 m, Draco has no such setting. "
            "Better than these tokens: octree from 4,642 bytes on, Draco nowhere.",
            "  F-score at 0.2 m: tokens win with 0.70; octree 0.50, Draco has no such setting. "
            "Better than these tokens: octree from 3,162 bytes on, Draco nowhere.",
            "drive, m, fixed rate, 10,000 bytes a scan:",
            "  Chamfer distance: octree wins with 0.20 m; tokens 0.30 m, Draco has no such setting. "
            "Better than these tokens: octree from 4,642 bytes on, Draco nowhere.",
            "  F-score at 0.2 m: octree wins with 0.90; tokens 0.70, Draco has no such setting. "
            "Better than these tokens: octree from 3,162 bytes on, Draco nowhere."]

    def test_the_fixed_rate_is_a_models_best_only_without_a_prior(self) -> None:
        assert [is_best_rate(one, ROWS) for one in ROWS[:2]] == [True, False]
        assert is_best_rate(ROWS[1], ROWS[1:2])

    def test_means_are_over_scans_of_one_codec_and_setting(self) -> None:
        rows = [row(OCTREE, 10, 0.2, 0.4, "1 m", "a"), row(OCTREE, 10, 0.1, 0.6, "2 m", "a"), row(OCTREE, 30, 0.4, 0.6, "1 m", "b")]
        assert [tuple(one) for one in means(rows)] == [("drive", "mean", OCTREE, "1 m", 20, pytest.approx(0.3), 0.25, 0.5, 100, 50),
                                                       ("drive", "mean", OCTREE, "2 m", 10, 0.1, 0.3, 0.6, 100, 50)]


class TestDraco:
    def test_every_point_comes_back_once_within_half_a_step(self) -> None:
        pytest.importorskip("DracoPy", reason="pip install '.[rate]'")
        points_m = np.random.default_rng(0).uniform(-10, 10, (3000, 3)).astype(np.float32)
        minimum_m, step_m = np.full(3, -10, dtype=np.float32), 20 / (2**6 - 1)
        back = draco_codec.decode(draco_codec.encode(points_m, 6, minimum_m, 20.0))
        expected = {tuple(round((float(value) + 10) / step_m) for value in point) for point in points_m}
        assert sorted(tuple(round((float(value) + 10) / step_m) for value in point) for point in back) == sorted(expected)
        steps = (back + 10) / step_m
        assert np.allclose(steps, steps.round(), atol=1e-3)

    def test_without_the_package_the_remedy_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "DracoPy", None)
        with pytest.raises(ValueError, match=r'DracoPy, it is not installed; `pip install "DracoPy>=2.2"`'):
            draco_codec.check_draco()

    def test_the_extra_asks_for_the_same(self) -> None:
        assert f'"rate": ["{draco_codec.EXTRA}"]' in (Path(__file__).resolve().parents[1] / "setup.py").read_text()


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> list[StandInRunner]:
    """The runners that the command opens, one after the other."""
    pytest.importorskip("DracoPy", reason="pip install '.[rate]'")
    stand_ins = [StandInRunner(error_m=0.15), StandInRunner(error_m=0.3, model_id="tiny-other")]
    waiting = iter(stand_ins)
    module = types.ModuleType("open_runner")
    module.open_runner = lambda weights, runner, int8, tell: next(waiting)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", module)
    return stand_ins


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Two scans: 2,000 points on a cylinder of 5 m, in the format of KITTI, and one that has no point inside the region."""
    folder = tmp_path / "drive"
    folder.mkdir()
    write(folder / "0.bin", 5.0)
    write(folder / "1.bin", 50.0)
    return folder


def write(path: Path, radius_m: float) -> FloatArray:
    angle = np.linspace(0, 40 * np.pi, 2000, endpoint=False)
    points = np.column_stack([radius_m * np.cos(angle), radius_m * np.sin(angle), np.linspace(-1, 1, 2000), np.zeros(2000)]).astype("<f4")
    points.tofile(path)
    return points


class TestCommand:
    def test_picture_numbers_and_verdict(self, runners: list[StandInRunner], drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture = tmp_path / "rate.png"
        assert main(["evaluate", "--data", str(drive), "--rate-distortion", str(picture), "--sensor", "vlp16"]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        with (tmp_path / "rate.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [one["scan"] for one in rows] == ["mean"] * (len(rows) // 2) + ["0"] * (len(rows) // 2)
        scan = rows[len(rows) // 2:]
        assert [(one["codec"], one["setting"]) for one in scan] == [
            (TOKENS, f"{MODEL_ID}, {FIXED_RATE}"), (TRUE_RAYS, f"{MODEL_ID}, {FIXED_RATE}"),
            *((OCTREE, f"{step_m:g} m") for step_m in STEPS_M), *((DRACO, f"{bits} bits") for bits in BITS)]
        tokens, true_rays = scan[:2]
        # 16 x 16 tokens of 6 bits, a header of 23 bytes and 17 characters, a CRC: 192 + 44.
        assert (tokens["bytes"], tokens["points_in"], true_rays["points_out"]) == ("236", "2000", "2000")
        # Every point is moved 0.15 m away from a wall whose points are 0.03 m apart.
        assert float(true_rays["chamfer_m"]) == pytest.approx(0.15, abs=0.005)
        assert (float(true_rays["fscore_0p1m"]), float(true_rays["fscore_0p2m"])) == (0.0, 1.0)
        out = capsys.readouterr().out
        assert f"drive, {MODEL_ID}, {FIXED_RATE}, 236 bytes a scan:" in out and "Chamfer distance: " in out and "rate.csv" in out
        assert runners[0].closed

    def test_each_weights_file_is_a_point(self, runners: list[StandInRunner], drive: Path, tmp_path: Path) -> None:
        arguments = ["evaluate", "--data", str(drive), "--rate-distortion", str(tmp_path / "rate.png"), "--weights", "a.safetensors"]
        assert main([*arguments, "--weights", "b.safetensors"]) == 0
        with (tmp_path / "rate.csv").open() as file:
            distances = {one["setting"]: float(one["chamfer_m"]) for one in csv.DictReader(file) if one["codec"] == TRUE_RAYS}
        assert distances == {f"{MODEL_ID}, {FIXED_RATE}": pytest.approx(0.15, abs=0.005), f"tiny-other, {FIXED_RATE}": pytest.approx(0.3, abs=0.005)}

    def test_an_empty_reconstruction_is_no_point_of_the_picture(self, runners: list[StandInRunner], drive: Path, tmp_path: Path) -> None:
        runners[0].misses = slice(None)
        assert main(["evaluate", "--data", str(drive), "--rate-distortion", str(tmp_path / "rate.png")]) == 0
        assert ",inf,0,0," in (tmp_path / "rate.csv").read_text()

    def test_models_of_two_regions_are_refused(self, runners: list[StandInRunner], drive: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
        runners[1].config = preset("mini")
        arguments = ["evaluate", "--data", str(drive), "--rate-distortion", str(tmp_path / "rate.png"), "--weights", "a.safetensors"]
        assert main([*arguments, "--weights", "b.safetensors"]) == 2
        assert "expected weights of one region" in capsys.readouterr().err
        assert not (tmp_path / "rate.png").exists()

    def test_json_takes_one_model(self, runners: list[StandInRunner], drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evaluate", "--data", str(drive), "--json", str(tmp_path / "r.json"), "--weights", "a", "--weights", "b"]) == 2
        assert "--json: expected one model, got 2" in capsys.readouterr().err

    @pytest.mark.parametrize(("arguments", "expected"), [
        ([], "--json OUT, --rate-distortion PICTURE or both, got neither"),
        (["--rate-distortion", "rate.jpg"], "expected a name that ends in .png"),
        (["--rate-distortion", "rate.png", "--sensor", "unknown"], "expected one of hdl32e"),
    ])
    def test_wrong_use_is_named_before_a_model_is_loaded(self, arguments: list[str], expected: str, drive: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(sys.modules, "DracoPy", types.ModuleType("DracoPy"))
        monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", None)
        assert main(["evaluate", "--data", str(drive), *arguments]) == 2
        assert expected in capsys.readouterr().err

    def test_a_folder_of_weights_is_all_of_them_without_their_priors(self, tmp_path: Path) -> None:
        for name in ("b.safetensors", "a.safetensors", "a.prior.safetensors", "checkpoint.safetensors", "notes.txt"):
            (tmp_path / name).touch()
        assert [path.name for path in _weights_in(tmp_path)] == ["a.safetensors", "b.safetensors"]
        assert _weights_in(tmp_path / "a.safetensors") == [tmp_path / "a.safetensors"]
        (tmp_path / "manifest.json").touch()
        assert _weights_in(tmp_path) == [tmp_path]

    def test_a_folder_without_weights_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"expected weights .* got neither"):
            _weights_in(tmp_path)
