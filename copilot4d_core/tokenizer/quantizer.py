# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What every quantiser of the tokenizer does: latents to tokens and codes, tokens to codes."""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Quantized(NamedTuple):
    """Result of the quantiser for N cells."""

    code_ND: Tensor
    """Chosen code vectors; in training with the estimator's gradient."""
    token_N: Tensor
    """int64, index of the chosen code."""
    loss: Tensor
    """Scalar; 0 outside training."""


class Decision(NamedTuple):
    """Tokens of N cells, and how close each call was."""

    token_N: Tensor
    """int64."""
    margin_N: Tensor
    """float32, by how much the chosen code beat the next: a gap of scores, or (fsq) the distance to the edge of rounding."""


class Quantizer(nn.Module, abc.ABC):
    """One way to make tokens of latents; `choose_quantizer` knows them all."""

    generator: torch.Generator
    """Draws of the codebook's care; its state belongs to a checkpoint."""

    @abc.abstractmethod
    def forward(self, latent_ND: Tensor, occupied_N: Tensor, blank_N: Tensor) -> Quantized:
        """Quantise N cells; in training also take care of the codes.

        Args:
            latent_ND: (N, codebook_dim) float32.
            occupied_N: (N,) bool, cells that hold a point.
            blank_N: (N,) bool, cells that become token 0, whatever their latent.
        """

    @abc.abstractmethod
    def look_up(self, token: Tensor) -> Tensor:
        """Codes of tokens, int64 of any shape, (..., codebook_dim) float32."""

    @abc.abstractmethod
    def decide(self, latent_ND: Tensor) -> Decision:
        """Tokens as outside training, with their margins."""

    @abc.abstractmethod
    def statistics(self) -> dict[str, Tensor]:
        """Scalars that a training run logs, by name."""
