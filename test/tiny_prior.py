# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A small prior of random whole numbers, for tests that need one but no fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copilot4d_core.deploy.prior_file import PriorArrays, write_prior
from copilot4d_core.deploy.token_order import BINS, NEIGHBOURS, number_of_passes
from copilot4d_core.deploy.token_prior import TokenPrior, load_prior

MODEL_ID = "tiny-0123456789ab"


def tiny_prior_arrays(codes: int = 64, seed: int = 0) -> PriorArrays:
    """Classes of 1 to some codes, 3 numbers an embedding, 5 hidden units; contrasts of some octaves."""
    rng = np.random.default_rng(seed)
    dim, hidden, count = 3, 5, number_of_passes()
    sizes = np.array([1, 2, codes // 4, codes - 3 - codes // 4])

    def whole(dtype: type[np.signedinteger], low: int, high: int, *shape: int) -> np.ndarray:
        return rng.integers(low, high, shape).astype(dtype)

    return PriorArrays(
        rng.permutation(codes).astype(np.uint16), sizes.astype(np.uint16), whole(np.int8, -128, 128, codes + 1, dim),
        whole(np.int8, -128, 128, count - 1, NEIGHBOURS, dim, hidden), whole(np.int16, -9000, 30000, count, BINS * BINS, hidden),
        whole(np.int32, 1 << 14, 1 << 17, count, hidden), whole(np.int8, -128, 128, hidden, len(sizes)), whole(np.int32, -900, 900, len(sizes)),
        whole(np.int8, -128, 128, hidden, codes), whole(np.int32, -900, 900, codes), np.array([12345], dtype=np.int32))


def write_tiny_prior(path: Path, model_id: str = MODEL_ID, seed: int = 0) -> TokenPrior:
    """The same as a file, loaded."""
    write_prior(path, tiny_prior_arrays(seed=seed), model_id, {"made": "by hand"})
    return load_prior(path, model_id)
