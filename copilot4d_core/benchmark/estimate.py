# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench --estimate`: what a frame would take on GPUs that are not here, from their published peaks. Nothing in it is measured.

What goes in: bytes and operations of each stage of a real frame. What comes out: roofline times, each marked as an estimate, beside figures that
others published for comparable stages.
Unusual: a roofline is a lower bound. It leaves out launches, waits, caches that are too small and kernels that reach half of a peak; sorting and
scattered reads, which bound the sparse stages on a GPU, count nothing in it, nor does the float64 walk of the rays through the skip mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from copilot4d_core.benchmark.work import Work, floor_ms

NETWORKS = ("encode", "decode")
"""Stages that run in half precision on the tensor cores, with half the bytes; the kernels run in float32 on the CUDA cores."""


class Device(NamedTuple):
    """Published peaks of a device, dense (without the doubling by sparsity)."""

    name: str
    bandwidth_gb_s: float
    fp32_tflop_s: float
    fp16_tflop_s: float
    """Tensor cores."""
    source: str


DEVICES = (
    Device("Jetson AGX Orin 64GB", 204.8, 5.3, 42.5, "NVIDIA Jetson AGX Orin Series technical brief: 204.8 GB/s, 5.3 TFLOP/s FP32, 170 sparse INT8 "
           "TOPS of the GPU; FP16 dense derived: 170 / 2 / 2"),
    Device("Jetson Thor T5000", 273.0, 8.0, 258.0, "NVIDIA Jetson Thor data sheet: 273 GB/s, 2,070 sparse FP4 TFLOP/s, 2,560 CUDA cores at 1.57 GHz; "
           "derived: FP32 2 x 2,560 x 1.57, FP16 dense 2,070 / 2 / 4"),
    Device("GeForce RTX 4090", 1008.0, 82.6, 165.2, "NVIDIA Ada GPU architecture white paper, appendix A: 1,008 GB/s, 82.6 TFLOP/s FP32, 165.2 FP16 "
           "tensor with FP32 accumulation, dense"),
    Device("H100 SXM", 3350.0, 67.0, 989.0, "NVIDIA H100 data sheet: 3.35 TB/s, 67 TFLOP/s FP32, 1,979 FP16 tensor with sparsity, half of it dense"),
)


class Published(NamedTuple):
    """A figure of somebody else for a comparable stage; not of this package and not of the same work."""

    stage: str
    what: str
    device: str
    ms: float
    source: str


PUBLISHED = (
    Published("voxelize", "CUDA-PointPillars, voxelise one KITTI scan", "Jetson Orin", 0.12, "github.com/NVIDIA-AI-IOT/CUDA-PointPillars"),
    Published("voxelize", "CUDA-CenterPoint, voxelise 240,000 to 267,000 points", "Jetson Orin", 1.36,
              "github.com/NVIDIA-AI-IOT/Lidar_AI_Solution, CUDA-CenterPoint"),
    Published("encode", "CUDA-PointPillars, backbone and head, FP16", "Jetson Orin", 6.09, "github.com/NVIDIA-AI-IOT/CUDA-PointPillars"),
    Published("encode", "CUDA-CenterPoint, RPN and head, FP16", "Jetson Orin", 11.3, "github.com/NVIDIA-AI-IOT/Lidar_AI_Solution, CUDA-CenterPoint"),
    Published("encode", "FasterTransformer, Swin-T 224 (9 GFLOP), FP16, TensorRT plugin", "A100", 1.47, "FasterTransformer, docs/swin_guide.md"),
    Published("encode", "Autoware PTv3, 10 cm grid, inference (25 to 30)", "a Blackwell card", 25.0, "autoware_universe, pull request 10600"),
    Published("render", "NGP-RT, 65,536 rays at its 224 million rays/s (derived)", "RTX 3090", 0.29, "arXiv 2407.10482"),
    Published("end to end", "CUDA-PointPillars, KITTI, detector", "Jetson Orin", 7.79, "github.com/NVIDIA-AI-IOT/CUDA-PointPillars"),
    Published("end to end", "I2-World, tokenised occupancy world model (37 frames/s)", "not stated", 27.0, "arXiv 2507.09144"),
)


def estimated_ms(stage: str, work: Work, device: Device) -> float:
    """Roofline time of a stage on a device."""
    if stage in NETWORKS:
        return floor_ms(Work(work.bytes // 2, work.operations), device.bandwidth_gb_s, 1e3 * device.fp16_tflop_s)
    return floor_ms(work, device.bandwidth_gb_s, 1e3 * device.fp32_tflop_s)


def estimate_tree(works: Mapping[str, Work], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of all estimates, for JSON."""
    devices = {device.name: {"peaks": device._asdict(), "estimated_ms": {stage: estimated_ms(stage, work, device) for stage, work in works.items()}}
               for device in DEVICES}
    return {"mode": "estimate", "is_measured": False, "config": dict(settings), "work": {stage: work._asdict() for stage, work in works.items()},
            "devices": devices, "published": [figure._asdict() for figure in PUBLISHED]}


def print_estimate(works: Mapping[str, Work], title: str, console: Console | None = None) -> None:
    """Print the estimates, their sources, and what others published."""
    console = console or Console()
    shown = console if console.is_terminal else Console(file=console.file, width=150)
    table = Table(title=f"ESTIMATES, not measured: roofline of {title}",
                  caption="lower bounds: the larger of bytes / bandwidth and operations / peak; networks in FP16, kernels in FP32; "
                  "the walk of the rays through the skip mask (float64) is not counted")
    for heading in ("stage", "MB", "GFLOP", *(f"{device.name}, est. ms" for device in DEVICES)):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, work in works.items():
        table.add_row(stage, f"{work.bytes / 1e6:.1f}", f"{work.operations / 1e9:.2f}", *(f"{estimated_ms(stage, work, d):.3f}" for d in DEVICES))
    table.add_section()
    sums = [sum(estimated_ms(stage, work, device) for stage, work in works.items()) for device in DEVICES]
    table.add_row("end to end", f"{sum(w.bytes for w in works.values()) / 1e6:.1f}", f"{sum(w.operations for w in works.values()) / 1e9:.2f}",
                  *(f"{total:.3f}" for total in sums))
    shown.print(table)
    for device in DEVICES:
        shown.print(f"{device.name}: {device.source}", markup=False, highlight=False, soft_wrap=True)
    _print_published(PUBLISHED, shown)


def _print_published(figures: Sequence[Published], console: Console) -> None:
    table = Table(title="Published by others for comparable stages: other networks, other clouds, not this package")
    for heading in ("stage", "what", "device", "ms", "source"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for figure in figures:
        table.add_row(figure.stage, figure.what, figure.device, f"{figure.ms:g}", figure.source)
    console.print(table)
