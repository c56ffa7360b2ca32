# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Latent vectors to discrete tokens: nearest code, and the care that keeps codes alive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copilot4d_core.config import CodebookUpdate, QuantizerConfig, Reduction
from copilot4d_core.tokenizer import ranks
from copilot4d_core.tokenizer.gradient_estimators import ESTIMATORS
from copilot4d_core.tokenizer.quantizer import Decision, Quantized, Quantizer


def code_scores(latent_ND: Tensor, codebook_KD: Tensor) -> Tensor:
    """z.e - |e|^2 / 2 of every latent and code, (N, K) float32: the largest belongs to the smallest Euclidean distance.

    Source: the expansion |z|^2 - 2 z.e + |e|^2; |z|^2 is the same for every code and is left out.
    """
    with torch.autocast(latent_ND.device.type, enabled=False):
        codebook = codebook_KD.float()
        return torch.addmm(codebook.square().sum(dim=1), latent_ND.float(), codebook.T, beta=-0.5)


def nearest_code(latent_ND: Tensor, codebook_KD: Tensor) -> Tensor:
    """Index of the code at the smallest Euclidean distance, (N,) int64. Ties go to the lower index."""
    return code_scores(latent_ND, codebook_KD).argmax(dim=1)


def k_means(vectors_ND: Tensor, clusters: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Centres of Lloyd's algorithm from a k-means++ start, (clusters, D).

    The start matters here: most vectors are nearly equal (blank cells), and a uniform start would waste centres on them.
    """
    start = [int(torch.randint(len(vectors_ND), (1,), generator=generator))]
    squared = (vectors_ND - vectors_ND[start[0]]).square().sum(dim=1)
    for _ in range(clusters - 1):
        start.append(int(torch.multinomial(squared + 1e-12, 1, generator=generator)))
        squared = torch.minimum(squared, (vectors_ND - vectors_ND[start[-1]]).square().sum(dim=1))
    centres = vectors_ND[start].clone()
    for _ in range(iterations):
        nearest = nearest_code(vectors_ND, centres)
        count = torch.bincount(nearest, minlength=clusters)
        total = torch.zeros_like(centres).index_add_(0, nearest, vectors_ND)
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], centres)
    return centres


class VectorQuantizer(Quantizer):
    """Codebook with moving-average or gradient update and the paper's dead-code rule.

    Source: CoPilot4D, section 4.1: L_vq = lambda_1 |sg[E(o)] - z|^2 + lambda_2 |sg[z] - E(o)|^2, lambda_1 = 0.25 for
    the codebook, lambda_2 = 1.0 for the commitment. With moving averages (VQ-VAE-2) there is no lambda_1 term.
    Dead codes: a code unused for 256 steps is dead; with more than 3 % dead, at least 200 steps after the last time,
    K-Means over a memory bank of latents sets the whole codebook anew. We draw half of the bank from occupied cells.
    """

    codebook: Tensor
    cluster_size: Tensor
    code_sum: Tensor
    unused_steps: Tensor
    bank: Tensor
    bank_fill: Tensor
    step: Tensor
    last_reinit: Tensor

    def __init__(self, settings: QuantizerConfig, start_step: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.start_step = settings, start_step
        size, dim = settings.codebook_size, settings.codebook_dim
        self.estimator = ESTIMATORS[settings.estimator]
        self.generator = torch.Generator().manual_seed(seed)
        codebook = torch.randn(size, dim, generator=self.generator) * dim**-0.5
        if settings.update is CodebookUpdate.GRADIENT:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", torch.ones(size))
        self.register_buffer("code_sum", codebook.clone())
        self.register_buffer("unused_steps", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("bank", torch.zeros(settings.bank_size_factor * size, dim))
        self.register_buffer("bank_fill", torch.zeros((), dtype=torch.int64))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last_reinit", torch.zeros((), dtype=torch.int64))

    def forward(self, latent_ND: Tensor, occupied_N: Tensor, blank_N: Tensor) -> Quantized:
        """Quantise N cells; in training also update the codebook and its bank, one step a call.

        Args:
            latent_ND: (N, codebook_dim) float32; in training all cells of the batch, of which each rank has an equal part.
            occupied_N: (N,) bool, cells that hold a point (used for the bank only).
            blank_N: (N,) bool, cells that become token 0; they alone soon decide where its code lies.
        """
        latent = self.placed(latent_ND.float())
        if not self.training:
            token_N = nearest_code(latent, self.codes()).masked_fill(blank_N, 0)
            return Quantized(self.look_up(token_N), token_N, latent.new_zeros(()))
        self._fill_bank(latent.detach(), occupied_N)
        self.step += 1
        if int(self.step) <= self.start_step:
            return Quantized(latent, nearest_code(latent.detach(), self.codes()), latent.new_zeros(()))
        self._care()
        codes = self.codes()
        token_N = nearest_code(latent.detach(), codes).masked_fill(blank_N, 0)
        code = codes[token_N]
        loss = self.settings.commitment_weight * self._squared(latent, code.detach())
        self._count_use(token_N)
        if self.settings.update is CodebookUpdate.GRADIENT:
            loss = loss + self.settings.codebook_weight * self._squared(code, latent.detach())
        else:
            self._moving_average(latent.detach(), token_N)
        return Quantized(self.estimator(latent, code.detach()), token_N, loss)

    def placed(self, latent_ND: Tensor) -> Tensor:
        """Latents where the codes are; here as they come."""
        return latent_ND

    def codes(self) -> Tensor:
        """Code vectors, (codebook_size, codebook_dim)."""
        return self.codebook

    def look_up(self, token: Tensor) -> Tensor:
        return self.codes()[token]

    def decide(self, latent_ND: Tensor) -> Decision:
        best = code_scores(self.placed(latent_ND), self.codes()).topk(2, dim=1)
        return Decision(best.indices[:, 0], best.values[:, 0] - best.values[:, 1])

    def statistics(self) -> dict[str, Tensor]:
        return {"used_lately": (self.unused_steps < self.settings.dead_after_steps).float().mean(),
                "steps_since_kmeans": (self.step - self.last_reinit).float()}

    def _squared(self, left_ND: Tensor, right_ND: Tensor) -> Tensor:
        squared = (left_ND - right_ND).square()
        per_cell = squared.sum(dim=1) if self.settings.reduction is Reduction.SUM else squared.mean(dim=1)
        return per_cell.mean()

    def _count_use(self, token_N: Tensor) -> None:
        self.unused_steps += 1
        self.unused_steps[ranks.total(torch.bincount(token_N, minlength=len(self.codebook))) > 0] = 0

    def _moving_average(self, latent_ND: Tensor, token_N: Tensor) -> None:
        """One step of the moving averages; a code without a vector in this step does not move."""
        decay, eps = self.settings.decay, self.settings.laplace_eps
        count = ranks.total(torch.bincount(token_N, minlength=len(self.codebook))).to(self.cluster_size.dtype)
        total = ranks.total(torch.zeros_like(self.code_sum).index_add_(0, token_N, latent_ND))
        self.cluster_size.mul_(decay).add_(count, alpha=1 - decay)
        self.code_sum.mul_(decay).add_(total, alpha=1 - decay)
        sum_of_sizes = self.cluster_size.sum()
        smoothed = (self.cluster_size + eps) / (sum_of_sizes + len(self.codebook) * eps) * sum_of_sizes
        self.codebook.copy_(torch.where(count[:, None] > 0, self.code_sum / smoothed[:, None], self.codebook))

    def _fill_bank(self, latent_ND: Tensor, occupied_N: Tensor) -> None:
        if not self.settings.kmeans_bank:
            return
        occupied_N = ranks.joined(occupied_N)  # The draws are a function of the whole batch, however many ranks share it.
        size = len(self.bank)
        drawn = max(2, size // 50)
        held = torch.nonzero(occupied_N).flatten()
        from_held = min(len(held), round(drawn * self.settings.bank_occupied_share))
        pick = torch.cat([held[torch.randperm(len(held), generator=self.generator)[:from_held]],
                          torch.randint(len(occupied_N), (drawn - from_held,), generator=self.generator)])
        fill = int(self.bank_fill)
        place = torch.arange(fill, min(size, fill + drawn)) if fill < size else torch.randperm(size, generator=self.generator)[:drawn]
        pick = pick[torch.randperm(drawn, generator=self.generator)[: len(place)]]
        self.bank[place] = ranks.joined_rows(latent_ND, pick)
        self.bank_fill.fill_(min(size, fill + drawn))

    def _care(self) -> None:
        """Re-initialise the whole codebook when the rule says so, and once when quantisation starts late."""
        if not self.settings.kmeans_bank:
            return
        step = int(self.step)
        starts = step == self.start_step + 1 and self.start_step > 0
        waited = step - int(self.last_reinit) >= self.settings.reinit_interval_steps
        dead = (self.unused_steps >= self.settings.dead_after_steps).float().mean().item()
        if not starts and not (waited and dead > self.settings.dead_share):
            return
        vectors = self.bank[: int(self.bank_fill)]
        centres = ranks.of_first(k_means(vectors, len(self.codebook), self.settings.kmeans_iterations, self.generator))
        with torch.no_grad():
            self.codebook.copy_(centres)
        self.cluster_size.fill_(1.0)
        self.code_sum.copy_(centres)
        self.unused_steps.zero_()
        self.last_reinit.fill_(step)
