"""Every setting of the tokenizer: one tree of frozen dataclasses, three presets, strict YAML.

What goes in: nothing (`preset("mini")`) or a YAML text that overrides a preset.
What comes out: a `Config` whose values were checked where it was built.
Unusual: a value that follows from others (grid shapes, token map) is never a setting; see `grid.py`.
Settings that are our choice, because the paper does not state them, say so.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any

import yaml


class CodebookUpdate(str, enum.Enum):
    """How code vectors learn: moving averages (VQ-VAE-2) or the paper's gradient codebook term."""

    EMA = "ema"
    GRADIENT = "gradient"


class Reduction(str, enum.Enum):
    """How squared differences are reduced over the channels of one code vector."""

    SUM = "sum"
    MEAN = "mean"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class GridConfig:
    """Region and cell sizes. Source: CoPilot4D, figure 6. The region is half-open: min <= v < max."""

    x_min_m: float = -80.0
    x_max_m: float = 80.0
    y_min_m: float = -80.0
    y_max_m: float = 80.0
    z_min_m: float = -4.5
    z_max_m: float = 4.5
    voxel_x_m: float = 0.15625
    voxel_y_m: float = 0.15625
    voxel_z_m: float = 0.140625
    patch_voxels: int = 4
    """Voxels per side of a patch cell (the encoder's first map)."""
    feature_cells_per_patch: int = 2
    """Feature-grid cells per side of a patch cell."""

    def __post_init__(self) -> None:
        for axis in "xyz":
            low, high = getattr(self, f"{axis}_min_m"), getattr(self, f"{axis}_max_m")
            size = getattr(self, f"voxel_{axis}_m")
            _require(size > 0 and high > low, f"grid.{axis}: expected min < max and a voxel above 0, "
                     f"got min {low}, max {high}, voxel {size}; set grid.{axis}_min_m, grid.{axis}_max_m, grid.voxel_{axis}_m")
            cells = (high - low) / size
            _require(abs(cells - round(cells)) < 1e-6, f"grid.{axis}: the region of {high - low} m is not a whole number "
                     f"of voxels of {size} m; set grid.voxel_{axis}_m to a divisor")
        _require(self.patch_voxels >= 1 and self.feature_cells_per_patch >= 1,
                 f"grid: expected patch_voxels and feature_cells_per_patch of at least 1, got {self.patch_voxels} and {self.feature_cells_per_patch}")
        for axis in "xy":
            voxels = round((getattr(self, f"{axis}_max_m") - getattr(self, f"{axis}_min_m")) / getattr(self, f"voxel_{axis}_m"))
            _require(voxels % (self.patch_voxels * 2) == 0, f"grid.{axis}: {voxels} voxels do not divide into tokens of "
                     f"{self.patch_voxels * 2} voxels; change grid.voxel_{axis}_m or grid.patch_voxels")


@dataclass(frozen=True)
class VoxelEncoderConfig:
    """PointNet of one voxel. Source: figure 6."""

    dim: int = 16


@dataclass(frozen=True)
class BEVPoolingConfig:
    """Pillar pooling. Source: figure 6 (the text adds the z embedding, the figure concatenates it: we follow the figure)."""

    dim: int = 64
    z_embedding_dim: int = 16


@dataclass(frozen=True)
class SwinConfig:
    """Two-stage Swin encoder and decoder. Source: figure 6 (heads 8; the text says 16)."""

    dims: tuple[int, int] = (128, 256)
    heads: tuple[int, int] = (8, 8)
    encoder_depths: tuple[int, int] = (2, 6)
    decoder_depths: tuple[int, int] = (6, 2)
    window: int = 8
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        for dim, heads in zip(self.dims, self.heads, strict=True):
            _require(dim % heads == 0, f"swin: {dim} channels do not divide over {heads} heads; change swin.dims or swin.heads")
            _require(dim % 4 == 0, f"swin: sin-cos positions need a multiple of 4 channels, got {dim}; change swin.dims")
        _require(self.window >= 2, f"swin.window: expected at least 2, got {self.window}")


@dataclass(frozen=True)
class QuantizerConfig:
    """Vector quantiser. Source: section 4.1; the dead-code rule of the paper's appendix."""

    codebook_size: int = 1024
    codebook_dim: int = 1024
    update: CodebookUpdate = CodebookUpdate.EMA
    decay: float = 0.99
    laplace_eps: float = 1e-5
    codebook_weight: float = 0.25
    """lambda_1; used by the gradient codebook only (moving averages have no such term)."""
    commitment_weight: float = 1.0
    """lambda_2."""
    reduction: Reduction = Reduction.MEAN
    """Over the channels of a code; the paper writes a squared norm (sum), which is codebook_dim times larger."""
    dead_after_steps: int = 256
    dead_share: float = 0.03
    reinit_interval_steps: int = 200
    bank_size_factor: int = 10
    bank_occupied_share: float = 0.5
    """Our choice: most cells of a scan are blank, so half of the bank is drawn from cells that hold points."""
    kmeans_iterations: int = 10

    def __post_init__(self) -> None:
        _require(2 <= self.codebook_size <= 65535, f"quantizer.codebook_size: expected 2 to 65535 (tokens are uint16, 65535 means "
                 f"not valid), got {self.codebook_size}")
        _require(0.0 < self.decay < 1.0, f"quantizer.decay: expected a value between 0 and 1, got {self.decay}")
        _require(0.0 <= self.bank_occupied_share <= 1.0, f"quantizer.bank_occupied_share: expected 0 to 1, got {self.bank_occupied_share}")


@dataclass(frozen=True)
class FeatureGridConfig:
    """Neural feature grid and its occupancy MLP. Source: figure 6 (width 16 there, 32 in the text: we follow the text)."""

    channels: int = 16
    hidden: int = 32
    occupancy_bias: float = -2.0
    """Our choice: first bias of the occupancy logit, so that rays start almost clear."""


@dataclass(frozen=True)
class SpatialSkipConfig:
    """Spatial-skip branch. Source: figures 6 and 8; the threshold is not stated in the paper."""

    pool_voxels: int = 8
    """Voxels per side that are max-pooled in x and y (1 in z)."""
    bias: float = -5.0
    threshold: float = 0.03
    """Probability above which a pooled cell is rendered. Our choice; the end of a training run replaces it by the one that
    reaches `recall`."""
    recall: float = 0.95
    """Share of the occupied cells that the rendered mask must keep: a superfluous cell costs samples, a missing one a surface."""


@dataclass(frozen=True)
class RenderingConfig:
    """Sampling along rays. The paper does not state the number of samples: the spacing and limits are our choice."""

    step_m: float = 0.2
    max_samples: int = 256
    stop_transmittance: float = 1e-6
    """A ray stops where less than this is left of it; what lies behind could move its depth by less than 0.1 mm."""
    opacity_threshold: float = 0.5
    """A ray whose opacity (sum of weights) is below this met nothing: its depth is NaN."""

    def __post_init__(self) -> None:
        _require(self.step_m > 0 and self.max_samples >= 1, f"rendering: expected step_m above 0 and max_samples of at least 1, "
                 f"got {self.step_m} and {self.max_samples}")


@dataclass(frozen=True)
class LossConfig:
    """Weights and reductions of equation 5. Weights between its terms are our choice; the paper states none.

    depth: mean over rays. concentration: sum over samples, mean over rays. skip: mean over voxels of the
    positively weighted binary cross-entropy. opacity: mean over beams of the binary cross-entropy of the opacity.
    """

    depth_weight: float = 1.0
    concentration_weight: float = 1.0
    concentration_eps_m: float = 0.4
    skip_weight: float = 100.0
    skip_positive_weight: float = 1.0
    vq_weight: float = 1.0
    opacity_weight: float = 0.1


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, schedule and data. Source: appendix A.2.1 for the first six (batch 16 and 400,000 steps there)."""

    learning_rate: float = 1e-3
    beta2: float = 0.95
    weight_decay: float = 1e-4
    gradient_clip: float = 0.1
    warmup_steps: int = 4000
    steps: int = 400_000
    batch_scans: int = 16
    rays_per_scan: int = 4096
    empty_rays_per_scan: int = 512
    """Beams of the sensor's pattern that returned nothing; they teach opacity 0."""
    render_predicted_mask: bool = True
    """Also sample cells that the skip branch itself predicts, beside the paper's ground-truth mask, so that the
    occupancy is taught in the cells that are rendered when deployed."""
    codebook_start_step: int = 0
    """Features pass unquantised before this step; K-Means then sets the codebook."""
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """All settings. The defaults are the `paper` preset."""

    name: str = "paper"
    grid: GridConfig = field(default_factory=GridConfig)
    voxel_encoder: VoxelEncoderConfig = field(default_factory=VoxelEncoderConfig)
    bev_pooling: BEVPoolingConfig = field(default_factory=BEVPoolingConfig)
    swin: SwinConfig = field(default_factory=SwinConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    feature_grid: FeatureGridConfig = field(default_factory=FeatureGridConfig)
    spatial_skip: SpatialSkipConfig = field(default_factory=SpatialSkipConfig)
    rendering: RenderingConfig = field(default_factory=RenderingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        pool, patch = self.spatial_skip.pool_voxels, self.grid.patch_voxels
        _require(pool % patch == 0 and 2 * patch % pool == 0, f"spatial_skip.pool_voxels: expected {patch} or {2 * patch} "
                 f"(one patch cell or one token), got {pool}")
        for axis in "xy":
            side = getattr(self.grid, f"{axis}_max_m") - getattr(self.grid, f"{axis}_min_m")
            tokens = round(side / getattr(self.grid, f"voxel_{axis}_m")) // (2 * patch)
            _require(tokens % self.swin.window == 0, f"grid.{axis}: {tokens} tokens do not divide into windows of {self.swin.window}; "
                     "change the region or swin.window")


def _mini() -> Config:
    return Config(
        name="mini",
        grid=GridConfig(x_min_m=-40.0, x_max_m=40.0, y_min_m=-40.0, y_max_m=40.0, voxel_x_m=0.3125, voxel_y_m=0.3125, patch_voxels=2),
        bev_pooling=BEVPoolingConfig(dim=32, z_embedding_dim=16),
        swin=SwinConfig(dims=(48, 96), heads=(3, 6), encoder_depths=(2, 2), decoder_depths=(2, 2), mlp_ratio=2.0),
        quantizer=QuantizerConfig(codebook_dim=32),
        spatial_skip=SpatialSkipConfig(pool_voxels=4),
        training=TrainingConfig(warmup_steps=200, steps=4_800, batch_scans=1, rays_per_scan=2048, empty_rays_per_scan=256,
                                codebook_start_step=300),
    )


def _tiny() -> Config:
    return Config(
        name="tiny",
        grid=GridConfig(x_min_m=-10.0, x_max_m=10.0, y_min_m=-10.0, y_max_m=10.0, z_min_m=-2.25, z_max_m=2.25,
                        voxel_x_m=0.3125, voxel_y_m=0.3125, voxel_z_m=0.28125, patch_voxels=2),
        voxel_encoder=VoxelEncoderConfig(dim=8),
        bev_pooling=BEVPoolingConfig(dim=16, z_embedding_dim=4),
        swin=SwinConfig(dims=(16, 32), heads=(2, 4), encoder_depths=(2, 2), decoder_depths=(2, 2), mlp_ratio=2.0),
        quantizer=QuantizerConfig(codebook_size=64, codebook_dim=8),
        feature_grid=FeatureGridConfig(channels=8, hidden=8),
        spatial_skip=SpatialSkipConfig(pool_voxels=4),
        training=TrainingConfig(warmup_steps=10, steps=200, batch_scans=1, rays_per_scan=512, empty_rays_per_scan=64),
    )


PRESETS = {"paper": Config, "mini": _mini, "tiny": _tiny}


def preset(name: str) -> Config:
    """Settings of a named preset: `paper`, `mini` or `tiny`.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(sorted(PRESETS))}, got {name!r}")
    return PRESETS[name]()


def config_from_yaml(text: str) -> Config:
    """Settings from YAML text: a key `preset` (default `paper`) and the values that differ from it.

    Raises:
        ValueError: the text is no mapping, names an unknown key at any depth, or holds a value of another type.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"config: expected YAML, got {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ValueError(f"config: expected a mapping of sections, got {type(tree).__name__}")
    base = preset(tree.pop("preset", "paper"))
    return typing.cast("Config", _override(base, tree, path=""))


def config_from_dict(tree: dict[str, Any]) -> Config:
    """Settings from a complete dictionary, as written by `dict_from_config`; every key must be there.

    Raises:
        ValueError: a key is missing or unknown, or a value has another type.
    """
    missing = set(_flatten(dict_from_config(Config()))) - set(_flatten(tree))
    if missing:
        raise ValueError(f"config: missing keys {sorted(missing)}; the file was written by another version")
    return typing.cast("Config", _override(Config(), tree, path=""))


def dict_from_config(config: Config) -> dict[str, Any]:
    """Plain dictionary of all settings, ready for JSON or YAML."""
    return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(config))))


def _flatten(tree: dict[str, Any], path: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _flatten(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]
    return keys


def _override(base: Any, tree: dict[str, Any], path: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(base)}
    types = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in tree.items():
        here = f"{path}{key}"
        if key not in known:
            raise ValueError(f"config: unknown key {here!r}; known keys here: {', '.join(known)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ValueError(f"config: {here}: expected a section (mapping), got {value!r}")
            changes[key] = _override(current, value, f"{here}.")
        else:
            changes[key] = _checked(types[key], value, here)
    return dataclasses.replace(base, **changes)


def _checked(kind: Any, value: Any, path: str) -> Any:
    refusal = ValueError(f"config: {path}: expected {getattr(kind, '__name__', kind)}, got {value!r}")
    if typing.get_origin(kind) is tuple:
        members = typing.get_args(kind)
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            raise refusal
        return tuple(_checked(member, item, path) for member, item in zip(members, value, strict=True))
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"config: {path}: expected one of {', '.join(m.value for m in kind)}, got {value!r}") from None
    if kind is bool:
        if not isinstance(value, bool):
            raise refusal
        return value
    if isinstance(value, bool):
        raise refusal
    if kind is float and isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and isinstance(value, kind):
        return value
    raise refusal
