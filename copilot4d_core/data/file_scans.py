# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Scans that lie in one file each, in one folder or in many thousands.

What goes in: folders. What comes out: a `ScanSource`, which reads a file when its scan is asked for.
Unusual: names are kept in one array of bytes: a list of 400,000 paths would take ten times the memory, and each
process that reads it a copy of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from copilot4d_core.data.scan import Scan


class FileList:
    """Paths of many files, without opening or asking after any of them."""

    def __init__(self, folders: list[Path], names: list[list[str]], by_name: bool = False) -> None:
        """Sort the files by folder, and in each by name.

        Args:
            folders: in order.
            names: of the files in each.
            by_name: sort by name alone, across all folders.
        """
        self._folders = folders
        encoded = [np.sort(np.array(list(map(os.fsencode, some)), dtype=np.bytes_)) for some in names]
        self._names: npt.NDArray[np.bytes_] = np.concatenate(encoded)
        self._folder = np.repeat(np.arange(len(folders), dtype=np.uint32), [len(some) for some in names])
        if by_name:
            order = np.argsort(self._names, kind="stable")
            self._names, self._folder = self._names[order], self._folder[order]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Path:
        folder: Path = self._folders[self._folder[index]]
        return folder / os.fsdecode(self._names[index])


def file_names(folder: Path) -> list[str]:
    """Names of the files in a folder, in no order."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_file()]


class FileScans:
    """The scans of a list of files."""

    def __init__(self, name: str, files: FileList, read: Callable[[Path], Scan], root: Path | None = None) -> None:
        """Open no file yet.

        Args:
            name: of the data set.
            files: one scan each.
            read: reads one.
            root: folder from which a scan's name tells its place; None: names as the reader gives them.
        """
        self._name, self._files, self._read, self._root = name, files, read, root

    @property
    def name(self) -> str:
        """Name of the folder, or of the only file."""
        return self._name

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Scan:
        path = self._files[index]
        scan = self._read(path)
        return scan if self._root is None else scan._replace(name=f"{path.parent.relative_to(self._root).as_posix()}/{scan.name}")

    def __iter__(self) -> Iterator[Scan]:
        return map(self.__getitem__, range(len(self)))
