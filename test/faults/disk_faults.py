# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at any byte of a file that is being written: the old file or the new one is there whole, and the error names the file.

Unusual: the disk is real, a tmpfs of 4 MiB that is mounted in a user and mount namespace of its own, where no right of root is needed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faults.outcome import Outcome, expect

DISK_BYTES, PAGE_BYTES = 4 * 2**20, 4096
IN_A_FILE_SYSTEM_OF_ITS_OWN = ("unshare", "--user", "--map-root-user", "--mount")


class Kind(NamedTuple):
    """Something that the package writes."""

    write: Callable[[Path, int], None]
    """Version 0 or 1 of it."""
    is_version: Callable[[Path, int], bool]
    """Whether a whole version 0 or 1 is there."""
    may_be_gone: bool
    """Whether a failed write may leave neither."""


def engine() -> Kind:
    """An engine and its sidecar: no old engine may ever lie beside a new sidecar, so a failed write may leave none."""
    from copilot4d_core.deploy.engine_file import EngineKey, read_engine, write_engine

    keys = [EngineKey("a" * 64, "tensorrt", "10.3", "simulated", "8.7", driver, "fp32", "tokens") for driver in ("540.0", "545.0")]
    return Kind(lambda path, version: write_engine(path, bytes([version]) * 300_000, keys[version]),
                lambda path, version: read_engine(path, keys[version]) == bytes([version]) * 300_000, True)


def token_file() -> Kind:
    """`copilot4d encode --out`."""
    from copilot4d_core.config import preset
    from copilot4d_core.deploy.token_file import load_tokens, save_tokens

    config = preset("mini")
    tokens = [np.random.default_rng(version).integers(0, 1024, (64, 64)).astype(np.uint16) for version in (0, 1)]
    return Kind(lambda path, version: save_tokens(path, tokens[version], "mini-test", config),
                lambda path, version: path.exists() and bool((load_tokens(path).tokens == tokens[version]).all()), False)


def checkpoint() -> Kind:
    """The checkpoint of a training run."""
    from copilot4d_core.config import preset
    from copilot4d_core.training.checkpoint import load_checkpoint, save_checkpoint
    from copilot4d_core.training.training_module import TrainingModule

    module = TrainingModule(preset("tiny"))

    def write(path: Path, version: int) -> None:
        module.steps_done = version
        save_checkpoint(path, module)

    def is_version(path: Path, version: int) -> bool:
        load_checkpoint(path, module)
        return module.steps_done == version

    return Kind(write, is_version, False)


def recording() -> Kind:
    """A bag, which is never written over: version 1 is a bag beside an older one."""
    from copilot4d_core.data.bag import BagScans, write_cloud_bag
    from copilot4d_core.data.scan import scan_from_points

    points = np.random.default_rng(1).uniform(-9, 9, (4, 8000, 3)).astype(np.float32)
    scans = [scan_from_points(str(number), cloud, None, raw_bytes=0, stamp_ns=number) for number, cloud in enumerate(points)]

    def is_version(path: Path, version: int) -> bool:
        bag = path / str(version)
        return bag.exists() and all(
            (one.points_m == other.points_m).all() for one, other in zip(BagScans(bag), scans, strict=True))

    def write(path: Path, version: int) -> None:
        path.mkdir(exist_ok=True)
        write_cloud_bag(path / str(version), "/points", scans)

    return Kind(write, is_version, False)


KINDS: dict[str, Callable[[], Kind]] = {"engine": engine, "token-file": token_file, "checkpoint": checkpoint, "recording": recording}


def full_disk(kind: str, folder: Path, steps: int) -> Outcome:
    """Write something while the disk has room for 0, a little more, ..., and at last for all of it; in a child with a disk of its own.

    Raises:
        RuntimeError: the child failed.
    """
    here = Path(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here.parents[2])]), "XDG_STATE_HOME": str(folder / "state")}
    command = [*IN_A_FILE_SYSTEM_OF_ITS_OWN, sys.executable, "-m", "faults.disk_faults", kind, str(folder), str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"full disk: {done.stderr}")
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def can_mount() -> bool:
    """Whether this machine lets a user mount a file system in a namespace."""
    try:
        command = [*IN_A_FILE_SYSTEM_OF_ITS_OWN, "mount", "-t", "tmpfs", "test", "/mnt"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _on_a_small_disk(name: str, folder: Path, steps: int) -> Outcome:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "test", str(folder)], check=True)
    kind, outcome, path = KINDS[name](), Outcome(f"disk full while writing: {name}"), folder / "place" / name
    path.parent.mkdir()
    kind.write(path, 0)
    kind.write(folder / "measure", 1)
    size = _used(folder / "measure") + _used(folder / "measure.json") + 8 * PAGE_BYTES
    _remove(folder / "measure")
    _remove(folder / "measure.json")
    for step in range(steps + 1):
        with outcome.case():
            _fill(folder / "filler", size * step // steps)
            outcome.figures["was_full"] = outcome.figures.get("was_full", 0) + _was_full(kind, path)
            (folder / "filler").unlink()
            _remove(path)
            kind.write(path, 0)
    with outcome.case(counts=0):
        kind.write(path, 1)
        expect(kind.is_version(path, 1), "with room for all of it, it is not there")
        expect(0 < outcome.figures["was_full"] < steps + 1, "the disk was never full, or always")
    return outcome


def _was_full(kind: Kind, path: Path) -> bool:
    """Whether the disk had too little room for version 1."""
    before = {file.name for file in path.parent.iterdir()}
    try:
        kind.write(path, 1)
    except OSError as error:
        expect(error.errno == errno.ENOSPC and path.name in str(error), f"another error than a full disk that names the file: {error!r}")
        left = {file.name for file in path.parent.iterdir()} - before
        expect(not left, f"left behind: {left}")
        expect(kind.is_version(path, 0) or (kind.may_be_gone and not path.exists()), "the old one is damaged")
        return True
    expect(kind.is_version(path, 1), "no error, and the new one is not there")
    return False


def _fill(filler: Path, free: int) -> None:
    """A file that leaves so many bytes, in whole pages."""
    status = os.statvfs(filler.parent)
    room = status.f_bavail * status.f_frsize - free // PAGE_BYTES * PAGE_BYTES
    filler.write_bytes(bytes(max(room, 0)))


def _used(path: Path) -> int:
    files = [path, *path.rglob("*")] if path.is_dir() else [path] if path.exists() else []
    return sum(file.stat().st_blocks * 512 for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


if __name__ == "__main__":
    print(json.dumps(asdict(_on_a_small_disk(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))))
