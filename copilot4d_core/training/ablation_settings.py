# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The questions of `copilot4d ablate`: what each run changes, and why it is asked.

Unusual: the baseline is written out, so that the rows mean the same after a default has changed; the row `mini` is today's preset.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import yaml

from copilot4d_core.config import Config
from copilot4d_core.config_file import config_from_yaml

BASELINE: dict[str, dict[str, Any]] = {
    "quantizer": {"kind": "vq", "levels": [], "estimator": "straight_through", "codebook_size": 1024, "codebook_dim": 32, "update": "ema",
                  "kmeans_bank": True, "bank_occupied_share": 0.5, "blank_token": True},
    "rendering": {"step_m": 0.25},
    "spatial_skip": {"enabled": True, "pool_voxels": 4},
    "loss": {"concentration_eps_m": 0.4, "opacity_weight": 0.1, "likelihood_weight": 0.0},
    "training": {"seed": 0, "optimizer": "muon", "learning_rate": 2e-3, "rays_per_scan": 2048, "empty_rays_per_scan": 256},
}
PAPER: dict[str, Any] = {"update": "gradient", "codebook_dim": 1024, "bank_occupied_share": 0.0}
WARMUP_SHARE, CODEBOOK_START_SHARE = 0.1, 0.1
"""Of a run's steps: linear warm-up, and features that pass unquantised. Codes can die after 256 steps more: in 500 steps K-Means renews
them once, with 200 steps left to use them."""


class Setting(NamedTuple):
    """One run."""

    name: str
    changes: dict[str, dict[str, Any]]
    """Values that differ from `BASELINE`, by section."""
    why: str


def _likelihood(weight: float, step_m: float = 0.25) -> Setting:
    changes: dict[str, dict[str, Any]] = {"quantizer": {"codebook_dim": 128}, "loss": {"likelihood_weight": weight}}
    if step_m == BASELINE["rendering"]["step_m"]:
        return Setting(f"likelihood {weight:g}", changes, "128 channels, and the likelihood of the true surface as a term of the loss")
    return Setting(f"likelihood {weight:g}, {step_m:g} m", {**changes, "rendering": {"step_m": step_m}}, "the same with longer steps along a ray")


def _quantizer(name: str, why: str, **changes: Any) -> Setting:
    return Setting(name, {"quantizer": changes}, why)


_MINI: dict[str, dict[str, Any]] = {"quantizer": {"codebook_dim": 128}, "rendering": {"step_m": 0.35},
                                    "loss": {"opacity_weight": 0.3, "likelihood_weight": 1.5}}

SETTINGS = (
    Setting("baseline", {}, "1,024 codes of 32 channels, moving averages, K-Means bank half from occupied cells, skip, eps 0.4 m, opacity term"),
    Setting("seed 1", {"training": {"seed": 1}}, "the baseline with other random numbers: differences below this one's decide nothing"),
    Setting("adamw", {"training": {"optimizer": "adamw", "learning_rate": 1e-3}}, "the paper's optimiser and rate for all parameters"),
    _quantizer("fsq", "no codebook that could collapse; 1,000 tokens", kind="fsq", levels=[8, 5, 5, 5], codebook_size=1000, codebook_dim=4),
    _quantizer("cosine", "codes and latents of length 1", kind="cosine"),
    _quantizer("gradient", "the paper's codebook term in place of moving averages", update="gradient"),
    _quantizer("rotation", "the gradient turned and scaled with the code instead of passed straight through", estimator="rotation"),
    _quantizer("dim 1024", "the paper's codebook dimension", codebook_dim=1024),
    _quantizer("residual 32 x 32", "two levels at the baseline's rate", kind="residual", levels=[32, 32]),
    _quantizer("residual 256 x 128", "two levels, half as many bits again", kind="residual", levels=[256, 128], codebook_size=32768),
    _quantizer("no blank token", "cells without a point around them choose codes like all others", blank_token=False),
    _quantizer("no bank", "a codebook that K-Means neither starts nor renews", kmeans_bank=False),
    _quantizer("even bank", "the bank drawn from all cells alike, as in the paper; most cells are blank", bank_occupied_share=0.0),
    _quantizer("cosine, rotation", "both together", kind="cosine", estimator="rotation"),
    _quantizer("paper codebook", "gradient term, 1,024 channels and even bank together, as in the paper", **PAPER),
    Setting("seed 2", {"training": {"seed": 2}}, "the baseline once more"),
    Setting("no opacity term", {"loss": {"opacity_weight": 0.0}}, "equation 5 alone: nothing teaches a ray to meet nothing"),
    Setting("eps 1.0", {"loss": {"concentration_eps_m": 1.0}}, "a wider margin around the surface in the concentration term"),
    _quantizer("dim 256", "between 32 and the paper's", codebook_dim=256),
    _quantizer("dim 128", "between 32 and the paper's; takes no longer than 32", codebook_dim=128),
    _likelihood(0.1),
    _likelihood(0.5),
    _likelihood(1.5),
    _likelihood(0.5, 0.35),
    _likelihood(5.0, 0.35),
    _likelihood(15.0, 0.35),
    Setting("mini, coarse mask", _MINI, "all that won together, with mask cells as wide as a token; the opacity term grew with the likelihood"),
    Setting("mini", {**_MINI, "quantizer": {"codebook_dim": 128, "bank_occupied_share": 0.9}, "spatial_skip": {"pool_voxels": 2}},
            "today's preset: mask cells half as wide, and nine tenths of the bank from occupied cells"),
    Setting("no spatial skip", {"spatial_skip": {"enabled": False}, "rendering": {"max_samples": 600}},
            "rays sampled everywhere inside the region, in training and when judged"),
)
"""The most telling first."""


def settings_config(setting: Setting, preset: str, steps: int) -> Config:
    """Settings of a run.

    Raises:
        ValueError: unknown preset, or fewer than 10 steps.
    """
    if steps < 10:
        raise ValueError(f"--steps: expected at least 10, got {steps}")
    tree: dict[str, Any] = {"preset": preset}
    for part in (BASELINE, setting.changes):
        for section, values in part.items():
            tree[section] = {**tree.get(section, {}), **values}
    config = config_from_yaml(yaml.safe_dump(tree))
    training = dataclasses.replace(config.training, steps=steps, warmup_steps=round(WARMUP_SHARE * steps),
                                   codebook_start_step=round(CODEBOOK_START_SHARE * steps))
    return dataclasses.replace(config, training=training)
