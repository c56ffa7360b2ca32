# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One training step of the tokenizer, as a Lightning module."""

from __future__ import annotations

import math
from typing import cast

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from copilot4d_core.config import Config
from copilot4d_core.grid import BoolArray
from copilot4d_core.tokenizer import ranks
from copilot4d_core.tokenizer.tokenizer import Decoded, Tokenizer
from copilot4d_core.tokenizer.tokenizer_losses import TokenizerLosses, tokenizer_total_loss
from copilot4d_core.training.bad_batches import BadBatches, NotFinite, refuse_not_finite
from copilot4d_core.training.examples import Example
from copilot4d_core.training.optimizer import optimizer_for


def learning_rate_factor(step: int, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to 0. Source: CoPilot4D, appendix A.2.1."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class TrainingModule(lightning.LightningModule):
    """Equation 5 over a batch of scans; warm-up and cosine, gradient clip as in the paper.

    Unusual: the optimiser is stepped here and not by Lightning, because a step whose numbers are not finite must leave
    weights, moments, codebook and bank as they were.
    """

    def __init__(self, config: Config, bf16: bool = False) -> None:
        """A run's first state; `bf16`: the Swin trunks multiply in bfloat16."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.tokenizer = Tokenizer(config)
        self.tokenizer.trunks_in_bf16 = bf16
        self.optimizer = optimizer_for(self.tokenizer, config.training)
        self.bad_batches = BadBatches()
        self.steps_done = 0
        """Batches of the whole run so far, the resumed part and the skipped ones included."""
        self.last_losses_T: Tensor = torch.full((len(TokenizerLosses._fields),), math.nan)
        """Terms of the last batch over all ranks, in the order of `TokenizerLosses`; NaN for a batch that came to no loss."""

    def training_step(self, batch: list[Example], batch_index: int) -> None:
        settings, quantizer = self.config.training, self.tokenizer.quantizer
        before = {name: value.clone() for name, value in quantizer.state_dict().items()}
        draws = quantizer.generator.get_state()
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(self.steps_done, settings.warmup_steps, settings.steps)
        self.last_losses_T = torch.full_like(self.last_losses_T, math.nan)
        try:
            self._descend(self.losses(batch))
            self.bad_batches.good()
        except NotFinite as reason:
            quantizer.load_state_dict(before)
            quantizer.generator.set_state(draws)
            self.bad_batches.skip(self.steps_done + 1, reason, [example.name for example in batch])
        self.steps_done += 1
        self.log_dict({"total": self.last_losses_T[0], "depth_l1": self.last_losses_T[1]}, prog_bar=True, logger=False)

    def losses(self, batch: list[Example]) -> list[TokenizerLosses]:
        """Losses of each scan; the quantiser sees the batch as one, so that a step of its care is a step of the run.

        Raises:
            NotFinite: the encoder's output is not; the quantiser has not seen it then.
        """
        model = self.tokenizer
        occupied = [model.grid.pool_mask(example.occupancy_YXZ) for example in batch]
        patches = [model.encode_patches(model.voxelize(example.points_m)) for example in batch]
        latent_BHWD = torch.stack([model.encode_latent(patch_HWC) for patch_HWC in patches])
        refuse_not_finite("the encoder's output", latent_BHWD.isfinite().flatten(1).all(dim=1))
        cells_BHW = torch.stack([self._token_cells(mask) for mask in occupied])
        blank_BHW = torch.stack([model.blank_cells(patch_HWC) for patch_HWC in patches])
        quantized, code = model.quantize(latent_BHWD.flatten(0, 1), cells_BHW.flatten(0, 1), blank_BHW.flatten(0, 1))
        return [self._losses(example, mask, code_HWD, quantized.loss)
                for example, mask, code_HWD in zip(batch, occupied, code.view(latent_BHWD.shape), strict=True)]

    def _descend(self, losses: list[TokenizerLosses]) -> None:
        """One step of the optimiser down the mean of the scans' losses; equal parts make the ranks' mean that of the batch."""
        loss_BT = torch.stack([torch.stack(list(terms)) for terms in losses])
        mean_T = loss_BT.mean(dim=0)
        self.last_losses_T = ranks.total(mean_T.detach()) / ranks.world_size()
        refuse_not_finite("the loss", loss_BT[:, 0].isfinite())
        self.optimizer.zero_grad()
        self.manual_backward(mean_T[0])
        norm = nn.utils.clip_grad_norm_(self.tokenizer.parameters(), self.config.training.gradient_clip)
        refuse_not_finite("the gradient", norm.isfinite().expand(len(losses)))
        cast("LightningOptimizer", self.optimizers()).step()

    def _losses(self, example: Example, occupied_YXZ: BoolArray, code_HWD: Tensor, vq: Tensor) -> TokenizerLosses:
        model = self.tokenizer
        decoded = model.decode(code_HWD)
        mask = self._rendered_mask(occupied_YXZ, decoded)
        rays = model.render(decoded, mask, example.origin_R3, example.direction_R3, example.jitter_R)
        return tokenizer_total_loss(
            self.config.loss, rays.depth_R, rays.weight_RS, rays.distance_RS, torch.from_numpy(example.depth_R), torch.from_numpy(example.returned_R),
            decoded.skip_logit_HWPPZ, model.spatial_skip.target(torch.from_numpy(example.occupancy_YXZ)), vq)

    def _token_cells(self, occupied_YXZ: BoolArray) -> Tensor:
        rows, columns = self.tokenizer.grid.tokens_HW
        cells = occupied_YXZ.any(axis=2)
        return torch.from_numpy(cells.reshape(rows, cells.shape[0] // rows, columns, -1).any(axis=(1, 3)))

    def _rendered_mask(self, occupied_YXZ: BoolArray, decoded: Decoded) -> BoolArray:
        """The ground-truth mask (figure 8), and the predicted one beside it when the settings say so; all cells without the skip."""
        if not self.config.spatial_skip.enabled:
            return np.ones_like(occupied_YXZ)
        if not self.config.training.render_predicted_mask or self.steps_done < self.config.training.warmup_steps:
            return occupied_YXZ
        with torch.no_grad():
            both: BoolArray = np.logical_or(occupied_YXZ, self.tokenizer.predicted_mask(decoded))
        return both

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer
