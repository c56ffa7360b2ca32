# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Damaged files through their readers, in workers that may crash or hang: `run` is the check.

A file is cut at every kilobyte, then single bytes of it are changed, in its head, in its tail and anywhere. As a module it is the worker.
Unusual: a worker counts what a reader has no business to do (start programs, unpickle, connect, write or delete files outside its folder),
and may take 2 GiB more memory than it starts with.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from trust.pool import Task, answers, serve
from trust.record import Record

LIMIT_S = 30.0
EDGE_BYTES = 3000
"""What counts as head or tail of a file."""
FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
             "shutil.rmtree", "ctypes.dlopen")
MORE_MEMORY_BYTES = 2 * 2**30
FAILURES = ("crash", "hang", "untyped error", "error that names no file", "wrong result", "execution")


def damaged(data: bytes, task: Task) -> bytes:
    """The file's bytes, cut or with one byte changed."""
    if "cut" in task:
        return data[:task["cut"]]
    at = task["at"]
    return data[:at] + bytes([data[at] ^ task["xor"]]) + data[at + 1:]


def tasks_of(sizes: dict[str, list[int]], most: int, number: int = 0) -> Iterator[Task]:
    """Cuts at every kilobyte of every file and changed bytes in turn, so many in all; the cuts are at most half."""
    cuts = [{"kind": kind, "file": file, "cut": cut} for kind, files in sizes.items() for file, size in enumerate(files)
            for cut in range(0, size, 1024)]
    rng = random.Random(number)
    rng.shuffle(cuts)
    del cuts[most // 2:]
    for index in range(most - len(cuts)):
        if index < len(cuts):
            yield cuts[index]
        kind = sorted(sizes)[index % len(sizes)]
        file = rng.randrange(len(sizes[kind]))
        size = sizes[kind][file]
        edge = min(size, EDGE_BYTES)
        at = rng.choice((rng.randrange(edge), size - 1 - rng.randrange(edge), rng.randrange(size)))
        yield {"kind": kind, "file": file, "at": at, "xor": rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))}


class Shelf:
    """Good files of every kind in folders of their own, and what is in them."""

    def __init__(self) -> None:
        from trust.file_kinds import KINDS

        self._kinds = KINDS
        self._folder = tempfile.TemporaryDirectory()  # as long as the worker

    @cache  # noqa: B019 - one shelf a process
    def _good(self, kind: str) -> tuple[list[Path], list[bytes], list[Any]]:
        folder = Path(self._folder.name) / kind.replace(" ", "_")
        folder.mkdir()
        paths = self._kinds[kind].make(folder)
        return paths, [path.read_bytes() for path in paths], [self._kinds[kind].read(path) for path in paths]

    def sizes(self) -> dict[str, list[int]]:
        """Bytes of each file of each kind."""
        return {kind: [len(data) for data in self._good(kind)[1]] for kind in self._kinds}

    def outcome(self, task: Task) -> str:
        """`refused`, `same content`, `other content` (of a kind without protection), or one of `FAILURES` with what happened."""
        from trust.file_kinds import same

        kind = self._kinds[task["kind"]]
        paths, datas, contents = self._good(task["kind"])
        path, data, content = paths[task["file"]], datas[task["file"]], contents[task["file"]]
        path.write_bytes(damaged(data, task))
        try:
            read = kind.read(path)
        except (ValueError, OSError) as error:
            # A ROS 2 bag is a folder, and an engine's sidecar is known by its engine.
            others = {"engine": "encoder.engine", "mcap bag": str(path.parent), "sqlite bag": str(path.parent)}
            named = path.name in str(error) or others.get(task["kind"], path.name) in str(error)
            return "refused" if named else f"error that names no file: {error!r}"
        except BaseException as error:
            return f"untyped error: {error!r}"
        finally:
            path.write_bytes(data)
        if same(read, content):
            return "same content"
        return "wrong result: other content" if kind.is_protected else "other content"


def run(seconds: float, most: int, command: str) -> Record:
    """Damaged files until the time is up or so many were tried."""
    started_s = spoken_s = time.monotonic()
    told: Counter[str] = Counter()
    failed: list[str] = []

    def in_time() -> Iterator[Task]:
        for task in tasks_of(Shelf().sizes(), most):
            if time.monotonic() - started_s > seconds:
                return
            yield task

    for answer in answers("trust.fuzz_files", in_time(), LIMIT_S):
        outcome = answer.failure or (answer.reply or {})["outcome"]
        word = next((word for word in FAILURES if outcome.startswith(word)), outcome)
        told.update(["tried", word, f"{answer.task['kind']}: {word}"])
        if word in FAILURES:
            failed.append(f"{answer.task}: {outcome}")
            print(failed[-1], flush=True)
        if time.monotonic() - spoken_s > 10.0:
            spoken_s = time.monotonic()
            print(f"files: {told['tried']:,} tried, {len(failed)} failures, {spoken_s - started_s:.0f} s", flush=True)
    return _record(told, failed, time.monotonic() - started_s, command)


def _record(told: Counter[str], failed: list[str], seconds: float, command: str) -> Record:
    words = dict(zip(FAILURES, ("crashes", "hangs", "untyped errors", "errors that name no file", "wrong results", "executions"), strict=True))
    found = (f"{told['refused']:,} refused by name, {told['same content']:,} gave the same content (the byte meant nothing), "
             f"{told['other content']:,} bags and PCD files, whose formats have no checksum of points, gave other points")
    return Record("files", "damaged", "weights, checkpoints, priors, exports, ONNX, manifests, token files and streams, recordings, settings, "
                  "sensors, engines, bags and PCD files, cut at every kilobyte or with one byte changed", told["tried"], "files",
                  {words[word]: told[word] for word in FAILURES}, found, command, seconds,
                  {"told": dict(sorted(told.items())), "failed": failed[:20]})


def main() -> None:
    """The worker."""
    events: list[str] = []
    shelf = Shelf()
    shelf.sizes()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in FORBIDDEN or (writes and tempfile.gettempdir() not in str(arguments[0])):
            events.append(f"{event}{arguments!r}")

    sys.addaudithook(watch)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MORE_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def handle(task: Task) -> dict[str, Any]:
        events.clear()
        outcome = shelf.outcome(task)
        return {"outcome": f"execution: {events}" if events else outcome}

    serve(handle)


if __name__ == "__main__":
    main()
