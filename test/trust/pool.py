# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Worker processes that may crash or hang without taking the check with them.

What goes in: a module to run, and tasks as plain JSON. What comes out: each task with its answer, or with the word crash or hang.
Unusual: a worker is one process for many tasks, because starting one takes seconds; only after a crash or a hang it is a new one.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from trust.record import ROOT

START_S = 180.0
"""How long a worker may take to start; the first on a machine compiles kernels."""
Task = dict[str, Any]


class Answer(NamedTuple):
    """What became of a task."""

    task: Task
    reply: dict[str, Any] | None
    failure: str
    """Empty; or crash or hang, with what the worker said last."""


def answers(module: str, tasks: Iterable[Task], limit_s: float, workers: int | None = None) -> Iterator[Answer]:
    """Answers to all tasks, in the order in which they come.

    Args:
        module: calls `serve`.
        tasks: taken one by one, so that an iterator may end when time is up.
        limit_s: a task that takes longer hangs.
        workers: None: one a CPU core.
    """
    several = workers or len(os.sched_getaffinity(0))
    source, lock, done = iter(tasks), threading.Lock(), queue.Queue[Answer | None]()

    def take() -> Task | None:
        with lock:
            return next(source, None)

    def work(number: int) -> None:
        try:
            _work(module, number, take, done, limit_s)
        finally:
            done.put(None)

    for number in range(several):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    running = several
    while running:
        answer = done.get()
        if answer is None:
            running -= 1
        else:
            yield answer


def _work(module: str, number: int, take: Callable[[], Task | None], done: queue.Queue[Answer | None], limit_s: float) -> None:
    worker: _Worker | None = None
    try:
        while (task := take()) is not None:
            try:
                worker = worker or _Worker(module, number)
                done.put(Answer(task, worker.ask(task, limit_s), ""))
            except _WorkerError as error:
                done.put(Answer(task, None, str(error)))
                worker = None
    finally:
        if worker is not None:
            worker.end()


class _WorkerError(Exception):
    """The worker crashed or hung, and is gone."""


class _Worker:
    """One process."""

    def __init__(self, module: str, number: int) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "test"), os.environ.get("PYTHONPATH", "")])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen([sys.executable, "-m", module, str(number)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=self._errors, env=os.environ | {"PYTHONPATH": path})
        self._read(START_S)

    def ask(self, task: Task, limit_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost("crash") from None
        return self._read(limit_s)

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            pipe.close()

    def _read(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise self._lost("hang")
        line = self._process.stdout.readline()  # whole: a worker writes a line at once
        if not line:
            raise self._lost("crash")
        return dict(json.loads(line))

    def _lost(self, how: str) -> _WorkerError:
        code = self._process.poll() if how == "hang" else self._process.wait(30)
        self._errors.seek(0)
        said = self._errors.read()[-600:].decode(errors="replace")
        self.end()
        return _WorkerError(f"{how} (exit code {code}): {said}")


def serve(handle: Callable[[Task], dict[str, Any]]) -> None:
    """In a worker: answer every task on standard input. What else is printed goes to standard error."""
    answer_file = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if len(sys.argv) > 1:  # one core each, so that two workers do not take each other's
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(sys.argv[1]) % len(cores)]})
    print("{}", file=answer_file, flush=True)
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), file=answer_file, flush=True)
