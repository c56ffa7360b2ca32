# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Shared memory that Fast DDS leaves behind when a process dies: 64 MiB each time with the shipped profile, until the machine starts anew.

What goes in: nothing. What comes out: how much was freed. Unusual: a process that lives holds a lock on each of its segments, so that one
that nobody locks is of a dead process, whoever started it; Fast DDS's own tool (`fastdds shm clean`) tells them apart in the same way.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # read and unlinked only, never written to  # nosec B108
_LOCK_FILE = re.compile(r"(fastdds|fastrtps)_[0-9a-f]{16}_el")
_SETTLED_S = 10.0
"""A process makes its lock file just before it locks it; one so old is past that."""


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> int:
    """Remove what dead processes left; segments of other users stay, as does whatever cannot be removed.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    for lock_file in folder.glob("fast*_el"):
        if _LOCK_FILE.fullmatch(lock_file.name):
            with suppress(OSError):  # of another user, locked by who lives, or gone meanwhile
                freed += _removed(lock_file)
    return freed


def _removed(lock_file: Path) -> int:
    segment = lock_file.with_name(lock_file.name.removesuffix("_el"))
    with lock_file.open("rb") as file:
        if time.time() - os.fstat(file.fileno()).st_mtime < _SETTLED_S:
            return 0
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.stat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock_file.unlink()
    return size
