# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Training: examples, schedule, checkpoints, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from older_weights import write_older_weights
from safetensors.torch import load_file
from tiny_kinds import KINDS

from copilot4d_core.cli import main
from copilot4d_core.config import Config, preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.rays import Rays
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sensor_file import sensor_file
from copilot4d_core.data.sensor_fit import fit_sensor
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.torch_runner import torch_runner
from copilot4d_core.grid import Grid
from copilot4d_core.model_file import read_tensors
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import load_weights
from copilot4d_core.training.calibration import skip_threshold, with_threshold
from copilot4d_core.training.checkpoint import start_from
from copilot4d_core.training.examples import Example, Examples
from copilot4d_core.training.optimizer import parameter_groups
from copilot4d_core.training.run_data import RunData, Simulated, example_loader
from copilot4d_core.training.train import train
from copilot4d_core.training.training_module import TrainingModule, learning_rate_factor


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drive") / "bag"
    write_cloud_bag(path, "/points", simulate_drive(3, 4, "vlp16"))
    return path


def settings(steps: int) -> Config:
    config = preset("tiny")
    return dataclasses.replace(config, training=dataclasses.replace(config.training, steps=steps, codebook_start_step=3))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    assert learning_rate_factor(0, 10, 110) == pytest.approx(0.1)
    assert learning_rate_factor(9, 10, 110) == pytest.approx(1.0)
    assert learning_rate_factor(60, 10, 110) == pytest.approx(0.5)
    assert learning_rate_factor(110, 10, 110) == pytest.approx(0.0)


def test_only_matrices_decay() -> None:
    model = Tokenizer(preset("tiny"))
    decayed, free = (set(map(id, group["params"])) for group in parameter_groups(model, 1e-4))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed | free == set(names) and not decayed & free
    assert {names[i] for i in free if names[i].startswith("bev_pooling")} == {
        "bev_pooling.z_embedding.weight", "bev_pooling.mlp.0.bias", "bev_pooling.mlp.1.weight", "bev_pooling.mlp.1.bias",
        "bev_pooling.mlp.3.bias", "bev_pooling.norm.weight", "bev_pooling.norm.bias"}
    assert "patch_embedding.weight" in {names[i] for i in decayed}


def test_example_depends_on_the_seed_and_its_number_alone(drive: Path) -> None:
    one, other = (Examples(settings(20), [drive], None) for _ in range(2))
    assert one[3].name.startswith("bag: /points#")
    for mine, theirs in zip(one[7], other[7], strict=True):
        assert np.array_equal(mine, theirs)
    assert not np.array_equal(one[7].direction_R3, one[8].direction_R3)


def test_beams_of_the_given_sensor_teach_where_nothing_is(drive: Path) -> None:
    # Beams of the simulator's own VLP-16, which lie 2 degrees apart; the examples turn, mirror and scale them, which leaves elevations.
    sensor = fit_sensor(list(simulate_drive(3, 4, "vlp16")), "VLP-16").pattern
    examples = Examples(settings(20), [drive], None, sensor=sensor)
    inside = Grid(settings(20)).inside
    seen = 0
    for number in range(5):
        example = examples[number]
        sky = example.direction_R3[~example.returned_R & inside(example.origin_R3)]
        sky = sky[sky[:, 2] > 0]
        off_deg = np.abs(np.rad2deg(np.arcsin(sky[:, 2]))[:, None] - np.array(sensor.elevations_deg)).min(axis=1)
        seen += int(np.count_nonzero(off_deg < 0.01))
    assert seen > 100


def test_the_simulated_share_keeps_finding_its_own_beams(drive: Path) -> None:
    sensor = sensor_file("vlp16")
    assert Examples(settings(20), [drive], None, drive, 0.5, sensor=sensor).sensors == [sensor, None]


def test_the_simulator_takes_the_sensors_that_are_named(drive: Path, tmp_path: Path) -> None:
    data = RunData(settings(20), [drive], None, tmp_path / "run", Simulated(50, ("vlp16",)), 0)
    data.prepare_data()
    scans = open_scans(tmp_path / "run" / "simulated")
    highest = [np.degrees(np.arctan2(scan.points_m[:, 2], np.hypot(*scan.points_m[:, :2].T))).max() for scan in scans]
    assert len(highest) == 96
    assert 14 < np.median(highest) < 16, "the VLP-16 looks 15 degrees up, an HDL-64E 2, an HDL-32E 11"


@pytest.mark.parametrize(("simulated", "said"), [
    (Simulated(50, ("vlp17", "hdl64")), "expected some of hdl64, hdl32, vlp16, os1_64, got vlp17"),
    (Simulated(0, ("vlp16",)), "expected a share of simulated scans beside it, got none; pass --simulate PERCENT")])
def test_wrong_simulated_sensors_are_refused(drive: Path, tmp_path: Path, simulated: Simulated, said: str) -> None:
    with pytest.raises(ValueError, match="--simulate-sensors: " + said):
        RunData(settings(20), [drive], None, tmp_path / "run", simulated, 0)


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_examples_of_one_process(drive: Path, workers: int) -> None:
    examples = Examples(settings(6), [drive], None)
    examples.sources[0][0]  # open in this process, as for the pictures of a run
    batches = [[2 * number, 2 * number + 1] for number in range(len(examples) // 2)]
    made = [example for batch in example_loader(examples, batches, workers) for example in batch]
    assert len(made) == len(examples) == 6 * settings(6).training.batch_scans
    for number, theirs in enumerate(made):
        assert all(np.array_equal(one, other) for one, other in zip(Examples(settings(6), [drive], None)[number], theirs, strict=True))


class Named(list[Scan]):
    """Scans in memory."""

    name = "named"


def test_rays_of_two_sensors_move_with_them(drive: Path) -> None:
    examples = Examples(settings(20), [drive], None)
    scan = examples.sources[0][0]
    apart_m = np.array([[0, 0, 0], [0.5, 0.25, -0.5]], dtype=np.float32)
    examples.sources = [Named([scan._replace(origins_m=apart_m, sensor=(np.arange(len(scan.points_m)) % 2).astype(np.uint8))])]  # type: ignore[list-item]
    for number in range(4):
        example = examples.example(number, thin=False)
        origins, counts = np.unique(example.origin_R3, axis=0, return_counts=True)
        # Turned, mirrored and shifted, they stay as far apart as they are, but for the scale of 0.95 to 1.05; each saw half of the points.
        assert len(origins) == 2 and counts.min() > 0.3 * counts.sum()
        assert 0.95 * 0.75 < np.linalg.norm(origins[1] - origins[0]) < 1.05 * 0.75
        end = (example.origin_R3 + example.depth_R[:, None] * example.direction_R3)[example.returned_R]
        inside = examples.grid.inside(end)
        row, column, layer = examples.grid.voxel_index(end[inside]).T
        assert inside.mean() > 0.999 and example.occupancy_YXZ[row, column, layer].mean() > 0.999


def test_own_bags_are_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`copilot4d train --data my.mcap --topic /points`, and what happens when bags have other topics."""
    for seed, (name, topic) in enumerate((("my", "/points"), ("other", "/lidar_top"))):
        write_cloud_bag(tmp_path / name, topic, simulate_drive(seed, 3, "vlp16"))
        (tmp_path / name / f"{name}.mcap").rename(tmp_path / f"{name}.mcap")
    monkeypatch.chdir(tmp_path)
    few = ["--preset", "tiny", "--steps", "2"]
    assert main(["train", "--data", "my.mcap", "--topic", "/points", *few]) == 0
    assert load_weights(Path("runs/my/weights.safetensors")).config.name == "tiny"
    assert main(["train", "--data", "my.mcap", "other.mcap", "--workers", "2", "--out", "both", *few]) == 0
    capsys.readouterr()
    # A topic that is named must be in every bag.
    assert main(["train", "--data", "my.mcap", "other.mcap", "--topic", "/points", "--out", "none", *few]) == 2
    message = capsys.readouterr().err
    assert "other.mcap" in message and "/lidar_top" in message and "'/points'" in message and not Path("none/checkpoint.safetensors").exists()
    assert main(["train", "--data", "my.mcap", "--workers", "0", "--out", "none", *few]) == 2
    assert "--workers: expected at least 1, got 0" in capsys.readouterr().err


def test_argoverse_examples_come_from_both_sensors(lidar_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Argoverse 2 needs pyarrow: pip install '.[data]'")
    from argoverse_log import real_log

    real_log(lidar_data, tmp_path / "train" / "log")
    examples = Examples(settings(2), [tmp_path / "train"], None)
    examples.sources[0][0]  # open in this process, as for the pictures of a run
    made = [example for batch in example_loader(examples, [[number] for number in range(len(examples))], 2) for example in batch]
    assert len(made) == len(examples)
    for example in made:
        origins = np.unique(example.origin_R3[example.returned_R], axis=0)
        # The file says (1.35018, 0, 1.64042) and (1.34676, 0.00457, 1.52550): 0.115 m apart, scaled by 0.95 to 1.05.
        assert len(origins) == 2 and 0.95 * 0.115 < np.linalg.norm(origins[1] - origins[0]) < 1.05 * 0.1151


def test_shares_of_examples_that_are_thinned_or_mounted_otherwise_are_settings(drive: Path) -> None:
    def some(thinned: float, mounted: float) -> list[Example]:
        config = settings(20)
        training = dataclasses.replace(config.training, thinned_share=thinned, other_mount_share=mounted)
        examples = Examples(dataclasses.replace(config, training=training), [drive], None)
        return [examples[number] for number in range(20)]

    def thinned(examples: list[Example]) -> int:
        """Examples whose input lacks some of the voxels that the scan holds."""
        grid = Grid(settings(20))
        return sum(grid.occupancy(example.points_m).sum() < example.occupancy_YXZ.sum() for example in examples)

    never, always = some(0.0, 0.0), some(1.0, 1.0)
    assert thinned(never) == 0 and thinned(always) == 20
    heights_m = [np.array([example.origin_R3[0, 2] for example in examples]) for examples in (never, always)]
    spread_m = [np.ptp(of) for of in heights_m]
    assert spread_m[0] < 2 * 0.3 + 0.5 < spread_m[1] <= 2 * 1.7 + 0.5
    for name in ("thinned_share", "other_mount_share", "turned_share"):
        with pytest.raises(ValueError, match=f"training.{name}: expected 0 to 1, got 1.5"):
            dataclasses.replace(settings(20).training, **{name: 1.5})


@pytest.mark.parametrize(("turned_share", "least", "most"), [(0.0, 0, 0), (0.5, 10, 28), (1.0, 32, 40)])
def test_an_example_is_turned_by_any_angle_or_by_few_degrees(turned_share: float, least: int, most: int, tmp_path: Path) -> None:
    """A row of points ahead of the sensor, which so many of 40 examples show more than 10 degrees to a side."""
    np.array([[distance_m, 0, 0, 1] for distance_m in np.arange(1.0, 4.0, 0.25)], dtype="<f4").tofile(tmp_path / "row.bin")
    config = settings(40)
    training = dataclasses.replace(config.training, turned_share=turned_share, other_mount_share=0.0, thinned_share=0.0)
    examples = Examples(dataclasses.replace(config, training=training), [tmp_path / "row.bin"], None)
    angles = []
    for number in range(40):
        ends_m = (example := examples[number]).origin_R3 + example.depth_R[:, None] * example.direction_R3
        along = ends_m[example.depth_R.argmax()] - ends_m[np.where(example.returned_R, example.depth_R, np.inf).argmin()]
        angles.append(abs(np.degrees(np.arctan2(along[1], along[0]))))
    assert least <= (np.array(angles) > 10.001).sum() <= most
    assert len({round(angle, 3) for angle in angles}) > 30


def test_rays_of_an_example_end_in_occupied_voxels(drive: Path) -> None:
    examples = Examples(settings(20), [drive], None)
    example = examples[0]
    end = (example.origin_R3 + example.depth_R[:, None] * example.direction_R3)[example.returned_R]
    grid = examples.grid
    inside = grid.inside(end)
    # Rounding may push an end over a face of its voxel, hardly ever.
    assert inside.mean() > 0.999
    row, column, layer = grid.voxel_index(end[inside]).T
    assert example.occupancy_YXZ[row, column, layer].mean() > 0.999
    assert 0 < (~example.returned_R).sum() <= examples.config.training.empty_rays_per_scan


@pytest.mark.parametrize("kind", ["cosine", "fsq", "residual"])
def test_a_run_with_another_quantiser_resumes_bit_for_bit(kind: str, drive: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(settings(6), quantizer=KINDS[kind])
    train(config, [drive], tmp_path / "whole")
    stop_after(4, lambda: train(config, [drive], tmp_path / "parts"))
    train(config, [drive], tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys() and not [name for name in whole if not torch.equal(whole[name], parts[name])]
    module = TrainingModule(config)
    start_from(tmp_path / "whole" / "weights.safetensors", module)
    assert torch.equal(module.tokenizer.state_dict()["pre_quantizer.2.weight"], whole["model.pre_quantizer.2.weight"])


def test_without_the_spatial_skip_rays_are_sampled_everywhere(drive: Path, tmp_path: Path) -> None:
    skip = dataclasses.replace(settings(2).spatial_skip, enabled=False)
    config = dataclasses.replace(settings(2), spatial_skip=skip, rendering=dataclasses.replace(settings(2).rendering, max_samples=144))
    example = Examples(config, [drive], None)[0]
    module = TrainingModule(config)
    occupied = module.tokenizer.grid.pool_mask(example.occupancy_YXZ)
    with torch.no_grad():
        decoded = module.tokenizer.decode(module.tokenizer.look_up(module.tokenizer.eval().tokenize(example.points_m)))
        assert not occupied.all() and module._rendered_mask(occupied, decoded).all() and module.tokenizer.predicted_mask(decoded).all()
    train(config, [drive], tmp_path / "run")
    with torch_runner(tmp_path / "run" / "weights.safetensors") as runner:
        assert runner.config == config, "there is no threshold to choose"
        tokens, rays = runner.encode(example.points_m), Rays(example.origin_R3, example.direction_R3)
        everywhere = runner.decode_with_mask(tokens, rays, np.ones_like(occupied))
        np.testing.assert_array_equal(runner.decode(tokens, rays).opacity, everywhere.opacity)
        assert (everywhere.opacity > runner.decode_with_mask(tokens, rays, occupied).opacity).any()


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(drive: Path, tmp_path: Path) -> None:
    train(settings(8), [drive], tmp_path / "whole")
    # A run that ends early: the same settings, stopped after four steps.
    stop_after(4, lambda: train(settings(8), [drive], tmp_path / "parts"))
    train(settings(8), [drive], tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys() and len(whole) > 100
    assert not [name for name in whole if not torch.equal(whole[name], parts[name])]
    # The calibrated threshold, too, must not depend on where the run was interrupted.
    assert load_weights(tmp_path / "whole" / "weights.safetensors").config == load_weights(tmp_path / "parts" / "weights.safetensors").config
    with pytest.raises(ValueError, match="all of its 8 steps are done"):
        train(settings(8), [drive], tmp_path / "parts", resume=True)
    trained = load_weights(tmp_path / "parts" / "weights.safetensors").config
    assert with_threshold(trained, settings(8).spatial_skip.threshold) == settings(8)


def stop_after(steps: int, run: object) -> None:
    """Run a training whose trainer stops after a number of steps, as `--steps` cannot: the schedule must stay the same."""

    class Short(lightning.Trainer):
        def __init__(self, **arguments: object) -> None:
            super().__init__(**{**arguments, "max_steps": steps})  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("copilot4d_core.training.train.lightning.Trainer", Short)
        run()  # type: ignore[operator]


def test_a_folder_that_holds_a_run_is_refused_without_resume(drive: Path, tmp_path: Path) -> None:
    train(settings(1), [drive], tmp_path / "run")
    with pytest.raises(ValueError, match="it holds a run; pass --resume"):
        train(settings(1), [drive], tmp_path / "run")
    with pytest.raises(ValueError, match=r"other settings \(training.steps: 1 there, 2 here\)"):
        train(settings(2), [drive], tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="expected a training checkpoint, got a weights file"):
        (tmp_path / "run" / "weights.safetensors").replace(tmp_path / "run" / "checkpoint.safetensors")
        train(settings(1), [drive], tmp_path / "run", resume=True)


def test_a_run_starts_from_the_model_of_another(drive: Path, tmp_path: Path) -> None:
    train(settings(1), [drive], tmp_path / "first")
    first = load_file(tmp_path / "first" / "checkpoint.safetensors")
    for name in ("checkpoint", "weights"):
        module = TrainingModule(settings(5))
        start_from(tmp_path / "first" / f"{name}.safetensors", module)
        state = module.tokenizer.state_dict()
        assert torch.equal(state["encoder.merge.weight"], first["model.encoder.merge.weight"])
        assert torch.equal(state["quantizer.code_sum"], state["quantizer.codebook"] * state["quantizer.cluster_size"][:, None])
    other = dataclasses.replace(settings(1), quantizer=dataclasses.replace(settings(1).quantizer, decay=0.5))
    with pytest.raises(ValueError, match="sections quantizer differ"):
        start_from(tmp_path / "first" / "weights.safetensors", TrainingModule(other))


def with_depths(config: Config, encoder: tuple[int, int], decoder: tuple[int, int]) -> Config:
    return dataclasses.replace(config, swin=dataclasses.replace(config.swin, encoder_depths=encoder, decoder_depths=decoder))


def test_a_run_may_have_more_blocks_than_the_model_it_starts_from_and_begins_with_the_same_function(drive: Path, tmp_path: Path) -> None:
    train(settings(2), [drive], tmp_path / "first")
    path = tmp_path / "first" / "checkpoint.safetensors"
    same = TrainingModule(settings(1))
    start_from(path, same)
    larger = TrainingModule(with_depths(settings(1), (3, 4), (4, 3)))
    start_from(path, larger)
    points_m = open_scans(drive)[0].points_m
    expected, found = (module.tokenizer.eval() for module in (same, larger))
    with torch.no_grad():
        tokens = [model.tokenize(points_m) for model in (expected, found)]
        features = [model.decode(model.look_up(token_HW)).feature_HWC for model, token_HW in zip((expected, found), tokens, strict=True)]
    assert torch.equal(*tokens) and torch.equal(*features)
    grown = with_depths(settings(1), (2, 2), (2, 4))
    train(grown, [drive], tmp_path / "grown", start=path)
    moved = load_file(tmp_path / "grown" / "weights.safetensors")["decoder.stage1.3.mlp.2.weight"]
    assert moved.any()  # what begins as zeros learns
    with pytest.raises(ValueError, match=r"swin.decoder_depths are \[2, 4\] there, \[2, 2\] here; set swin.decoder_depths to no less"):
        start_from(tmp_path / "grown" / "weights.safetensors", TrainingModule(settings(1)))


class Killed(lightning.Callback):
    """Ends a run before its first step, when its first checkpoint is written."""

    def on_train_batch_start(self, *unused: object) -> None:
        raise SystemExit(1)


def test_a_run_that_starts_from_a_model_is_resumed_by_the_same_command(drive: Path, tmp_path: Path) -> None:
    """As a cluster does that starts an interrupted job again."""
    train(settings(1), [drive], tmp_path / "first")
    first, other, out = tmp_path / "first" / "weights.safetensors", tmp_path / "first" / "checkpoint.safetensors", tmp_path / "second"
    told = r"started from file weights.safetensors model_id \S+, not from file checkpoint.safetensors run first step 1"
    with pytest.raises(SystemExit):
        train(settings(3), [drive], out, resume=True, start=first, callbacks=[Killed()])
    with pytest.raises(ValueError, match=told):
        train(settings(3), [drive], out, resume=True, start=other)
    stop_after(1, lambda: train(settings(3), [drive], out, resume=True, start=first))
    with pytest.raises(ValueError, match=told):
        train(settings(3), [drive], out, resume=True, start=other)
    train(settings(3), [drive], out, resume=True, start=first)
    train(settings(3), [drive], tmp_path / "whole", start=first)
    assert (out / "losses.csv").read_text() == (tmp_path / "whole" / "losses.csv").read_text()


def test_a_run_starts_from_weights_that_are_older_than_some_settings(tmp_path: Path) -> None:
    older = tmp_path / "older.safetensors"
    write_older_weights(older, PACKAGED_WEIGHTS)
    assert "kind" not in read_tensors(older)[1]["config"]["quantizer"]
    module = TrainingModule(preset("mini"))
    start_from(older, module)
    assert torch.equal(module.tokenizer.quantizer.state_dict()["codebook"], load_file(PACKAGED_WEIGHTS)["quantizer.codebook"])
    other = dataclasses.replace(preset("mini"), quantizer=dataclasses.replace(preset("mini").quantizer, kmeans_bank=False))
    with pytest.raises(ValueError, match="sections quantizer differ"):
        start_from(older, TrainingModule(other))


def test_threshold_keeps_the_share_of_occupied_cells(drive: Path) -> None:
    torch.manual_seed(0)
    model = Tokenizer(settings(1)).eval()
    with torch.no_grad():
        model.spatial_skip.linear.weight.mul_(20)
    example = Examples(settings(1), [drive], None)[0]
    model.config = with_threshold(settings(1), skip_threshold(model, [example], 0.9))
    with torch.no_grad():
        mask = model.predicted_mask(model.decode(model.look_up(model.tokenize(example.points_m))))
    occupied = model.grid.pool_mask(example.occupancy_YXZ)
    assert mask[occupied].mean() == pytest.approx(0.9, abs=0.01)
    with pytest.raises(ValueError, match="between 0 and 1, got 1 and 1.5"):
        skip_threshold(model, [example], 1.5)


def test_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one file, folder or bag"):
        train(settings(1), [], tmp_path / "run")
