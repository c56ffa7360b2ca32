# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every setting of the tokenizer: one tree of frozen dataclasses, and three presets.

What goes in: nothing (`preset("mini")`); `config_file.py` reads YAML. What comes out: a `Config` whose values were checked where it was built.
Unusual: a value that follows from others (grid shapes, token map) is never a setting; see `grid.py`.
Settings that are our choice, because the paper does not state them, say so. A setting that is newer than weights files
names, as `before=`, what a file without it means: never the default, which may change.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field


class QuantizerKind(str, enum.Enum):
    """What a token is: the nearest code (vq), the code of the nearest direction (cosine), rounded channels (fsq), or two codes (residual)."""

    VQ = "vq"
    COSINE = "cosine"
    FSQ = "fsq"
    RESIDUAL = "residual"


class Estimator(str, enum.Enum):
    """How a gradient passes the choice of a code: unchanged, or turned and scaled as latent to code is (the rotation trick)."""

    STRAIGHT_THROUGH = "straight_through"
    ROTATION = "rotation"


class CodebookUpdate(str, enum.Enum):
    """How code vectors learn: moving averages (VQ-VAE-2) or the paper's gradient codebook term."""

    EMA = "ema"
    GRADIENT = "gradient"


class OptimizerKind(str, enum.Enum):
    """What descends: AdamW alone, as in the paper, or Muon for the matrices of the Swin trunks and AdamW for everything else."""

    ADAMW = "adamw"
    MUON = "muon"


class Reduction(str, enum.Enum):
    """How squared differences are reduced over the channels of one code vector."""

    SUM = "sum"
    MEAN = "mean"


MOST_VOXELS, MOST_BLOCKS, MOST_CHANNELS, MOST_SAMPLES = 16_384, 256, 65_536, 65_536
"""Far beyond any model: settings also come from weights files, and a damaged or forged one must not take all memory or time."""


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
            _require(cells < MOST_VOXELS + 0.5, f"grid.{axis}: expected at most {MOST_VOXELS} voxels, got {cells:.0f}; set grid.voxel_{axis}_m "
                     "to a larger size")
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
        depths, sizes = (*self.encoder_depths, *self.decoder_depths), (*self.dims, *self.heads)
        _require(all(0 <= depth <= MOST_BLOCKS for depth in depths), f"swin: expected depths of 0 to {MOST_BLOCKS}, got {depths}; change "
                 "swin.encoder_depths or swin.decoder_depths")
        _require(all(1 <= size <= MOST_CHANNELS for size in sizes), f"swin: expected dims and heads of 1 to {MOST_CHANNELS}, got {sizes}")


@dataclass(frozen=True)
class QuantizerConfig:
    """Quantiser. Source: section 4.1; the dead-code rule of the paper's appendix. The other kinds and estimators are not in the paper."""

    kind: QuantizerKind = field(default=QuantizerKind.VQ, metadata={"before": "vq"})
    levels: tuple[int, ...] = field(default=(), metadata={"before": []})
    """Values of each channel (fsq), or codes of the coarse and of the fine codebook (residual); empty for vq and cosine."""
    estimator: Estimator = field(default=Estimator.STRAIGHT_THROUGH, metadata={"before": "straight_through"})
    blank_token: bool = field(default=False, metadata={"before": False})
    """Cells without a point in themselves or beside them become token 0, whatever the encoder makes of them; not in the paper. Such cells then
    cost next to nothing in a token stream, and their codes are free for others."""
    codebook_size: int = 1024
    """Different tokens; with `levels` their product."""
    codebook_dim: int = 1024
    """Channels of a code; for fsq one a level."""
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
    kmeans_bank: bool = field(default=True, metadata={"before": True})
    """Keep a bank of latents, from which K-Means sets the codebook at a late start and when too many codes are dead."""
    bank_size_factor: int = 10
    bank_occupied_share: float = 0.5
    """Our choice: most cells of a scan are blank, so half of the bank is drawn from cells that hold points."""
    kmeans_iterations: int = 10

    def __post_init__(self) -> None:
        _require(2 <= self.codebook_size <= 65535, f"quantizer.codebook_size: expected 2 to 65535 (tokens are uint16, 65535 means "
                 f"not valid), got {self.codebook_size}")
        _require(0.0 < self.decay < 1.0, f"quantizer.decay: expected a value between 0 and 1, got {self.decay}")
        _require(0.0 <= self.bank_occupied_share <= 1.0, f"quantizer.bank_occupied_share: expected 0 to 1, got {self.bank_occupied_share}")
        self._check_levels()

    def _check_levels(self) -> None:
        levels, kind = list(self.levels), self.kind.value
        if self.kind in (QuantizerKind.VQ, QuantizerKind.COSINE):
            _require(not levels, f"quantizer.levels: kind {kind} has none, got {levels}; leave it empty or set quantizer.kind to fsq or residual")
            return
        least = 3 if self.kind is QuantizerKind.FSQ else 2  # two values of a channel would lie on one side of 0
        _require(all(level >= least for level in levels), f"quantizer.levels: kind {kind} needs at least {least} each, got {levels}")
        product = math.prod(levels)
        _require(product == self.codebook_size, f"quantizer.codebook_size: levels {levels} make {product} tokens, got {self.codebook_size}; "
                 f"set quantizer.codebook_size to {product}")
        if self.kind is QuantizerKind.RESIDUAL:
            _require(len(levels) == 2, f"quantizer.levels: kind residual needs two codebooks, such as [256, 128], got {levels}")
            return
        _require(len(levels) == self.codebook_dim, f"quantizer.codebook_dim: kind fsq has one channel a level, levels are {levels}, "
                 f"got {self.codebook_dim}; set quantizer.codebook_dim to {len(levels)}")
        _require(self.estimator is Estimator.STRAIGHT_THROUGH and self.update is CodebookUpdate.EMA,
                 f"quantizer: kind fsq rounds and has no codebook to turn to or to learn; leave quantizer.estimator and quantizer.update out, "
                 f"got {self.estimator.value} and {self.update.value}")


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

    enabled: bool = field(default=True, metadata={"before": True})
    """Off: rays are sampled everywhere inside the region, in training and when deployed; the branch is trained all the same."""
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

    step_m: float = 0.25
    """With 0.2 m a march takes a quarter more samples, and is no nearer to the surface (`kernels/ray_median.py` looks between samples)."""
    max_samples: int = 256
    stop_transmittance: float = 1e-6
    """A ray stops where less than this is left of it; what lies behind could move its depth by less than 0.1 mm."""
    opacity_threshold: float = 0.5
    """A ray whose opacity (sum of weights) is below this met nothing: its depth is NaN. A lower one misses fewer returns, and renders more surfaces
    where nothing came back."""

    def __post_init__(self) -> None:
        _require(self.step_m > 0 and 1 <= self.max_samples <= MOST_SAMPLES, f"rendering: expected step_m above 0 and max_samples of 1 to "
                 f"{MOST_SAMPLES}, got {self.step_m} and {self.max_samples}")


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
    likelihood_weight: float = field(default=0.0, metadata={"before": 0.0})
    """Of the likelihood of the true surface, a term that the paper does not have; its margin is `concentration_eps_m`."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimiser, schedule and data. Source: appendix A.2.1 for the first seven (batch 16 and 400,000 steps there)."""

    optimizer: OptimizerKind = field(default=OptimizerKind.ADAMW, metadata={"before": "adamw"})
    learning_rate: float = 1e-3
    beta2: float = 0.95
    weight_decay: float = 1e-4
    gradient_clip: float = 0.1
    warmup_steps: int = 4000
    steps: int = 400_000
    batch_scans: int = 16
    rays_per_scan: int = 4096
    empty_rays_per_scan: int = 512
    """Beams that returned nothing (`data/rays.py`); they teach opacity 0."""
    thinned_share: float = field(default=0.3, metadata={"before": 0.3})
    """Share of the examples of whose points some are kept from the encoder, as by a sensor with fewer beams."""
    other_mount_share: float = field(default=0.3, metadata={"before": 0.3})
    """Share of the examples that are shifted in height by more than a car's sensors differ, as from a low robot or a truck."""
    turned_share: float = field(default=1.0, metadata={"before": 1.0})
    """Share of the examples that are turned about z by any angle; the others by a few degrees, so that what runs along the road stays so."""
    render_predicted_mask: bool = True
    """Also sample cells that the skip branch itself predicts, beside the paper's ground-truth mask, so that the
    occupancy is taught in the cells that are rendered when deployed."""
    codebook_start_step: int = 0
    """Features pass unquantised before this step; K-Means then sets the codebook."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("thinned_share", "other_mount_share", "turned_share"):
            _require(0.0 <= (share := getattr(self, name)) <= 1.0, f"training.{name}: expected 0 to 1, got {share}")


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
        if not self.spatial_skip.enabled:
            g = self.grid
            longest_m = math.dist((g.x_min_m, g.y_min_m, g.z_min_m), (g.x_max_m, g.y_max_m, g.z_max_m))
            needed = math.ceil(longest_m / self.rendering.step_m)
            _require(self.rendering.max_samples >= needed, f"rendering.max_samples: without the spatial skip a ray of {longest_m:.1f} m through the "
                     f"region takes {needed} samples, got {self.rendering.max_samples}; set rendering.max_samples to {needed}")


def _mini() -> Config:
    return Config(
        name="mini",
        grid=GridConfig(x_min_m=-40.0, x_max_m=40.0, y_min_m=-40.0, y_max_m=40.0, voxel_x_m=0.3125, voxel_y_m=0.3125, patch_voxels=2),
        bev_pooling=BEVPoolingConfig(dim=32, z_embedding_dim=16),
        swin=SwinConfig(dims=(48, 96), heads=(3, 6), encoder_depths=(2, 2), decoder_depths=(2, 2), mlp_ratio=2.0),
        quantizer=QuantizerConfig(codebook_dim=128, bank_occupied_share=0.9, blank_token=True),
        spatial_skip=SpatialSkipConfig(pool_voxels=2),
        rendering=RenderingConfig(step_m=0.35),
        loss=LossConfig(opacity_weight=0.3, likelihood_weight=1.5),
        training=TrainingConfig(optimizer=OptimizerKind.MUON, learning_rate=2e-3, warmup_steps=200, steps=8_000, batch_scans=1,
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
        training=TrainingConfig(optimizer=OptimizerKind.MUON, warmup_steps=10, steps=200, batch_scans=1, rays_per_scan=512, empty_rays_per_scan=64),
    )


PRESETS = {"paper": Config, "mini": _mini, "tiny": _tiny}


def preset(name: str) -> Config:
    """Settings of a named preset: `paper`, `mini` or `tiny`.

    Raises:
        ValueError: unknown name.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(sorted(PRESETS))}, got {name!r}")
    return PRESETS[name]()
