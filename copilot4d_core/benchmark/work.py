# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The least that each stage must do for a frame: bytes through memory and operations, and the time that they take on a machine.

What goes in: counts of a real frame and the sizes of the model. What comes out: `Work` by stage, and a floor in milliseconds.

    floor = max(bytes / bandwidth, operations / rate)

Bytes are those that no implementation avoids: inputs, results and weights once; what lies between two steps of a stage may stay in a
cache and is not counted, but for the listed cells of the feature grid, which are more than a cache holds and are written and read once.
An operation is a float32 addition or multiplication (a product of an (m, k) and a (k, n) matrix has 2 m k n); a layer norm over d numbers has
8 d, a ReLU or a sum d. Sorting, indexing and skipping empty cells count nothing, so the floor of a sparse stage is one of arithmetic alone.

voxelize, with N points of which I inside, V voxels, P pillars, C occupied of M patch cells, widths d (point), p (pillar), c (patch):

    bytes      = 12 N + 4 c M + weights
    operations = I (2*3 d + 8 d + d + d)                     Linear, norm, ReLU; sum over the points of a voxel
               + V (2 d d + 8 d + 2 d p + p + 8 p + p + p)   second Linear behind the sum, norm; Linear, table, norm, ReLU; sum over a pillar
               + P (2 p p + 8 p + 2 p c + c)                 second Linear, norm, patch embedding; sum over a patch cell

encode and decode: the nodes of their ONNX graph, see `onnx_operations.py`; bytes = weights + inputs + outputs.

render, with R rays, K listed feature-grid cells, S samples up to where each ray has met its surface, hidden width h, mask of Q cells:

    bytes      = 4 c M + 4 Q + weights + 2 * 4 h K + 24 R + 16 R   map, skip logits; cells written and read; rays in, results out
    operations = K (2 c h) + S (2*8 h + h + 2 h + 20)              read-out; eight corners, ReLU, output layer, equation 4
"""

from __future__ import annotations

from typing import NamedTuple

from copilot4d_core.benchmark.machine_rates import MachineRates
from copilot4d_core.benchmark.onnx_operations import NetworkWork

NORM = 8
"""Operations of a layer norm for each number."""
SAMPLE = 20
"""Of one sample beside its features: its place along the ray, softplus, exponential, weight and the sums of equation 4."""
STAGES = ("voxelize", "encode", "decode", "render")


class Work(NamedTuple):
    """Of one stage for one frame."""

    bytes: int
    operations: int


class Counts(NamedTuple):
    """What a frame holds."""

    points: int
    inside: int
    """Points in the region."""
    voxels: int
    pillars: int
    patches: int
    """Occupied patch cells."""
    mask_cells: int
    """Cells of the skip mask, occupied or not."""
    listed_cells: int
    """Feature-grid cells inside the mask and its rim."""
    rays: int
    samples: int
    """Samples that no correct march leaves out; see `frame_counts.py`."""


class Sizes(NamedTuple):
    """Widths and weights of a model."""

    point: int
    pillar: int
    patch: int
    hidden: int
    patch_cells: int
    """Cells of the patch map."""
    pillar_weight_bytes: int
    readout_weight_bytes: int


def voxelize_work(counts: Counts, sizes: Sizes) -> Work:
    """Points to the patch map."""
    d, p, c = sizes.point, sizes.pillar, sizes.patch
    of_point = 2 * 3 * d + NORM * d + d + d
    of_voxel = 2 * d * d + NORM * d + 2 * d * p + p + NORM * p + p + p
    of_pillar = 2 * p * p + NORM * p + 2 * p * c + c
    operations = counts.inside * of_point + counts.voxels * of_voxel + counts.pillars * of_pillar
    return Work(12 * counts.points + 4 * c * sizes.patch_cells + sizes.pillar_weight_bytes, operations)


def network_stage_work(network: NetworkWork) -> Work:
    """One of the two networks."""
    return Work(network.weight_bytes + network.boundary_bytes, network.total)


def render_work(counts: Counts, sizes: Sizes) -> Work:
    """The decoder's map to what each ray meets."""
    h, c = sizes.hidden, sizes.patch
    moved = 4 * c * sizes.patch_cells + 4 * counts.mask_cells + sizes.readout_weight_bytes + 2 * 4 * h * counts.listed_cells + 40 * counts.rays
    of_sample = 2 * 8 * h + h + 2 * h + SAMPLE
    return Work(moved, counts.listed_cells * 2 * c * h + counts.samples * of_sample)


def stage_work(counts: Counts, sizes: Sizes, encoder: NetworkWork, decoder: NetworkWork) -> dict[str, Work]:
    """All stages of a frame, by name."""
    return {"voxelize": voxelize_work(counts, sizes), "encode": network_stage_work(encoder), "decode": network_stage_work(decoder),
            "render": render_work(counts, sizes)}


def floor_ms(work: Work, bandwidth_gb_s: float, gflop_s: float) -> float:
    """Least time for a stage: its bytes through memory or its operations, whichever takes longer."""
    return max(work.bytes / bandwidth_gb_s, work.operations / gflop_s) / 1e6


def floors_ms(works: dict[str, Work], rates: MachineRates) -> dict[str, float]:
    """Least time of every stage on a machine."""
    return {stage: floor_ms(work, rates.bandwidth_gb_s, rates.matrix_gflop_s) for stage, work in works.items()}
