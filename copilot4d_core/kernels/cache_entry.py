# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""One compiled module in the root of the kernel cache: its files, and beside them the SHA-256 of each.

In: a folder of Warp's cache, or an entry. Out: an entry, or its files after checks.
Unusual: an entry appears whole, by a rename; and one that is not as it was written is refused, because it would be run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

INDEX = "files.json"


class Entry(NamedTuple):
    """A compiled module, for one kind of processor or GPU."""

    module: str
    """Name of its folder in Warp's cache."""
    files: dict[str, bytes]


def write_entry(modules: Path, folder: Path, names: list[str], workplace: Path) -> bool:
    """Put files of a folder of Warp's cache into the root.

    Args:
        modules: the root's folder of entries.
        folder: of Warp's cache, named like the module.
        names: files of `folder`.
        workplace: folder on the same file system for what is not yet whole.
    Returns:
        False if the entry is there already; the first one wins.
    """
    part = Path(tempfile.mkdtemp(prefix="part-", dir=workplace))
    digests = {}
    for name in names:
        data = (folder / name).read_bytes()
        (part / name).write_bytes(data)
        digests[name] = _digest(data)
    # No fsync: after a power cut the digests tell what is half there.
    (part / INDEX).write_text(json.dumps({"module": folder.name, "files": digests}))
    try:
        # The name tells the files, so that binaries for another processor or GPU make an entry of their own.
        os.rename(part, modules / f"{folder.name}+{_digest(repr(names).encode())[:12]}")
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(part)
        return False
    return True


def read_entry(path: Path) -> Entry | None:
    """An entry of the root; None if it is gone.

    Raises:
        ValueError: what lies there is not what was written.
        OSError: it cannot be read.
    """
    try:
        index = json.loads((path / INDEX).read_text())
        entry = Entry(index["module"], {name: (path / _plain(name)).read_bytes() for name in index["files"]})
        _plain(entry.module)
        changed = [name for name, data in entry.files.items() if _digest(data) != index["files"][name]]
    except FileNotFoundError as error:
        if not path.exists():
            return None
        raise ValueError(f"expected the file {Path(str(error.filename)).name}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected {INDEX} with a module and its files") from error
    if changed:
        raise ValueError(f"{changed[0]} is not as it was written")
    return entry


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(name: str) -> str:
    """Refuse a name that leads out of the folder."""
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"expected plain names in {INDEX}, got {name!r}")
    return name
