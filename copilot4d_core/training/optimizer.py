# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The optimiser of a run: AdamW as in the paper, or Muon for the matrices of the Swin trunks and AdamW for everything else.

Unusual: Muon is our own few lines, because torch's orthogonalises in bfloat16: what two ranks and one process make of the same batch would then
differ by more than rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from copilot4d_core.config import OptimizerKind, TrainingConfig

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
"""Source: Jordan et al., Muon, 2024."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms, embeddings and the codebook without. Source: appendix A.2.1."""
    without = {id(parameter) for module in model.modules() if isinstance(module, (nn.LayerNorm, nn.Embedding)) for parameter in module.parameters()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_free = id(parameter) in without or name.endswith(("bias", "relative_bias")) or name.endswith(".codebook")
        (free if is_free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def trunk_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of the linear layers in the Swin encoder and decoder; what leads into and out of them is no hidden layer."""
    return [module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(("encoder.", "decoder."))]


def optimizer_for(model: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, or both, over all parameters; every group has a rate `lr` that the run sets."""
    groups = parameter_groups(model, settings.weight_decay)
    matrices = trunk_matrices(model) if settings.optimizer is OptimizerKind.MUON else []
    chosen = {id(parameter) for parameter in matrices}
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2))
    return MuonAndAdamW(Muon(matrices, settings.learning_rate, settings.weight_decay), adamw) if matrices else adamw


def orthogonalized(matrix_OI: Tensor) -> Tensor:
    """A matrix with the same singular vectors and singular values between about 0.7 and 1.2, but for those that are nearly 0."""
    is_tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    x = matrix_OI.T if is_tall else matrix_OI
    x = x / (x.square().sum().sqrt() + 1e-7)
    first, third, fifth = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        squared = x @ x.T
        x = first * x + (third * squared + fifth * squared @ squared) @ x
    return x.T if is_tall else x


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov), made orthogonal. Source: Jordan et al., 2024.

    A step is scaled by 0.2 sqrt(largest side), so that its entries are as large as those of AdamW at the same rate (Liu et al., 2025).
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step down the gradients that are there; `closure` computes them first."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._descend(parameter, parameter.grad, group["lr"], group["weight_decay"])
        return loss

    def _descend(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonalized(gradient.lerp(momentum, MOMENTUM))
        parameter.mul_(1 - lr * weight_decay).add_(direction, alpha=-lr * 0.2 * max(gradient.shape) ** 0.5)


class MuonAndAdamW(torch.optim.Optimizer):
    """Both as one, with one state by parameter."""

    def __init__(self, muon: Muon, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self.parts = (muon, adamw)
        muon.state = adamw.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each; `closure` computes the gradients first."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss
