"""Training: examples, schedule, checkpoints, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from copilot4d_core.config import Config, preset
from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import load_weights
from copilot4d_core.training.calibration import skip_threshold, with_threshold
from copilot4d_core.training.checkpoint import start_from
from copilot4d_core.training.examples import Examples
from copilot4d_core.training.train import train
from copilot4d_core.training.training_module import TrainingModule, learning_rate_factor, parameter_groups


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
    one, resumed = Examples(settings(20), [drive], None), Examples(settings(20), [drive], None, first=5)
    for mine, theirs in zip(one[7], resumed[2], strict=True):
        assert np.array_equal(mine, theirs)
    assert not np.array_equal(one[7].direction_R3, one[8].direction_R3)


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
    import lightning

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
    with pytest.raises(ValueError, match="got both"):
        train(settings(5), [drive], tmp_path / "first", resume=True, start=tmp_path / "first" / "weights.safetensors")


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
