# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM at any moment of a node's life: while Python imports, while the model loads, while it works.

Unusual: the moments count from the first line of the package on; before it runs, for some tens of milliseconds, a signal meets the bare interpreter.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from faults.outcome import Outcome, expect

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "from copilot4d_ros.entry import {0}; {0}()"
"""What the executable that an installation makes of the entry point does."""
DEADLINE_S = 60.0
LISTENS = 1 << (signal.SIGTERM - 1)


def started(node: str, log: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """A node as it is installed; returns when it listens to signals."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM.format(node), "--ros-args", *arguments], stdout=file, stderr=subprocess.STDOUT,
                                   env=os.environ | {"PYTHONPATH": path} | environment)
    end_s = time.monotonic() + DEADLINE_S
    while not _caught(process.pid) & LISTENS:
        assert time.monotonic() < end_s and process.poll() is None, f"the node does not listen to signals: {log.read_text()}"
        time.sleep(0.001)
    return process


def _caught(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0], 16)


def ends_cleanly(process: subprocess.Popen[bytes], log: Path, number: signal.Signals, bar_s: float) -> float:
    """Send a signal; returns the seconds to the end.

    Raises:
        WrongResultError: it took longer than the bar, or ended with another code than 0 or with a traceback.
        TimeoutError: it did not end.
    """
    begin_s = time.monotonic()
    process.send_signal(number)
    try:
        code = process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise TimeoutError(f"{number.name}: the node did not end within {DEADLINE_S} s: {log.read_text()}") from error
    took_s = time.monotonic() - begin_s
    expect(code == 0 and "Traceback" not in log.read_text(), f"{number.name}: exit code {code}: {log.read_text()}")
    expect(took_s <= bar_s, f"{number.name}: the end took {took_s:.2f} s: {log.read_text()}")
    return took_s


def signals(folder: Path, moments_s: Iterable[float], bar_s: float = 1.0, node: str = "tokenizer_node", arguments: tuple[str, ...] = (),
            prepare: Callable[[], dict[str, str]] = dict) -> Outcome:
    """A signal so many seconds after the first line of the package ran, SIGINT and SIGTERM in turn.

    Args:
        prepare: gives the environment of each case.
    """
    outcome, log = Outcome("signal at a random moment from the first line of the package on"), folder / "signals.txt"
    for number, moment_s in enumerate(moments_s):
        with outcome.case():
            process = started(node, log, *arguments, **prepare())
            time.sleep(moment_s)
            which = (signal.SIGINT, signal.SIGTERM)[number % 2]
            try:
                outcome.largest("slowest_end_s", round(ends_cleanly(process, log, which, bar_s), 2))
            except Exception as error:
                raise type(error)(f"{moment_s:.2f} s after the start, {error}") from error
            finally:
                process.kill()
                process.wait()
    return outcome


def random_moments(count: int, last_s: float) -> list[float]:
    """Evenly spread, always the same."""
    return [random.Random(3).uniform(0.0, last_s) for _ in range(1)] + [random.Random(number).uniform(0.0, last_s) for number in range(1, count)]
