# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The subcommand that measures speed: bench. Dispatch only."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

NODE_PROGRAM = "copilot4d_ros.node_benchmark"
"""Run as a process of its own: the core knows no ROS."""
RAYS = 65_536
TRAINING_PAIRS = 3
"""A training step in plain torch takes seconds."""


def add_bench_command(commands: Any) -> None:
    """Add it to the parser's subcommands."""
    parser = commands.add_parser("bench", help="measure how fast each stage is, and how fast it could be")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--core", action="store_const", dest="what", const="core", help="the runner alone, without ROS (default)")
    what.add_argument("--node", action="store_const", dest="what", const="node", help="publisher, node and subscriber as processes")
    what.add_argument("--compare", action="store_const", dest="what", const="compare", help="alternatives side by side, in the order A B A B")
    what.add_argument("--estimate", action="store_const", dest="what", const="estimate", help="roofline estimates for GPUs that are not here")
    what.add_argument("--scaling", action="store_const", dest="what", const="scaling", help="times and memory over points, rays, region, tokens")
    parser.set_defaults(run=_bench, what="core")
    add_bench_arguments(parser)


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that core and node share."""
    parser.add_argument("--data", "--bag", type=Path, metavar="PATH", help="scans: file, folder or bag (default: a simulated drive)")
    parser.add_argument("--topic", help="PointCloud2 topic of the bag")
    parser.add_argument("--frames", type=int, default=20, metavar="N", help="scans in memory, used over and over (default 20)")
    parser.add_argument("--points", type=int, metavar="N", help="bring each cloud to N points (default: as it is)")
    parser.add_argument("--rays", type=int, default=RAYS, metavar="N", help=f"rays to render, a multiple of 64 (default {RAYS})")
    parser.add_argument("--runner", action="append", metavar="NAME",
                        help="auto, torch, onnx, kernels or tensorrt; more than once for several (default auto)")
    parser.add_argument("--int8", action="store_true", help="eight-bit layers in ONNX Runtime")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--weights", type=Path, metavar="PATH", help="weights or folder of `copilot4d export` (default: those in the package)")
    model.add_argument("--preset", metavar="NAME", help="random weights of a preset: paper, mini or tiny")
    parser.add_argument("--rate", type=float, default=10.0, metavar="HZ", help="fixed rate of the frames (default 10)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long at that rate (default 30)")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="pairs of --compare, runs of each size of --scaling (default 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there, one JSON line each")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="picture to write (.png)")


def _bench(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable

    for path, ending in ((parsed.json, ""), (parsed.picture, ".png")):
        if path is not None:
            check_writable(path, ending)
    if parsed.repeats < 1:
        raise ValueError(f"--repeats: expected at least 1, got {parsed.repeats}")
    if parsed.rate <= 0 or parsed.seconds <= 0:
        raise ValueError(f"bench: expected --rate and --seconds above 0, got {parsed.rate:g} and {parsed.seconds:g}")
    {"core": _core, "node": _node, "compare": _compare, "estimate": _estimate, "scaling": _scaling}[parsed.what](parsed)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _core(parsed: argparse.Namespace) -> None:
    from copilot4d_core.benchmark.core_benchmark import Asked, measure_core
    from copilot4d_core.benchmark.frames import load_frames, pattern_rays
    from copilot4d_core.benchmark.model_choice import chosen_model
    from copilot4d_core.benchmark.result import core_notes, result_tree, show_results
    from copilot4d_core.deploy.open_runner import choose_runner

    rays, names = pattern_rays(parsed.rays), parsed.runner or ["auto"]
    with chosen_model(parsed.weights, parsed.preset) as model:
        for name in names:
            choose_runner(model.path, name, parsed.int8)  # a refusal comes before the work
        asked = Asked(model, load_frames(parsed.data, parsed.topic, parsed.frames, parsed.points), rays, parsed.int8, parsed.rate, parsed.seconds)
        results = [result_tree(measure_core(asked, name, tell=_say)) for name in names]
    show_results(results, core_notes, parsed.json)
    _draw(results, parsed.picture)


def _draw(results: list[dict[str, Any]], picture: Path | None) -> None:
    if picture is not None:
        from copilot4d_core.benchmark.stages_picture import stages_figure
        from copilot4d_core.evaluation.pictures import save_figure

        save_figure(stages_figure(results), picture)


def _node(parsed: argparse.Namespace) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("rclpy", "copilot4d_ros")):
        raise ValueError("bench --node: expected ROS 2 (rclpy) and copilot4d_ros, they are not there; source setup.bash, or `pip install '.[ros]'`")
    done = subprocess.run([sys.executable, "-m", NODE_PROGRAM, *node_words(parsed)], check=False)
    if done.returncode:
        raise ValueError(f"bench --node: {NODE_PROGRAM} ended with exit code {done.returncode}")


def node_words(parsed: argparse.Namespace) -> list[str]:
    """The arguments that the node's program takes, as they were given."""
    words = [word for name in parsed.runner or [] for word in ("--runner", name)] + ["--int8"] * parsed.int8
    for name in ("data", "topic", "frames", "points", "rays", "weights", "preset", "rate", "seconds", "json", "picture"):
        value = getattr(parsed, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    return words


def _compare(parsed: argparse.Namespace) -> None:
    from copilot4d_core.benchmark.compare import compared, comparison_tree, print_comparisons, stage_pairs
    from copilot4d_core.benchmark.frames import load_frames, pattern_rays
    from copilot4d_core.benchmark.model_choice import chosen_model
    from copilot4d_core.benchmark.result import json_line, write_lines
    from copilot4d_core.benchmark.training_step import compared_training

    pattern_rays(parsed.rays)
    frames = load_frames(parsed.data, parsed.topic, 1, parsed.points)
    with chosen_model(parsed.weights, parsed.preset) as model:
        results = [compared(pair, parsed.repeats) for pair in stage_pairs(model, frames.clouds_m[0], parsed.rays)]
        training, memory = compared_training(model.path, min(parsed.repeats, TRAINING_PAIRS))
    results.append(training)
    title = f"{parsed.preset or 'weights'} on {frames.source}, {len(frames.clouds_m[0]):,} points, mask {model.mask}, A B A B"
    print_comparisons(results, title)
    print(f"peak memory of the training step: {memory.kernels_mib:.0f} MiB, in plain torch {memory.plain_mib:.0f} MiB, "
          f"{memory.plain_mib / max(memory.kernels_mib, 1e-9):.1f}x; one scan, trained weights where they are, each in a process of its own")
    line = json_line(comparison_tree(results, title, {"training_memory": memory._asdict()}))
    print(line)
    if parsed.json is not None:
        write_lines([line], parsed.json)


def _estimate(parsed: argparse.Namespace) -> None:
    from copilot4d_core.benchmark.core_benchmark import first_frame_work
    from copilot4d_core.benchmark.estimate import estimate_tree, print_estimate
    from copilot4d_core.benchmark.frames import load_frames, pattern_rays
    from copilot4d_core.benchmark.model_choice import chosen_model
    from copilot4d_core.benchmark.result import json_line, write_lines

    rays, frames = pattern_rays(parsed.rays), load_frames(parsed.data, parsed.topic, 1, parsed.points)
    with chosen_model(parsed.weights, parsed.preset) as model:
        works, counts = first_frame_work(model, frames, rays)
    title = f"{parsed.preset or 'the weights'} on {frames.source}, {frames.points:,} points, {parsed.rays:,} rays, mask {model.mask}"
    print_estimate(works, title)
    line = json_line(estimate_tree(works, {"title": title, "counts": counts}))
    print(line)
    if parsed.json is not None:
        write_lines([line], parsed.json)


def _scaling(parsed: argparse.Namespace) -> None:
    from copilot4d_core.benchmark.frames import load_frames, pattern_rays
    from copilot4d_core.benchmark.model_choice import chosen_model, model_config
    from copilot4d_core.benchmark.result import json_line, write_lines
    from copilot4d_core.benchmark.scaling import Sizes, measure_scaling, scaling_cases, write_csv
    from copilot4d_core.benchmark.scaling_report import print_scaling, scaling_figure, scaling_tree
    from copilot4d_core.evaluation.pictures import save_figure

    pattern_rays(parsed.rays)
    frames = load_frames(parsed.data, parsed.topic, 1, parsed.points)
    rows = []
    with chosen_model(parsed.weights, parsed.preset) as model:
        cases = scaling_cases(model_config(model.path), frames.points, parsed.rays, Sizes())
        for number, row in enumerate(measure_scaling(model, cases, frames.clouds_m[0], parsed.repeats), 1):
            _say(f"{number} of {len(cases)}: {row.axis} {row.value:,}")
            rows.append(row)
    title = f"{parsed.preset or 'the weights'} on {frames.source}; region and tokens with random weights and the mask of the scan"
    print_scaling(rows, title)
    line = json_line(scaling_tree(rows, title))
    print(line)
    if parsed.json is not None:
        write_lines([line], parsed.json)
    if parsed.picture is not None:
        save_figure(scaling_figure(rows), parsed.picture)
        write_csv(rows, parsed.picture.with_suffix(".csv"))
