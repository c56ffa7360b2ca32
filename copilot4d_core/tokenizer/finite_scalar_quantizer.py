# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""No codebook: each channel is bounded and rounded to a few values, and the token is the number that they spell."""

from __future__ import annotations

import torch
from torch import Tensor

from copilot4d_core.code_table import scalar_levels
from copilot4d_core.config import QuantizerConfig
from copilot4d_core.tokenizer import ranks
from copilot4d_core.tokenizer.gradient_estimators import straight_through
from copilot4d_core.tokenizer.quantizer import Decision, Quantized, Quantizer


class FiniteScalarQuantizer(Quantizer):
    """Rounding per channel with the straight-through gradient; no loss of its own, and no code can die.

    Source: Mentzer et al., Finite Scalar Quantization, arXiv 2309.15505. Bounds as in `scalar_levels`; codes lie in -1..1.
    """

    steps: Tensor
    half_range: Tensor
    offset: Tensor
    shift: Tensor
    half_width: Tensor
    place: Tensor
    unused_steps: Tensor
    step: Tensor

    def __init__(self, settings: QuantizerConfig, start_step: int = 0, seed: int = 0) -> None:
        """Set up.

        Args:
            settings: section `quantizer` of the settings.
            start_step: channels are bounded but not rounded in the first steps.
            seed: unused draws, see `Quantizer.generator`.
        """
        super().__init__()
        self.settings, self.start_step = settings, start_step
        self.generator = torch.Generator().manual_seed(seed)
        for name, values in scalar_levels(settings.levels)._asdict().items():
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.int64 if values.dtype.kind == "i" else torch.float32), persistent=False)
        self.register_buffer("unused_steps", torch.zeros(settings.codebook_size, dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, latent_ND: Tensor, occupied_N: Tensor, blank_N: Tensor) -> Quantized:
        bounded = self._bounded(latent_ND.float())
        token_N = self._tokens(bounded).masked_fill(blank_N, 0)
        if not self.training:
            return Quantized(self.look_up(token_N), token_N, latent_ND.new_zeros(()))
        self.step += 1
        self.unused_steps += 1
        self.unused_steps[ranks.total(torch.bincount(token_N, minlength=len(self.unused_steps))) > 0] = 0
        if int(self.step) <= self.start_step:
            return Quantized(bounded / self.half_width, token_N, latent_ND.new_zeros(()))
        value = torch.where(blank_N[:, None], self.look_up(token_N), straight_through(bounded, bounded.round()) / self.half_width)
        return Quantized(value, token_N, latent_ND.new_zeros(()))

    def look_up(self, token: Tensor) -> Tensor:
        digits = token[..., None] // self.place % self.steps
        return (digits - self.half_width) / self.half_width

    def decide(self, latent_ND: Tensor) -> Decision:
        bounded = self._bounded(latent_ND.float())
        return Decision(self._tokens(bounded), 0.5 - (bounded - bounded.round()).abs().amax(dim=1))

    def statistics(self) -> dict[str, Tensor]:
        return {"used_lately": (self.unused_steps < self.settings.dead_after_steps).float().mean()}

    def _bounded(self, latent_ND: Tensor) -> Tensor:
        return torch.tanh(latent_ND + self.shift) * self.half_range - self.offset

    def _tokens(self, bounded_ND: Tensor) -> Tensor:
        return ((bounded_ND.round().long() + self.half_width) * self.place).sum(dim=1)
