# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Generated PointCloud2 messages through the reader and the node's intake, in workers that may crash: `run` is the check.

As a module it is the worker: a task is a seed and a number of messages, the answer what became of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from trust.clouds import clouds, points_cloud
from trust.intake import Intake, WrongError
from trust.pool import Task, answers, serve
from trust.record import Record

BATCH = 250
LIMIT_S = 300.0
"""For a batch, and for a cloud of 5 million points, which the oracle reads in Python."""
LARGE = (1_000_000, 5_000_000)


def batch(intake: Intake, number: int, examples: int, told: Counter[str]) -> None:
    """Some generated messages; a failure is shrunk to a small one.

    Raises:
        WrongError: the first failure.
    """
    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink))
    @given(clouds(), st.sampled_from([1_000_000, 1_000_000, 3]), st.sampled_from(["skip", "skip", "encode"]), st.integers(0, 15))
    def check(drawn: tuple[Any, list[str]], most: int, on_empty: str, turn: int) -> None:
        message, faults = drawn
        told["tried"] += 1
        told[intake.take(message, most, on_empty, turn == 0)] += 1
        told.update(f"fault: {fault}" for fault in faults)

    check()


def large_cloud(intake: Intake, count: int) -> str:
    """One cloud of many points; every hundredth has no return."""
    rng = np.random.default_rng(count)
    points = rng.uniform([-12, -12, -2.5], [12, 12, 2.5], (count, 3)).astype("<f4")
    points[::100] = np.array([np.nan, 0.0, 0.0])
    return intake.take(points_cloud(np.ascontiguousarray(points)))


def run(seconds: float, most: int, command: str, large: tuple[int, ...] = LARGE) -> Record:
    """Messages until the time is up or so many were tried; the large clouds come last, whatever the time."""
    started_s = time.monotonic()
    told: Counter[str] = Counter()
    failed: list[str] = []
    spoken_s = started_s

    def tasks() -> Iterator[Task]:
        for number in range(most // BATCH):
            if time.monotonic() - started_s > seconds:
                break
            yield {"seed": number, "examples": BATCH}
        yield from ({"large": count} for count in large)

    for answer in answers("trust.fuzz_messages", tasks(), LIMIT_S):
        told.update((answer.reply or {}).get("told", {}))
        failure = answer.failure or (answer.reply or {}).get("failure", "")
        if failure:
            failed.append(f"{answer.task}: {failure}")
            print(failed[-1], flush=True)
        if time.monotonic() - spoken_s > 10.0:
            spoken_s = time.monotonic()
            print(f"messages: {told['tried']:,} tried, {len(failed)} failures, {spoken_s - started_s:.0f} s", flush=True)
    return _record(told, failed, time.monotonic() - started_s, command)


def _record(told: Counter[str], failed: list[str], seconds: float, command: str) -> Record:
    kinds = {kind: sum(f": {kind} (" in text for text in failed) for kind in ("crash", "hang")}
    failures = {"crashes": kinds["crash"], "hangs": kinds["hang"], "wrong results or refusals": len(failed) - sum(kinds.values())}
    refused = {name: told[name] for name in ("invalid", "empty", "outside")}
    found = (f"{told['tokens']:,} gave the tokens of the points that a reader written with struct finds, in either order; {refused['invalid']:,} "
             f"were refused by the name of a field that is wrong, {refused['empty']:,} as empty, {refused['outside']:,} as outside the region")
    return Record("messages", "intake", "generated PointCloud2 messages through reader, checks and a tiny model, with up to three faults each, and "
                  "clouds of 1 and 5 million points", told["tried"], "messages", failures, found, command, seconds,
                  {"told": dict(sorted(told.items())), "failed": failed[:20]})


def main() -> None:
    """The worker."""
    intake = Intake()

    def handle(task: Task) -> dict[str, Any]:
        told: Counter[str] = Counter()
        try:
            if "large" in task:
                told["tried"] += 1
                told[large_cloud(intake, task["large"])] += 1
            else:
                batch(intake, task["seed"], task["examples"], told)
        except WrongError as error:
            notes = "\n".join(getattr(error, "__notes__", []))
            return {"told": dict(told), "failure": f"{error}\n{notes}"}
        return {"told": dict(told)}

    serve(handle)


if __name__ == "__main__":
    main()
