# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a standard download of a data set looks like: in which folders below its root the scans lie.

What goes in: a path. What comes out: the folders with scans, or none where the path is no such download.
Unusual: a data set that comes in splits is opened split by split, so that nobody trains on its test split unawares.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from copilot4d_core.data.scan import Scan


class Layout(NamedTuple):
    """One data set."""

    name: str
    ending: str
    """Of the files with scans."""
    folders: Callable[[Path], list[Path]]
    """Folders with scans below a path, in order; none where the path is no download of this data set. ValueError: several splits."""
    read: Callable[[Path], Scan]
    by_name: bool = False
    """Whether the files of all folders together go by name, and not folder by folder."""


def subfolders(path: Path, pattern: str = ".+") -> list[Path]:
    """Folders in a folder whose whole name fits a regular expression, by name; none where there is no such folder."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return [path / name for name in sorted(entry.name for entry in entries if entry.is_dir() and re.fullmatch(pattern, entry.name))]


def only_split(path: Path, names: Iterable[str], folders: Callable[[Path], list[Path]]) -> list[Path]:
    """Folders with scans of the only split below a path.

    Args:
        names: of the splits there may be.
        folders: of one split.
    Raises:
        ValueError: several splits are there.
    """
    found = {name: inside for name in names if (inside := folders(path / name))}
    if len(found) > 1:
        raise ValueError(f"{path}: expected one split, the folder holds {', '.join(found)}; name those that you mean, "
                         f"such as {' '.join(str(path / name) for name in list(found)[:2])}")
    return next(iter(found.values()), [])


def holds(folder: Path, pattern: str) -> bool:
    """Whether the first `.bin` file that a folder lists has a name that fits a regular expression; no folder: no."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        first = next((entry.name for entry in entries if entry.name.endswith(".bin")), "")
    return re.fullmatch(pattern, first) is not None
