"""One training step of the tokenizer, as a Lightning module."""

from __future__ import annotations

import math

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from copilot4d_core.config import Config
from copilot4d_core.grid import BoolArray
from copilot4d_core.tokenizer.tokenizer import Decoded, Tokenizer
from copilot4d_core.tokenizer.tokenizer_losses import TokenizerLosses, tokenizer_total_loss
from copilot4d_core.training.examples import Example


def learning_rate_factor(step: int, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to 0. Source: CoPilot4D, appendix A.2.1."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay; biases, norms, embeddings and the codebook without. Source: appendix A.2.1."""
    without = {id(parameter) for module in model.modules() if isinstance(module, (nn.LayerNorm, nn.Embedding)) for parameter in module.parameters()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_free = id(parameter) in without or name.endswith(("bias", "relative_bias")) or name == "quantizer.codebook"
        (free if is_free else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


class TrainingModule(lightning.LightningModule):
    """Equation 5 over a batch of scans; AdamW, warm-up and cosine, gradient clip as in the paper."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = Tokenizer(config)
        settings = config.training
        groups = parameter_groups(self.tokenizer, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2))
        self.resumed_steps = 0

    @property
    def steps_done(self) -> int:
        """Steps of the whole run, the resumed part included."""
        return self.resumed_steps + self.global_step

    def training_step(self, batch: list[Example], batch_index: int) -> Tensor:
        losses = [self._losses(example) for example in batch]
        mean = TokenizerLosses(*(torch.stack(term).mean() for term in zip(*losses, strict=True)))
        for name, value in mean._asdict().items():
            self.log(f"loss/{name}", value.detach(), prog_bar=name in ("total", "depth_l1"))
        return mean.total

    def _losses(self, example: Example) -> TokenizerLosses:
        model = self.tokenizer
        occupied = model.grid.pool_mask(example.occupancy_YXZ)
        latent = model.encode_latent(model.encode_patches(model.voxelize(example.points_m)))
        quantized, code = model.quantize(latent, self._token_cells(occupied))
        decoded = model.decode(code)
        mask = self._rendered_mask(occupied, decoded)
        rays = model.render(decoded, mask, example.origin_R3, example.direction_R3, example.jitter_R)
        return tokenizer_total_loss(
            self.config.loss, rays.depth_R, rays.weight_RS, rays.distance_RS, torch.from_numpy(example.depth_R), torch.from_numpy(example.returned_R),
            decoded.skip_logit_HWPPZ, model.spatial_skip.target(torch.from_numpy(example.occupancy_YXZ)), quantized.loss)

    def _token_cells(self, occupied_YXZ: BoolArray) -> Tensor:
        rows, columns = self.tokenizer.grid.tokens_HW
        cells = occupied_YXZ.any(axis=2)
        return torch.from_numpy(cells.reshape(rows, cells.shape[0] // rows, columns, -1).any(axis=(1, 3)))

    def _rendered_mask(self, occupied_YXZ: BoolArray, decoded: Decoded) -> BoolArray:
        """The ground-truth mask (figure 8), and the predicted one beside it when the settings say so."""
        if not self.config.training.render_predicted_mask or self.steps_done < self.config.training.warmup_steps:
            return occupied_YXZ
        with torch.no_grad():
            both: BoolArray = np.logical_or(occupied_YXZ, self.tokenizer.predicted_mask(decoded))
        return both

    def on_train_batch_end(self, *unused: object) -> None:
        quantizer = self.tokenizer.quantizer
        self.log("codebook/used_lately", (quantizer.unused_steps < self.config.quantizer.dead_after_steps).float().mean())
        self.log("codebook/steps_since_kmeans", (quantizer.step - quantizer.last_reinit).float())

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]
        settings = self.config.training
        schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(self.resumed_steps + step, settings.warmup_steps, settings.steps))
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
