# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Everything a run needs to go on, in one safetensors file written whole or not at all.

Unusual: no pickle. Optimiser moments are stored by parameter name, random states as tensors, the rest in the header.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copilot4d_core.code_table import codebook_shapes
from copilot4d_core.config import Config
from copilot4d_core.config_file import dict_from_config
from copilot4d_core.model_file import read_tensors, stored_config, write_tensors
from copilot4d_core.training.training_module import TrainingModule

MODEL_SECTIONS = ("grid", "voxel_encoder", "bev_pooling", "swin", "quantizer", "feature_grid")
"""Settings that fix the shapes and the meaning of the tensors."""


def save_checkpoint(path: Path, module: TrainingModule) -> None:
    """Write model, optimiser, random states, step and counters of skipped batches."""
    tensors: dict[str, Tensor] = {f"model.{name}": value.detach() for name, value in module.tokenizer.state_dict().items()}
    for name, parameter in module.tokenizer.named_parameters():
        for key, value in module.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    tensors["random.quantizer"] = module.tokenizer.quantizer.generator.get_state()
    tensors["random.torch"] = torch.get_rng_state()
    bad = module.bad_batches
    write_tensors(path, {name: value.numpy() for name, value in tensors.items()}, module.config, step=module.steps_done,
                  precision=_precision(module), skipped=[bad.skipped, bad.in_a_row])


def load_checkpoint(path: Path, module: TrainingModule) -> None:
    """Restore what `save_checkpoint` wrote.

    Raises:
        ValueError: no checkpoint, or one written with other settings of the model or the schedule, or in another precision.
    """
    arrays, header = read_tensors(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if "random.torch" not in tensors:
        raise ValueError(f"{path}: expected a training checkpoint, got a weights file; a run resumes from its own checkpoint")
    _refuse_other_settings(path, module.config, dict_from_config(stored_config(path, header)))
    if (there := header.get("precision", "fp32")) != _precision(module):  # older checkpoints do not say, and are fp32
        raise ValueError(f"{path}: the run was started with --precision {there}, got {_precision(module)}; use its precision or another --out")
    module.tokenizer.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    for name, parameter in module.tokenizer.named_parameters():
        keys = ("step", "exp_avg", "exp_avg_sq", "momentum")
        state = {key: tensors[f"optimizer.{key}.{name}"] for key in keys if f"optimizer.{key}.{name}" in tensors}
        if state:
            module.optimizer.state[parameter] = state
    module.tokenizer.quantizer.generator.set_state(tensors["random.quantizer"])
    torch.set_rng_state(tensors["random.torch"])
    module.steps_done = int(header["step"])
    module.bad_batches.skipped, module.bad_batches.in_a_row = header.get("skipped", (0, 0))


def _precision(module: TrainingModule) -> str:
    return "bf16" if module.tokenizer.trunks_in_bf16 else "fp32"


def start_from(path: Path, module: TrainingModule) -> None:
    """Take over the model of a weights file or checkpoint for a run with a schedule of its own.

    A stage may have more blocks than there: the new ones, its last, begin as the identity (their two outputs, which are added to the
    map, as zeros), so that the run begins with the very model it starts from.

    Raises:
        ValueError: no such file, or a model with other settings or with more blocks.
    """
    arrays, header = read_tensors(path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    mine, theirs = dict_from_config(module.config), dict_from_config(stored_config(path, header))
    for tree in (mine, theirs):
        for key in ("blank_token", "bank_occupied_share"):  # they change no tensor: a run may start from a model with others
            del tree["quantizer"][key]
    grown = _take_over_depths(path, mine["swin"], theirs["swin"])
    different = [section for section in MODEL_SECTIONS if theirs[section] != mine[section]]
    if different:
        raise ValueError(f"{path}: expected a model with the settings of this run, the sections {', '.join(different)} differ")
    state = {name.removeprefix("model."): value for name, value in tensors.items() if not name.startswith(("optimizer.", "random."))}
    for name in codebook_shapes(module.config.quantizer):
        state.setdefault(name.replace("codebook", "code_sum"), state[name].clone())  # fits the cluster sizes of 1 of a new quantiser
    for name, parameter in module.tokenizer.named_parameters():
        if name.startswith(grown) and name.rpartition(".")[0].endswith(("projection", "mlp.2")):
            state[name] = torch.zeros_like(parameter)
    module.tokenizer.load_state_dict(state, strict=False)


def _take_over_depths(path: Path, mine: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    """Prefixes of the blocks that this run's model has and the other has not; `theirs` then has this run's depths."""
    grown = []
    for key in ("encoder_depths", "decoder_depths"):
        stages = ("stage1", "stage2") if key == "encoder_depths" else ("stage2", "stage1")
        if any(here < there for here, there in zip(mine[key], theirs[key], strict=True)):
            raise ValueError(f"{path}: expected a model with at most the blocks of this run, swin.{key} are {theirs[key]} there, {mine[key]} here; "
                             f"set swin.{key} to no less")
        grown += [f"{key.partition('_')[0]}.{stage}.{block}." for stage, there, here in zip(stages, theirs[key], mine[key], strict=True)
                  for block in range(there, here)]
        theirs[key] = mine[key]
    return tuple(grown)


def _refuse_other_settings(path: Path, config: Config, stored: dict[str, Any]) -> None:
    wanted = dict_from_config(config)
    different = [f"{section}.{key}: {stored[section][key]} there, {value} here" for section, values in wanted.items()
                 if isinstance(values, dict) for key, value in values.items() if stored[section][key] != value]
    if different:
        raise ValueError(f"{path}: the run was started with other settings ({'; '.join(different[:3])}); use its settings or another --out")
