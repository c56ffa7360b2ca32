# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d bench --node`: publisher, tokenizer node and subscriber as three processes on a graph of their own, at a fixed rate.

What goes in: frames in memory. What comes out: two results, tokens alone and tokens with a depth image, each a table and a JSON line.
Unusual: this process is the subscriber. Frames before the measured ones warm the node and the connections up and count nowhere.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions

from copilot4d_core.benchmark.core_benchmark import cpu_floors_ms, runner_is_on_gpu
from copilot4d_core.benchmark.frames import BEAMS, Frames, load_frames, pattern_rays
from copilot4d_core.benchmark.identity import identity
from copilot4d_core.benchmark.latency import Timed, percentiles
from copilot4d_core.benchmark.model_choice import ModelChoice, chosen_model
from copilot4d_core.benchmark.process_load import ProcessLoad
from copilot4d_core.benchmark.result import Measured, result_tree, show_results
from copilot4d_core.cli_bench import add_bench_arguments
from copilot4d_ros.benchmark_subscriber import TARGET, BenchmarkSubscriber, stages_of_frames
from copilot4d_ros.dead_segments import remove_dead_segments
from copilot4d_ros.own_graph import own_graph, running_module

WARM_UP = 20
"""Frames before the measured ones."""
START_S = 180.0
"""Longest start of the node: at a first start kernels are compiled."""
REST_S = 5.0
"""Longest wait for answers after the last cloud was published; what comes later counts as missed."""
TOKENS, DEPTH = "node, tokens", "node, tokens and depth"


class Phase(NamedTuple):
    """What was seen while the clouds of one phase were published."""

    name: str
    stamps_ns: list[int]
    arrived_ns: dict[int, int]
    """Of what is awaited: tokens, or depth where it is subscribed to."""
    tokens_ns: dict[int, int]
    times_ms: dict[str, list[float]]
    dropped: dict[str, int]
    """Scans that gave no tokens, by what the node counts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when both phases were measured."""
    parser = argparse.ArgumentParser(prog="copilot4d bench --node", description=__doc__.splitlines()[0] if __doc__ else "")
    add_bench_arguments(parser)
    parsed = parser.parse_args(arguments)
    try:
        _bench(parsed)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _bench(parsed: argparse.Namespace) -> None:
    rays = pattern_rays(parsed.rays)
    frames = load_frames(parsed.data, parsed.topic, parsed.frames, parsed.points)
    results: list[dict[str, Any]] = []
    with chosen_model(parsed.weights, parsed.preset) as model:
        for runner in parsed.runner or ["auto"]:
            measured = measure_node(parsed, runner, model, frames)
            # Only now: the machine's rates need a machine that does nothing else.
            floors_ms = {} if runner_is_on_gpu(measured[0].runner) or model.is_random else cpu_floors_ms(model, frames, rays)
            results += [result_tree(one._replace(floors_ms=floors_ms)) for one in measured]
    show_results(results, node_notes, parsed.json)
    if parsed.picture is not None:
        from copilot4d_core.benchmark.stages_picture import stages_figure
        from copilot4d_core.evaluation.pictures import save_figure

        save_figure(stages_figure(results), parsed.picture)


def measure_node(parsed: argparse.Namespace, runner: str, model: ModelChoice, frames: Frames) -> list[Measured]:
    """Both phases with one runner.

    Raises:
        RuntimeError: a process failed, or the node was not ready in time; the text holds what it printed.
    """
    remove_dead_segments()
    with own_graph(), tempfile.TemporaryDirectory(prefix="copilot4d_bench_") as folder:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            return _Run(parsed, runner, model, frames, Path(folder)).phases()
        finally:
            rclpy.try_shutdown()


class _Run:
    """The node and the publisher of one runner, and this process as their subscriber."""

    def __init__(self, parsed: argparse.Namespace, runner: str, model: ModelChoice, frames: Frames, folder: Path) -> None:
        self._parsed, self._runner, self._model, self._frames = parsed, runner, model, frames
        self._log, self._clouds = folder / "node.txt", folder / "clouds.npz"
        np.savez(self._clouds, *[np.column_stack([cloud_m, np.zeros(len(cloud_m), dtype=np.float32)]) for cloud_m in frames.clouds_m])

    def phases(self) -> list[Measured]:
        with running_module("copilot4d_ros.tokenizer_node", self._parameters(), self._log) as node:
            self._node, self._subscriber = node, BenchmarkSubscriber()
            self._spin(lambda: bool(self._subscriber.diagnostics.get("model_id")), START_S, "ready")
            with self._publisher() as publisher:
                results = [self._phase(publisher, TOKENS, False), self._phase(publisher, DEPTH, True)]
            self._subscriber.destroy_node()
        return results

    def _phase(self, publisher: subprocess.Popen[str], name: str, with_depth: bool) -> Measured:
        subscriber = self._subscriber
        subscriber.watch_depth(with_depth)
        self._publish(publisher, WARM_UP)
        subscriber.start_over()
        before = self._dropped()
        load = ProcessLoad(self._node.pid)
        stamps_ns = self._publish(publisher, max(1, round(self._parsed.seconds * self._parsed.rate)), load.sample)
        spent = load.load()
        awaited = subscriber.depth_ns if with_depth else subscriber.tokens_ns
        dropped = {key: count - before[key] for key, count in self._dropped().items()}
        phase = Phase(name, stamps_ns, dict(awaited), dict(subscriber.tokens_ns), {key: list(values) for key, values in subscriber.times_ms.items()},
                      dropped)
        timed = timed_of(phase)
        return Measured(name, subscriber.diagnostics.get("runner", self._runner), timed, self._parsed.rate, spent, self._settings(), identity(), {},
                        more_of(phase, timed))

    def _publish(self, publisher: subprocess.Popen[str], count: int, sample: Callable[[], None] = lambda: None) -> list[int]:
        """Have so many clouds published, and wait for the last answers; their stamps."""
        assert publisher.stdin is not None and publisher.stdout is not None
        publisher.stdin.write(f"{count}\n")
        publisher.stdin.flush()
        done, next_s = publisher.stdout, time.monotonic()

        def published() -> bool:
            nonlocal next_s
            if time.monotonic() >= next_s:
                sample()
                next_s += 1.0
            return bool(select.select([done], [], [], 0)[0])

        self._spin(published, 30.0 + 1.5 * count / self._parsed.rate, "fed")
        line = done.readline()
        if not line:
            raise RuntimeError("bench: the publisher ended early; it says why above")
        stamps_ns: list[int] = json.loads(line)
        end_s = time.monotonic() + REST_S
        self._spin(lambda: stamps_ns[-1] in self._subscriber.tokens_ns or time.monotonic() > end_s, 2 * REST_S, "done")
        rest_s = time.monotonic() + 0.3
        self._spin(lambda: time.monotonic() > rest_s, 1.0, "done")  # times of the last frame follow its tokens
        return stamps_ns

    @contextmanager
    def _publisher(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "copilot4d_ros.benchmark_publisher", f"{TARGET}/input/points", str(self._clouds), str(self._parsed.rate)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _spin(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        deadline_s = time.monotonic() + seconds
        while not done():
            rclpy.spin_once(self._subscriber, timeout_sec=0.02)
            if self._node.poll() is not None or time.monotonic() > deadline_s:
                state = f"ended with exit code {self._node.returncode}" if self._node.poll() is not None else f"was not {what} within {seconds:.0f} s"
                raise RuntimeError(f"bench: the node {state}; it says: {' | '.join(self._log.read_text(errors='replace').splitlines()[-6:])}")

    def _dropped(self) -> dict[str, int]:
        """Counts of the node's diagnostics, after a report that holds the latest."""
        self._subscriber.diagnostics = {}
        self._spin(lambda: bool(self._subscriber.diagnostics), 10.0, "heard")
        return {key: int(value) for key, value in self._subscriber.diagnostics.items() if key.startswith("dropped_") or key == "lost_in_transport"}

    def _parameters(self) -> list[str]:
        values = {"weights": f"'{self._model.path.resolve()}'", "runner": self._runner, "int8": str(self._parsed.int8).lower(), "depth.rows": BEAMS,
                  "depth.columns": self._parsed.rays // BEAMS, "diagnostics.period_s": 0.5}
        return [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]

    def _settings(self) -> dict[str, Any]:
        model = self._subscriber.diagnostics.get("model_id", "")
        return {"model": model, "preset": model.partition("-")[0], "is_random": self._model.is_random, "mask": "predicted",
                "source": self._frames.source, "frames": len(self._frames.clouds_m), "points": self._frames.points,
                "rays": self._parsed.rays, "int8": self._parsed.int8, "seconds": self._parsed.seconds}


def timed_of(phase: Phase) -> Timed:
    """Latencies from a cloud's stamp to the arrival of what is awaited of it, and the stages."""
    answered = [stamp for stamp in phase.stamps_ns if stamp in phase.arrived_ns]
    first_ns = phase.stamps_ns[0]
    return Timed(len(phase.stamps_ns), [(phase.arrived_ns[stamp] - first_ns) / 1e9 for stamp in answered],
                 [(phase.arrived_ns[stamp] - stamp) / 1e6 for stamp in answered], stages_of_frames(phase.times_ms))


def more_of(phase: Phase, timed: Timed) -> dict[str, Any]:
    """Latency from receipt, that of the tokens, what the node does beside its runner, and why frames were missed."""
    tokens_ms = [(phase.tokens_ns[stamp] - stamp) / 1e6 for stamp in phase.stamps_ns if stamp in phase.tokens_ns]
    overhead_ms = np.add(timed.stage_ms["convert"], timed.stage_ms["publish"]).tolist() if timed.stage_ms else []
    return {"from_receipt_ms": percentiles(phase.times_ms.get("total", []), 50, 90, 99), "tokens_ms": percentiles(tokens_ms, 50, 90, 99),
            "tokens_missed": len(phase.stamps_ns) - len(tokens_ms), "overhead_ms": percentiles(overhead_ms, 50, 90, 99), "dropped": phase.dropped}


def node_notes(tree: Mapping[str, Any]) -> list[str]:
    """What the table of a node's run leaves out."""
    settings = tree["config"]
    lines = [f"{settings['model']} on {settings['source']}, {settings['frames']} frames of {settings['points']:,} points, depth image of "
             f"{settings['rays']:,} rays; end to end: from the cloud's stamp to the arrival of "
             f"{'the depth image' if tree['mode'] == DEPTH else 'the tokens'} in another process"]
    for name, text in (("from_receipt_ms", "from receipt to publication (processing_time/total_ms)"), ("tokens_ms", "from the stamp to the tokens"),
                       ("overhead_ms", "node overhead, convert and publish")):
        lines.append(f"{text}: {_percentile_text(tree[name])}")
    dropped = {key: count for key, count in tree["dropped"].items() if count}
    lines.append(f"scans that the node dropped or never got: {dropped or 'none'}")
    if not tree["stage_ms"]:
        lines.append("no stages: the node's time topics lost messages, so frames cannot be told apart")
    if settings["is_random"] and tree["mode"] == DEPTH:
        lines.append("random weights predict an empty skip mask: nothing is rendered, and the render stage says nothing; use trained weights")
    return lines


def _percentile_text(row: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in row.items()) + " ms" if row else "not measured"


if __name__ == "__main__":
    sys.exit(main())
