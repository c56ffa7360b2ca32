# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A tiny untrained model, for tests that need a real runner but no trained weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tiny_kinds import tiny_with

from copilot4d_core.model_file import Model, random_model, write_tensors


def half_filled_model(kind: str = "vq", sparse_dim: int | None = None) -> Model:
    """Weights whose rays meet something everywhere: half-filled space that the skip mask does not leave out.

    Args:
        sparse_dim: channels of voxels and pillars; 16 have the kernels of a CPU, those of `tiny` have not.
    """
    config = tiny_with(kind)
    if sparse_dim is not None:
        config = dataclasses.replace(config, voxel_encoder=dataclasses.replace(config.voxel_encoder, dim=sparse_dim),
                                     bev_pooling=dataclasses.replace(config.bev_pooling, dim=sparse_dim))
    model = random_model(config)
    model.tensors["feature_grid.mlp.2.bias"][:] = 0.5
    for part in ("weight", "bias"):
        model.tensors[f"spatial_skip.linear.{part}"][:] = 0.0  # Probability one half everywhere, above the threshold.
    return model


def write_tiny_weights(path: Path, kind: str = "vq", sparse_dim: int | None = None) -> Path:
    """The same as a file."""
    model = half_filled_model(kind, sparse_dim)
    write_tensors(path, model.tensors, model.config)
    return path
