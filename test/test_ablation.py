# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Ablations: a fixed plan, results that stay, and what is done again after an interruption."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from stand_in_runner import StandInRunner

from copilot4d_core.cli import main
from copilot4d_core.config import QuantizerKind, preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.evaluation.report import open_data_sets
from copilot4d_core.grid import Grid
from copilot4d_core.training import ablation
from copilot4d_core.training.ablation import Plan, ablate, code_use
from copilot4d_core.training.ablation_settings import BASELINE, SETTINGS, Setting, settings_config
from copilot4d_core.training.ablation_table import Row, table
from copilot4d_core.training.step_clock import StepClock

SHORT = (Setting("baseline", {}, "as it is"), Setting("fsq, small", {"quantizer": {"kind": "fsq", "levels": [5, 5], "codebook_size": 25,
                                                                                    "codebook_dim": 2}}, "no codebook"))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "bag"
    write_cloud_bag(path, "/points", simulate_drive(3, 2, "vlp16"))
    return path


def test_every_setting_is_valid_and_changes_what_it_says() -> None:
    names = [setting.name for setting in SETTINGS]
    configs = {name: settings_config(setting, "mini", 400) for name, setting in zip(names, SETTINGS, strict=True)}
    assert len(set(names)) == len(names) and names[0] == "baseline"
    base = configs["baseline"]
    # Written out, today's preset is the row of that name but for the schedule.
    assert dataclasses.replace(configs["mini"], training=preset("mini").training) == preset("mini")
    assert (base.training.steps, base.training.warmup_steps, base.training.codebook_start_step) == (400, 40, 40)
    assert all(config != base for name, config in configs.items() if name != "baseline")
    assert configs["fsq"].quantizer.kind is QuantizerKind.FSQ and configs["residual 256 x 128"].quantizer.codebook_size == 256 * 128
    assert not configs["no spatial skip"].spatial_skip.enabled and not configs["no bank"].quantizer.kmeans_bank
    assert configs["eps 1.0"].loss.concentration_eps_m == 1.0 and configs["no opacity term"].loss.opacity_weight == 0.0
    for name, setting in zip(names, SETTINGS, strict=True):
        for section, values in setting.changes.items():
            for key, value in values.items():
                assert value != BASELINE.get(section, {}).get(key), f"{name}: {section}.{key} is the baseline's"
    with pytest.raises(ValueError, match="at least 10, got 9"):
        settings_config(SETTINGS[0], "mini", 9)


def test_runs_are_made_once_and_a_plan_stays(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("tiny", 10, [drive], [drive], tmp_path / "out")
    rows = ablate(plan, SHORT, tell=lambda line: None)
    assert all(row.note in ("", "collapsed") for row in rows)
    tree = json.loads((plan.out / "ablation.json").read_text())
    assert [row["name"] for row in tree["rows"]] == ["baseline", "fsq, small"]
    assert tree["rows"][1]["shown"]["codes"] == 25 and tree["rows"][1]["shown"]["bits_per_scan"] == 16 * 16 * 5
    assert tree["rows"][0]["data_sets"]["bag"]["scans"] == 2
    assert "| fsq, small |" in (plan.out / "ablation.md").read_text()

    def forbidden(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a run with a result was made again")

    monkeypatch.setattr(ablation, "train", forbidden)
    assert ablate(plan, SHORT, tell=lambda line: None) == rows
    with pytest.raises(ValueError, match="steps: 10 there, 11 here"):
        ablate(dataclasses.replace(plan, steps=11), SHORT)
    with pytest.raises(ValueError, match="delete the folder to make it anew"):
        ablate(plan, (SHORT[0]._replace(changes={"loss": {"opacity_weight": 0.0}}),))


def test_two_processes_share_a_folder(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, real, made = Plan("tiny", 10, [drive], [drive], tmp_path / "out"), ablation.train, []

    def counted(config: Any, *arguments: Any, **more: Any) -> None:
        made.append(config.quantizer.kind)
        real(config, *arguments, **more)

    monkeypatch.setattr(ablation, "train", counted)
    assert [row.name for row in ablate(plan, SHORT, lambda line: None, only=["fsq, small"])] == ["fsq, small"]
    assert [row.name for row in ablate(plan, SHORT, lambda line: None, only=["baseline"])] == ["baseline", "fsq, small"]
    assert made == [QuantizerKind.FSQ, QuantizerKind.VQ]
    assert [row["name"] for row in json.loads((plan.out / "ablation.json").read_text())["rows"]] == ["baseline", "fsq, small"]
    with pytest.raises(ValueError, match="--only: expected names among baseline, fsq, small; got dim 7"):
        ablate(plan, SHORT, only=["baseline", "dim 7"])


def test_an_interrupted_run_goes_on_and_is_judged(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, resumed = Plan("tiny", 10, [drive], [drive], tmp_path / "out"), []
    real = ablation.train

    def interrupted(*arguments: Any, **more: Any) -> None:
        monkeypatch.setattr("copilot4d_core.training.train.CHECKPOINT_EVERY_S", 0.0)
        more["callbacks"] = [*more["callbacks"], Interruption()]
        real(*arguments, **more)

    class Interruption(StepClock):
        def on_train_batch_end(self, trainer: Any, module: Any, *unused: Any) -> None:
            super().on_train_batch_end(trainer, module, *unused)
            if module.steps_done == 5:
                raise SystemExit(1)  # what Lightning makes of Ctrl-C

    def counted(*arguments: Any, **more: Any) -> None:
        resumed.append(more["resume"])
        real(*arguments, **more)

    monkeypatch.setattr(ablation, "train", interrupted)
    with pytest.raises(SystemExit):
        ablate(plan, SHORT[:1], tell=lambda line: None)
    assert not (plan.out / "baseline" / "result.json").exists()
    monkeypatch.setattr(ablation, "train", counted)
    (row,) = ablate(plan, SHORT[:1], tell=lambda line: None)
    assert resumed == [True] and math.isfinite(row.shown["depth_l1_mean_m"] or math.nan)


def test_a_failed_run_stays_in_the_table_and_the_others_go_on(drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, real, tries = Plan("tiny", 10, [drive], [drive], tmp_path / "out"), ablation.train, []

    def diverging(config: Any, *arguments: Any, **more: Any) -> None:
        tries.append(config.quantizer.kind)
        if config.quantizer.kind is QuantizerKind.VQ:
            config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, depth_weight=3e38, skip_weight=3e38))
        real(config, *arguments, **more)

    monkeypatch.setattr(ablation, "train", diverging)
    for _ in range(2):
        rows = ablate(plan, SHORT, tell=lambda line: None)
        assert rows[0].note.startswith("failed: step 3: the loss is not finite")
        assert not rows[0].shown and rows[1].shown
    assert tries == [QuantizerKind.VQ, QuantizerKind.FSQ], "neither was made again"
    (line,) = [line for line in (plan.out / "ablation.md").read_text().splitlines() if line.startswith("| baseline | –")][:1]
    assert "failed: step 3" in line


def test_code_use_of_two_tokens_by_hand(drive: Path) -> None:
    # The stand-in says 1 for cells with points and 0 for others: one code on occupied cells, and the entropy of a coin.
    runner, judges = StandInRunner(), open_data_sets([drive], None, 1)
    found = code_use(runner, judges)
    grid = Grid(runner.config)
    share = sum(grid.occupied_tokens(scan.points_m).mean() for scan in judges[0].source) / 2
    coin = -(share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert found["codes_used_occupied"] == 1 and found["perplexity_occupied"] == pytest.approx(1.0)
    assert found["bits_per_scan"] == 16 * 16 * 6 and found["entropy_bits_per_scan"] == pytest.approx(16 * 16 * coin)


def test_table_shows_what_is_not_finite_as_a_dash() -> None:
    row = Row("a", "why", {"loss": {"opacity_weight": 0.0}}, {"depth_l1_mean_m": 1.234, "rays_within_1m": 0.5, "chamfer_m": None}, {}, "")
    text = table([row], {"preset": "mini", "steps": 400, "data": ["x"], "judges": ["y", "z"]})
    assert "| a | 1.23 | – | 50% | – | – |" in text
    assert "| a | `loss.opacity_weight: 0.0` | why |" in text and "--judge y z" in text


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--data", str(tmp_path / "none"), "--judge", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "expected scans to train on" in capsys.readouterr().err
