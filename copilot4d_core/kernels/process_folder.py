# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A folder that lives as long as its process, even when the process is killed.

In: the folder to make it in. Out: a new folder, and a lock that the system drops with the process.
Unusual: a process number says nothing in another container, so a lock tells the living from the dead; folders without one are swept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

PREFIX = "copilot4d-kernels-"
LOCK = "lock"
_GRACE_S = 3600.0
"""A folder that has no lock file this long after its making has lost its process."""


class ProcessFolder(NamedTuple):
    """A folder of this process."""

    path: Path
    lock: int
    """Open descriptor of the locked file."""

    def remove(self) -> None:
        """Remove the folder and drop the lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def make_process_folder(parent: Path) -> ProcessFolder:
    """A new locked folder; sweeps those beside it whose process is gone.

    Args:
        parent: made where it is missing.
    Raises:
        OSError: the place cannot be written, or knows no locks.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(parent)
    for _ in range(100):
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = os.open(path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        if _try_lock(lock) and os.fstat(lock).st_nlink:
            return ProcessFolder(path, lock)
        # Another process swept it between the file's making and its lock.
        os.close(lock)
    raise OSError(errno.EAGAIN, "expected to lock a new folder", str(parent))


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sweep(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path / LOCK, os.O_RDWR)
        except FileNotFoundError:
            if _age_s(path) > _GRACE_S:
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # of another user
        else:
            if _try_lock(lock):
                shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
