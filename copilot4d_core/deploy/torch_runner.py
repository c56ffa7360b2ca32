"""The reference runner: dense nets in torch, sparse stages in the kernels. Makes no claim of speed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.cpu_stages import CpuStages
from copilot4d_core.deploy.kernel_weights import kernel_weights
from copilot4d_core.deploy.runner import Rendering, TokenArray, check_points, check_token_grid
from copilot4d_core.deploy.stage_clock import StageClock
from copilot4d_core.grid import BoolArray, FloatArray
from copilot4d_core.model_file import read_model
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import tokenizer_from_model


class TorchRunner:
    """Runs a `Tokenizer` in evaluation mode; see `Runner` for the contract."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        self.tokenizer, self.config, self.model_id = tokenizer, tokenizer.config, name
        weights = kernel_weights({name: tensor.numpy() for name, tensor in tokenizer.state_dict().items()})
        self._stages, self._clock = CpuStages(weights, tokenizer.config), StageClock()

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    @property
    def stage_ms(self) -> dict[str, float]:
        return self._clock.ms

    @torch.inference_mode()
    def encode(self, points_m: FloatArray) -> TokenArray:
        """Tokens of one scan, (H, W) uint16; row = y, column = x.

        Raises:
            ValueError: no points, not (N, 3), or coordinates that are NaN or infinite.
        """
        check_points(points_m)
        model = self.tokenizer
        with self._clock("voxelize"):
            patches = torch.from_numpy(self._stages.patch_map(points_m))
        with self._clock("encode"):
            latent = model.encode_latent(patches)
            quantized, _ = model.quantize(latent, torch.zeros(latent.shape[:2], dtype=torch.bool))
        tokens: TokenArray = quantized.token_N.view(model.grid.tokens_HW).numpy().astype(np.uint16)
        return tokens

    def decode(self, tokens: TokenArray, rays: Rays) -> Rendering:
        """What each ray meets, with the skip mask that the tokens predict.

        Raises:
            ValueError: a grid of another shape, or a token that the codebook does not have.
        """
        return self._render(tokens, rays, None)

    def decode_with_mask(self, tokens: TokenArray, rays: Rays, mask: BoolArray) -> Rendering:
        """As `decode`, with a given skip mask, (Y, X, Z) bool."""
        return self._render(tokens, rays, mask)

    @torch.inference_mode()
    def _render(self, tokens: TokenArray, rays: Rays, mask: BoolArray | None) -> Rendering:
        check_token_grid(tokens, self.config, self.model_id)
        model = self.tokenizer
        with self._clock("decode"):
            feature = model.decoder(model.look_up(torch.from_numpy(tokens.astype(np.int64))))
            skip = model.spatial_skip.pooled(feature).numpy() if mask is None else mask
            normed = model.feature_grid.norm(feature).numpy()
        with self._clock("render"):
            return self._stages.render(normed, skip, rays)


def torch_runner(weights: Path) -> TorchRunner:
    """Runner of a weights file.

    Raises:
        ValueError: see `read_model`.
    """
    model = read_model(weights)
    return TorchRunner(tokenizer_from_model(model), model.model_id)
