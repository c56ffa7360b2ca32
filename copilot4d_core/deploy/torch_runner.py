"""The reference runner: dense nets in torch, sparse stages in the kernels. Makes no claim of speed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.runner import Rendering, TokenArray
from copilot4d_core.grid import BoolArray, FloatArray
from copilot4d_core.kernels.feature_readout import ReadoutWeights, read_out_cells
from copilot4d_core.kernels.pillar_features import PillarWeights, pillar_features
from copilot4d_core.kernels.ray_march import march_rays
from copilot4d_core.tokenizer.tokenizer import Tokenizer
from copilot4d_core.tokenizer.weights_file import load_weights, model_id


class TorchRunner:
    """Runs a `Tokenizer` in evaluation mode; see `Runner` for the contract."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        self.tokenizer, self.config, self.model_id = tokenizer, tokenizer.config, name
        self._stage_ms: dict[str, float] = {}
        state = tokenizer.state_dict()
        self._pillar_weights = pillar_weights(state, tokenizer.config.voxel_encoder.dim)
        self._readout_weights = readout_weights(state)

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    @property
    def stage_ms(self) -> dict[str, float]:
        return dict(self._stage_ms)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._stage_ms[stage] = (time.perf_counter() - start) * 1e3

    @torch.inference_mode()
    def encode(self, points_m: FloatArray) -> TokenArray:
        """Tokens of one scan, (H, W) uint16; row = y, column = x.

        Raises:
            ValueError: no points, not (N, 3), or coordinates that are NaN or infinite.
        """
        _check_points(points_m)
        model = self.tokenizer
        with self._timed("voxelize"):
            height, width = model.grid.patches_HW
            patches = torch.from_numpy(pillar_features(model.voxelize(points_m), self._pillar_weights, height * width)).view(height, width, -1)
        with self._timed("encode"):
            latent = model.encode_latent(patches)
        with self._timed("quantize"):
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
        self._check_tokens(tokens)
        model = self.tokenizer
        with self._timed("decode"):
            decoded = model.decode(model.look_up(torch.from_numpy(tokens.astype(np.int64))))
            mask = model.predicted_mask(decoded) if mask is None else mask
        with self._timed("render"):
            normed = model.feature_grid.norm(decoded.feature_HWC).flatten(0, 1).numpy()
            cells = read_out_cells(normed, mask, self._readout_weights, model.grid)
            marched = march_rays(cells, self._readout_weights, mask, rays.origins_m, rays.directions, model.grid)
            met = marched.opacity >= self.config.rendering.opacity_threshold
            with np.errstate(invalid="ignore", divide="ignore"):
                expected = np.where(met, marched.weighted_m / marched.opacity, np.float32(np.nan))
            nothing = np.float32(np.nan)
            return Rendering(expected, marched.opacity, np.where(met, marched.median_m, nothing), np.where(met, marched.strongest_m, nothing))

    def _check_tokens(self, tokens: TokenArray) -> None:
        expected = self.tokenizer.grid.tokens_HW
        if tokens.shape != expected:
            raise ValueError(f"tokens: expected shape {expected} for model {self.model_id}, got {tokens.shape}")
        size = self.config.quantizer.codebook_size
        if tokens.max() >= size:
            raise ValueError(f"tokens: expected values below {size}, the codebook of model {self.model_id}, got {int(tokens.max())}")


def _check_points(points_m: FloatArray) -> None:
    if points_m.ndim != 2 or points_m.shape[1] < 3:
        raise ValueError(f"points: expected shape (N, 3), got {points_m.shape}")
    if not len(points_m):
        raise ValueError("points: expected at least one point, got an empty cloud")
    broken = int((~np.isfinite(points_m[:, :3])).any(axis=1).sum())
    if broken:
        raise ValueError(f"points: expected finite coordinates, {broken} of {len(points_m)} points hold NaN or infinity; drop them first")


def pillar_weights(state: Mapping[str, torch.Tensor], point_dim: int) -> PillarWeights:
    """Weights of the sparse half of the encoder in the form of the kernel, from a tokenizer's state."""
    point, layer = "voxel_encoder.mlp", "bev_pooling.mlp"

    def rows(*names: str) -> torch.Tensor:
        return torch.stack([state[name] for name in names])

    layer_in = state[f"{layer}.0.weight"]
    tensors = (
        state[f"{point}.0.weight"].T, rows(f"{point}.0.bias", f"{point}.1.weight", f"{point}.1.bias"),
        state[f"{point}.3.weight"].T, rows(f"{point}.3.bias", "voxel_encoder.norm.weight", "voxel_encoder.norm.bias"),
        layer_in[:, :point_dim].T, state["bev_pooling.z_embedding.weight"] @ layer_in[:, point_dim:].T + state[f"{layer}.0.bias"],
        rows(f"{layer}.1.weight", f"{layer}.1.bias"),
        state[f"{layer}.3.weight"].T, rows(f"{layer}.3.bias", "bev_pooling.norm.weight", "bev_pooling.norm.bias"),
        state["patch_embedding.weight"], state["patch_embedding.bias"])
    return PillarWeights(*(np.ascontiguousarray(tensor.numpy()) for tensor in tensors))


def readout_weights(state: Mapping[str, torch.Tensor]) -> ReadoutWeights:
    """Read-out of the feature grid with the linear first layer of the occupancy MLP folded in, from a tokenizer's state."""
    first = state["feature_grid.mlp.0.weight"]
    matrix = torch.matmul(first, state["feature_grid.readout_weight"]).transpose(1, 2)
    bias = state["feature_grid.readout_bias"] @ first.T + state["feature_grid.mlp.0.bias"]
    return ReadoutWeights(np.ascontiguousarray(matrix.numpy()), bias.numpy(), state["feature_grid.mlp.2.weight"][0].numpy(),
                          float(state["feature_grid.mlp.2.bias"]))


def torch_runner(weights: Path) -> TorchRunner:
    """Runner of a weights file.

    Raises:
        ValueError: see `load_weights`.
    """
    tokenizer = load_weights(weights)
    return TorchRunner(tokenizer, model_id(weights, tokenizer.config))
