# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The model card: every number in it comes from a file that a run or an evaluation wrote."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from copilot4d_core.cli import main
from copilot4d_core.config import preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.evaluation.model_card import Sources, model_card
from copilot4d_core.model_file import read_model
from copilot4d_core.training.train import train
from copilot4d_ros.parameter_table import specs
from copilot4d_ros.parameters import TokenizerParameters

NOTES = {"licence": "none but for tests", "training": "All on one machine.", "results": "On the same drive.", "prior": "Fitted to nothing.",
         "surprise": "Of three scans.", "surprise_warn_m": 0.58, "limits": ["sees 10 m", "knows one street"],
         "data": {"drive": {"what": "a made-up street", "sensor": "VLP-16", "terms": "free"},
                  "simulated": {"what": "more of them", "sensor": "all", "terms": "–"}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a few steps, the second from the first's checkpoint, and results of its weights."""
    folder = tmp_path_factory.mktemp("runs")
    write_cloud_bag(folder / "drive", "/points", simulate_drive(3, 3, "vlp16"))
    base = preset("tiny")
    for name, start, rate in (("first", None, 1e-3), ("second", folder / "first" / "checkpoint.safetensors", 5e-4)):
        training = dataclasses.replace(base.training, steps=4, warmup_steps=1, learning_rate=rate)
        train(dataclasses.replace(base, training=training), [folder / "drive"], folder / name, start=start, simulate=25, simulate_sensors=("vlp16",))
    (folder / "notes.yaml").write_text(yaml.safe_dump(NOTES))
    assert main(["evaluate", "--weights", str(folder / "second" / "weights.safetensors"), "--data", str(folder / "drive"), "--json",
                 str(folder / "results.json")]) == 0
    return folder


def sources(folder: Path, **more: Any) -> Sources:
    return Sources(folder / "second" / "weights.safetensors", [folder / "first", folder / "second"], folder / "results.json",
                   more.pop("notes", folder / "notes.yaml"), **more)


def test_the_command_writes_what_the_runs_wrote(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "CARD.md"
    assert main(["card", str(runs / "second" / "weights.safetensors"), "--runs", str(runs / "first"), str(runs / "second"), "--results",
                 str(runs / "results.json"), "--notes", str(runs / "notes.yaml"), "--out", str(out)]) == 0
    text = out.read_text()
    assert capsys.readouterr().out == f"{out}: {len(text.splitlines())} lines\n"
    assert text.startswith("# tiny: LiDAR tokenizer weights\n")
    results = json.loads((runs / "results.json").read_text())
    assert results["model_id"] in text
    metrics = results["data_sets"]["drive"]
    assert f"| drive | 3 | {metrics['depth_l1_mean_m']:.2f} | {metrics['depth_l1_median_m']:.2f} |" in text
    for line in ("1. `first`: 4 steps of 1 scan, from random numbers; up to 512 rays", "2. `second`: 4 steps of 1 scan, from `first`;",
                 "optimiser muon, rate 0.0005 after 1 steps of warm-up", "| first, second | drive | a made-up street | VLP-16 | 3 | 75% | free |",
                 "| first, second | simulated | more of them | vlp16 | 96 | 25% | – |", "| licence | none but for tests |", "- knows one street",
                 "copilot4d train --config first.yaml --out runs/first --simulate 25 --simulate-sensors vlp16 --data drive",
                 "--simulate-sensors vlp16 --start runs/first/checkpoint.safetensors --data drive",
                 "training: {learning_rate: 0.0005, warmup_steps: 1, steps: 4}"):
        assert line in text, line


def test_prior_and_surprise_are_shown_where_they_were_measured(runs: Path, tmp_path: Path) -> None:
    model_id = json.loads((runs / "results.json").read_text())["model_id"]
    costs = {"model_id": model_id, "costs": [{"name": "drive", "scans": 3, "packed_bytes": 5164.0, "mean_bytes": 1841.6, "largest_bytes": 1961}]}
    scores = {"as recorded": [{"surprise_m": 0.5, "bits_per_token": None}, {"surprise_m": 0.6, "bits_per_token": None}],
              "fog": [{"surprise_m": 0.56, "bits_per_token": None}, {"surprise_m": 0.9, "bits_per_token": None}]}
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    text = model_card(sources(runs, prior_costs=tmp_path / "costs.json", surprise=tmp_path / "scores.json"))
    assert "| drive | 3 | 5,164 | 1,842 | 1,961 |" in text
    assert "| fog | 2 | 0.73 (0.56 to 0.90) | 50% | 0.75 | – |" in text, "0.56 beats one of two, 0.9 both: three of four pairs"
    (tmp_path / "costs.json").write_text(json.dumps({**costs, "model_id": "another"}))
    with pytest.raises(ValueError, match=f"expected costs of {model_id}, got those of another"):
        model_card(sources(runs, prior_costs=tmp_path / "costs.json"))


def test_a_run_that_was_stopped_is_said_to_be(runs: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "first"
    shutil.copytree(runs / "first", stopped)
    (stopped / "run.json").write_text(json.dumps({**json.loads((stopped / "run.json").read_text()), "steps": 3, "processes": 2}))
    text = model_card(sources(runs)._replace(runs=[stopped, runs / "second"]))
    assert "1. `first`: 3 of 4 steps, where it was stopped, of 1 scan, from random numbers" in text
    assert "torchrun --nproc-per-node 2 -m -- copilot4d_core.cli train --config first.yaml" in text and "\ncopilot4d train --config second" in text
    assert "--data drive  # until step 3\n" in text and "# until step 4" not in text


def test_weights_that_a_run_started_from_are_named_with_their_own_card(runs: Path, tmp_path: Path) -> None:
    first = runs / "first" / "weights.safetensors"
    earlier = read_model(first).model_id
    base = preset("tiny")
    config = dataclasses.replace(base, training=dataclasses.replace(base.training, steps=2, warmup_steps=1))
    train(config, [runs / "drive"], tmp_path / "third", start=first)
    weights = tmp_path / "third" / "weights.safetensors"
    (tmp_path / "results.json").write_text(json.dumps({"model_id": read_model(weights).model_id, "data_sets": {}}))
    given = Sources(weights, [tmp_path / "third"], tmp_path / "results.json", runs / "notes.yaml")
    with pytest.raises(ValueError, match=f"expected under `earlier` the card of {earlier}, which third started from"):
        model_card(given)
    (tmp_path / "notes.yaml").write_text(yaml.safe_dump({**NOTES, "earlier": {earlier: "earlier/first.md"}}))
    text = model_card(given._replace(notes=tmp_path / "notes.yaml"))
    assert f"1. `third`: 2 steps of 1 scan, from [`{earlier}`](earlier/first.md), whose card says" in text
    assert f"--start {earlier}.safetensors --data drive" in text


@pytest.mark.parametrize(("notes", "said"), [
    ({**NOTES, "data": {"simulated": NOTES["data"]["simulated"]}}, "expected what, sensor, terms of the data drive"),  # type: ignore[index]
    ({key: value for key, value in NOTES.items() if key != "limits"}, "expected the key limits, got data, licence"),
    ([], "expected keys and values, got list")])
def test_what_the_notes_must_say(runs: Path, tmp_path: Path, notes: Any, said: str) -> None:
    (tmp_path / "notes.yaml").write_text(yaml.safe_dump(notes))
    with pytest.raises(ValueError, match=said):
        model_card(sources(runs, notes=tmp_path / "notes.yaml"))


def test_files_that_do_not_belong_together_are_refused(runs: Path) -> None:
    with pytest.raises(ValueError, match="expected results of mini-"):
        model_card(sources(runs)._replace(weights=PACKAGED_WEIGHTS))
    with pytest.raises(ValueError, match="first: expected the finished run that wrote"):
        model_card(sources(runs)._replace(runs=[runs / "second", runs / "first"]))


def test_a_run_is_not_resumed_with_other_data(runs: Path, tmp_path: Path) -> None:
    base = preset("tiny")
    config = dataclasses.replace(base, training=dataclasses.replace(base.training, steps=4, warmup_steps=1))
    out = tmp_path / "run"

    class StoppedError(Exception):
        """As a kill would."""

    from lightning.pytorch.callbacks import Callback

    from copilot4d_core.training.training_log import TrainingLog

    class StopAtTwo(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *unused: Any) -> None:
            if module.steps_done == 2:
                from copilot4d_core.training.checkpoint import save_checkpoint

                save_checkpoint(out / "checkpoint.safetensors", module)
                logs.extend(callback.file for callback in trainer.callbacks if isinstance(callback, TrainingLog))
                raise StoppedError

    logs: list[Any] = []
    with pytest.raises(StoppedError):
        train(config, [runs / "drive"], out, callbacks=[StopAtTwo()])
    assert [file.closed for file in logs] == [True]
    with pytest.raises(ValueError, match=r"started with other data \(data: .*; simulated: None there, .*name the same --data"):
        train(config, [runs / "drive"], out, resume=True, simulate=50)
    train(config, [runs / "drive"], out, resume=True)
    assert json.loads((out / "run.json").read_text())["steps"] == 4


def test_the_packaged_card_and_the_node_warn_at_the_same_surprise() -> None:
    notes = yaml.safe_load((PACKAGED_WEIGHTS.parent / "card_notes.yaml").read_text())
    (spec,) = (spec for spec in specs(TokenizerParameters) if spec.name == "surprise_warn_m")
    assert notes["surprise_warn_m"] == spec.default
    assert f"above {spec.default:g} m" in (PACKAGED_WEIGHTS.parent / "MODEL_CARD.md").read_text()
