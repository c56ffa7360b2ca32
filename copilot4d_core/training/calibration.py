# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The skip mask's threshold, chosen at the end of a run.

The paper gives no threshold. A missing cell costs a surface and a superfluous one only samples, so the threshold is
the largest that still keeps a stated share of the occupied cells of training scans.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from copilot4d_core.config import Config
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.training.examples import Example


@torch.no_grad()
def skip_threshold(tokenizer: Tokenizer, examples: list[Example], recall: float) -> float:
    """Probability above which a share of the occupied pooled cells lies.

    Args:
        tokenizer: in evaluation mode.
        examples: scans to look at.
        recall: share of the occupied cells that the mask must keep, 0 to 1.
    Raises:
        ValueError: no example, or a recall that is no share.
    """
    if not examples or not 0 < recall < 1:
        raise ValueError(f"calibration: expected examples and a recall between 0 and 1, got {len(examples)} and {recall}")
    logits = []
    for example in examples:
        decoded = tokenizer.decode(tokenizer.look_up(tokenizer.tokenize(example.points_m)))
        pooled = tokenizer.spatial_skip.pooled_logits(decoded.skip_logit_HWPPZ).numpy()
        logits.append(pooled[tokenizer.grid.pool_mask(example.occupancy_YXZ)])
    return float(1 / (1 + np.exp(-np.quantile(np.concatenate(logits), 1 - recall))))


def with_threshold(config: Config, threshold: float) -> Config:
    """The settings with another threshold of the skip mask."""
    return dataclasses.replace(config, spatial_skip=dataclasses.replace(config.spatial_skip, threshold=threshold))
