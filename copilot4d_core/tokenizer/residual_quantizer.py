# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Two codes a cell: a coarse one, and a fine one for what the coarse one leaves; the pair is one token."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from copilot4d_core.config import Estimator, QuantizerConfig, QuantizerKind
from copilot4d_core.tokenizer.gradient_estimators import ESTIMATORS
from copilot4d_core.tokenizer.quantizer import Decision, Quantized, Quantizer
from copilot4d_core.tokenizer.vector_quantizer import VectorQuantizer

FINE_AFTER_STEPS = 50
"""Steps of a late start between the coarse codebook and the fine one: only then does the bank hold what the coarse codes leave."""


class ResidualQuantizer(Quantizer):
    """A `VectorQuantizer` on the latent, a second one on the rest; token = coarse x (codes of the fine codebook) + fine.

    Source: residual quantisation as in Lee et al., arXiv 2203.01941, section 3.1, with two levels.
    """

    def __init__(self, settings: QuantizerConfig, start_step: int = 0, seed: int = 0) -> None:
        """Set up.

        Args:
            settings: section `quantizer` of the settings; `levels` are the sizes of the two codebooks.
            start_step: features pass unquantised in the first steps, and the rest for a while after them.
            seed: of the codebooks, the bank's draws and K-Means.
        """
        super().__init__()
        self.estimator = ESTIMATORS[settings.estimator]
        coarse, fine = (dataclasses.replace(settings, kind=QuantizerKind.VQ, levels=(), codebook_size=size, estimator=Estimator.STRAIGHT_THROUGH)
                        for size in settings.levels)
        self.coarse = VectorQuantizer(coarse, start_step, seed)
        self.fine = VectorQuantizer(fine, FINE_AFTER_STEPS if start_step else 0, seed + 1)
        self.generator = self.fine.generator = self.coarse.generator
        self.fine_codes = settings.levels[1]

    def forward(self, latent_ND: Tensor, occupied_N: Tensor, blank_N: Tensor) -> Quantized:
        if not self.training:
            token_N = self.decide(latent_ND).token_N.masked_fill(blank_N, 0)
            return Quantized(self.look_up(token_N), token_N, latent_ND.new_zeros(()))
        latent = latent_ND.float()
        coarse = self.coarse(latent, occupied_N, blank_N)
        if int(self.coarse.step) <= self.coarse.start_step:
            return Quantized(coarse.code_ND, coarse.token_N * self.fine_codes, coarse.loss)
        fine = self.fine(latent - coarse.code_ND.detach(), occupied_N, blank_N)
        code_ND = self.estimator(latent, (coarse.code_ND + fine.code_ND).detach())
        return Quantized(code_ND, coarse.token_N * self.fine_codes + fine.token_N, coarse.loss + fine.loss)

    def look_up(self, token: Tensor) -> Tensor:
        return self.coarse.look_up(token // self.fine_codes) + self.fine.look_up(token % self.fine_codes)

    def decide(self, latent_ND: Tensor) -> Decision:
        coarse = self.coarse.decide(latent_ND)
        fine = self.fine.decide(latent_ND - self.coarse.look_up(coarse.token_N))
        return Decision(coarse.token_N * self.fine_codes + fine.token_N, torch.minimum(coarse.margin_N, fine.margin_N))

    def statistics(self) -> dict[str, Tensor]:
        parts = {"coarse": self.coarse, "fine": self.fine}
        return {f"{level}_{name}": value for level, part in parts.items() for name, value in part.statistics().items()}
