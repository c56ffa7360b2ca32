# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The weights of the sparse stages in the form of their kernels, from a model's tensors or from an export's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.config import Config
from copilot4d_core.kernels import feature_readout, pillar_features, ray_march, skip_mask, voxelize
from copilot4d_core.kernels.feature_readout import ReadoutWeights
from copilot4d_core.kernels.pillar_features import PillarWeights

Tensors = Mapping[str, npt.NDArray[Any]]


class KernelWeights(NamedTuple):
    """Weights of both sparse stages."""

    pillars: PillarWeights
    readout: ReadoutWeights


def kernel_weights(tensors: Tensors) -> KernelWeights:
    """Weights of both sparse stages, from the tensors of a model."""
    return KernelWeights(pillar_weights(tensors), readout_weights(tensors))


def arrays_from(weights: KernelWeights) -> dict[str, npt.NDArray[Any]]:
    """Named arrays for a file."""
    return {f"{part}.{name}": np.asarray(value, dtype=np.float32).reshape(np.shape(value) or 1)
            for part, values in weights._asdict().items() for name, value in values._asdict().items()}


def kernel_weights_from(arrays: Tensors) -> KernelWeights:
    """What `arrays_from` made a file of."""
    pillars = PillarWeights(*(arrays[f"pillars.{name}"] for name in PillarWeights._fields))
    matrix, bias, output, output_bias = (arrays[f"readout.{name}"] for name in ReadoutWeights._fields)
    return KernelWeights(pillars, ReadoutWeights(matrix, bias, output, float(output_bias[0])))


def inference_kernels(config: Config) -> list[Any]:
    """Every kernel that a runner launches with these settings."""
    return [*voxelize.kernels(), *pillar_features.kernels(config), *skip_mask.kernels(), *feature_readout.kernels(config), *ray_march.kernels(config)]


def pillar_weights(tensors: Tensors) -> PillarWeights:
    """Weights of the sparse half of the encoder: PointNet, pillar pooling and patch embedding."""
    point, layer = "voxel_encoder.mlp", "bev_pooling.mlp"

    def rows(*names: str) -> npt.NDArray[Any]:
        return np.stack([tensors[name] for name in names])

    layer_in, point_dim = tensors[f"{layer}.0.weight"], len(tensors["voxel_encoder.norm.bias"])
    arrays = (
        tensors[f"{point}.0.weight"].T, rows(f"{point}.0.bias", f"{point}.1.weight", f"{point}.1.bias"),
        tensors[f"{point}.3.weight"].T, rows(f"{point}.3.bias", "voxel_encoder.norm.weight", "voxel_encoder.norm.bias"),
        layer_in[:, :point_dim].T, tensors["bev_pooling.z_embedding.weight"] @ layer_in[:, point_dim:].T + tensors[f"{layer}.0.bias"],
        rows(f"{layer}.1.weight", f"{layer}.1.bias"),
        tensors[f"{layer}.3.weight"].T, rows(f"{layer}.3.bias", "bev_pooling.norm.weight", "bev_pooling.norm.bias"),
        tensors["patch_embedding.weight"], tensors["patch_embedding.bias"])
    return PillarWeights(*(np.ascontiguousarray(array) for array in arrays))


def readout_weights(tensors: Tensors) -> ReadoutWeights:
    """Read-out of the feature grid with the linear first layer of the occupancy MLP folded in."""
    first = tensors["feature_grid.mlp.0.weight"]
    matrix = np.matmul(first, tensors["feature_grid.readout_weight"]).swapaxes(1, 2)
    bias = tensors["feature_grid.readout_bias"] @ first.T + tensors["feature_grid.mlp.0.bias"]
    return ReadoutWeights(np.ascontiguousarray(matrix), bias, tensors["feature_grid.mlp.2.weight"][0], float(tensors["feature_grid.mlp.2.bias"][0]))
