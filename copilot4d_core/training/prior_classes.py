# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Divides the codes of a codebook into classes that occur in the same places.

What goes in: token grids. What comes out: the codes class by class, and the size of each class.
Unusual: what a code means is read from its neighbours only, so that no codebook is needed and any runner's tokens will do.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

from copilot4d_core.deploy.prior_file import Int64
from copilot4d_core.deploy.runner import TokenArray

CLASSES, DIMENSIONS = 32, 24


def divide(tokens: TokenArray, codebook_size: int, seed: int) -> tuple[Int64, Int64]:
    """K-Means over the codes' neighbours: log of how much oftener than by chance two codes are adjacent, its largest singular vectors.

    Args:
        tokens: (B, H, W).
    Returns:
        (S,) all codes, class by class; (C,) codes in each class, 1 at least.
    """
    pairs = np.zeros((codebook_size, codebook_size))
    for one, other in ((tokens[:, :, 1:], tokens[:, :, :-1]), (tokens[:, 1:], tokens[:, :-1])):
        index = one.reshape(-1).astype(np.int64) * codebook_size + other.reshape(-1)
        counts = np.bincount(index, minlength=codebook_size**2).reshape(codebook_size, codebook_size)
        pairs += counts + counts.T
    alone = pairs.sum(axis=1)
    affinity = np.log1p(pairs * pairs.sum() / (np.outer(alone, alone) + pairs.sum()))
    vectors, values, _ = np.linalg.svd(affinity)
    points = (vectors * np.sqrt(values))[:, :DIMENSIONS]
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
    different = len(np.unique(points.round(6), axis=0))  # all codes that never occur are one point
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class that lost all its codes is left out below
        _, found = kmeans2(points, min(CLASSES, different), minit="++", seed=seed, iter=30)
    _, classes = np.unique(found, return_inverse=True)
    return np.argsort(classes, kind="stable"), np.bincount(classes)
