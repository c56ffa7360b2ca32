# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Writing a file so that a reader sees the old one or the new one, never a half.

What goes in: a path. What comes out: a binary file that takes that path when it was written without an error.
Unusual: the bytes go to a hidden neighbour first, so the folder must allow new files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def check_writable(path: Path, ending: str = "") -> None:
    """Refuse a place that cannot take a file; for a look before long work.

    Args:
        ending: what the name must end with, such as ".pcd".
    Raises:
        ValueError: another ending.
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: the path is a folder.
    """
    if not path.name.lower().endswith(ending):
        raise ValueError(f"{path}: expected a name that ends in {ending}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected a file to write, it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist; create it first")


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Errors of the system inside the block name the path; a write to an open file does not know it.

    Raises:
        OSError: as inside, with the path where it had none.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Binary file that replaces `path` when the block ends; after an error the old file is as it was.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: the path is a folder.
        OSError: the disk is full, or takes no file for another reason; names the path.
    """
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming_errors(path), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
