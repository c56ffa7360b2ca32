# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The preset `tiny` with each kind of quantiser."""

from __future__ import annotations

import dataclasses

from copilot4d_core.config import Config, QuantizerConfig, QuantizerKind, preset

KINDS = {
    "vq": QuantizerConfig(codebook_size=64, codebook_dim=8),
    "blank token": QuantizerConfig(codebook_size=64, codebook_dim=8, blank_token=True),
    "cosine": QuantizerConfig(kind=QuantizerKind.COSINE, codebook_size=64, codebook_dim=8),
    "fsq": QuantizerConfig(kind=QuantizerKind.FSQ, levels=(8, 5, 5, 5), codebook_size=1000, codebook_dim=4),
    "residual": QuantizerConfig(kind=QuantizerKind.RESIDUAL, levels=(16, 8), codebook_size=128, codebook_dim=8),
}


def tiny_with(kind: str) -> Config:
    """Its settings."""
    return dataclasses.replace(preset("tiny"), quantizer=KINDS[kind])
