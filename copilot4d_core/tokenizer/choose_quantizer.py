# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Which quantiser the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from copilot4d_core.config import Config, QuantizerConfig, QuantizerKind
from copilot4d_core.tokenizer.cosine_quantizer import CosineQuantizer
from copilot4d_core.tokenizer.finite_scalar_quantizer import FiniteScalarQuantizer
from copilot4d_core.tokenizer.quantizer import Quantizer
from copilot4d_core.tokenizer.residual_quantizer import ResidualQuantizer
from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer

QUANTIZERS: dict[QuantizerKind, Callable[[QuantizerConfig, int, int], Quantizer]] = {
    QuantizerKind.VQ: VectorQuantizer, QuantizerKind.COSINE: CosineQuantizer, QuantizerKind.FSQ: FiniteScalarQuantizer,
    QuantizerKind.RESIDUAL: ResidualQuantizer}


def choose_quantizer(config: Config) -> Quantizer:
    """Quantiser of a tokenizer with these settings."""
    return QUANTIZERS[config.quantizer.kind](config.quantizer, config.training.codebook_start_step, config.training.seed)
