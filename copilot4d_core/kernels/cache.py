# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A kernel cache of its own for every process, filled from one root and merged back into it.

In: nothing, or the environment (XDG_CACHE_HOME). Out: the folder that Warp compiles into, while this process lives.
Unusual: Warp loads whatever lies in its cache. A damaged file there stops every later start, or is run as native code.
So each file of the root has its SHA-256 beside it and is copied only when that fits; what does not fit is compiled again.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from copilot4d_core.kernels.cache_entry import Entry, read_entry, write_entry
from copilot4d_core.kernels.process_folder import ProcessFolder, make_process_folder

_log = logging.getLogger(__name__)
MODULES, PROCESSES = "modules", "processes"
BINARIES = (".o", ".cubin", ".ptx")
META = ".meta"
MOST_ENTRIES = 128
"""Of the root, some MB, all of them read at every start; beyond it the oldest go."""
_UNFINISHED = re.compile(r"_p\d+_t\d+$")
"""How Warp ends the name of a folder that it is compiling into."""


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Where compiled kernels are kept between processes, one folder for each version of Warp.

    Raises:
        FileNotFoundError: there is no home folder.
    """
    chosen = environment.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    base = Path(chosen) if os.path.isabs(chosen) else Path(environment.get("HOME") or os.path.expanduser("~")) / ".cache"
    if not base.is_absolute():
        raise FileNotFoundError("this user has no home folder; set XDG_CACHE_HOME")
    return base / "copilot4d" / "kernels"


def use_process_cache(start_warp: Callable[[], None]) -> ProcessCache | None:
    """Give Warp a cache of this process's own, and start Warp; at exit new kernels go to the root, and the folder goes away.

    Args:
        start_warp: calls `wp.init()`.
    Returns:
        The cache; None where somebody else has chosen one (WARP_CACHE_PATH or `wp.config.kernel_cache_dir`).
    """
    import warp as wp

    if "WARP_CACHE_PATH" in os.environ or wp.config.kernel_cache_dir is not None:
        start_warp()
        return None
    cache = open_cache(wp.config.version)
    wp.config.kernel_cache_dir = str(cache.folder.path)
    start_warp()
    # Warp appended its version to the folder.
    cache.fill(Path(wp.config.kernel_cache_dir))
    atexit.register(cache.close)
    return cache


def open_cache(version: str) -> ProcessCache:
    """A folder for this process, under the root if that can be written, else under the system's temporary folder.

    Args:
        version: of Warp.
    """
    modules = None
    try:
        root = cache_root() / version
        modules = root / MODULES
        modules.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_trusted(modules)
        return ProcessCache(modules, make_process_folder(root / PROCESSES), is_writable=True)
    except OSError as error:
        folder = make_process_folder(Path(tempfile.gettempdir()))
        _log.warning("kernel cache: %s cannot be used (%s); new kernels are compiled into %s and are gone at exit; "
                     "set XDG_CACHE_HOME to a folder of your own", modules, error, folder.path)
    return ProcessCache(modules if modules is not None and _is_readable(modules) else None, folder, is_writable=False)


def _check_trusted(folder: Path) -> None:
    """Refuse a folder that others may write: what lies there is run."""
    found = folder.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} can be written by other users")


def _is_readable(modules: Path) -> bool:
    try:
        _check_trusted(modules)
        os.listdir(modules)
    except OSError:
        return False
    return True


class ProcessCache:
    """The cache of one process, and the root that it comes from."""

    def __init__(self, modules: Path | None, folder: ProcessFolder, is_writable: bool) -> None:
        """Hold what `open_cache` found.

        Args:
            modules: entries of the root; None if there is none to read.
            folder: of this process.
            is_writable: whether new entries go to the root.
        """
        self.modules, self.folder, self.is_writable = modules, folder, is_writable
        self._warp_folder = folder.path
        self._known: set[tuple[str, str]] = set()
        self._process, self._is_open = os.getpid(), True

    def fill(self, warp_folder: Path) -> int:
        """Copy the entries of the root whose files are as they were written; damaged ones are thrown away.

        Args:
            warp_folder: where Warp looks for modules, inside `folder`.
        Returns:
            How many entries were copied.
        """
        self._warp_folder = warp_folder
        count = 0
        for entry in sorted(self.modules.iterdir()) if self.modules is not None else []:
            try:
                found = read_entry(entry)
            except (OSError, ValueError) as error:
                _log.warning("kernel cache: %s is damaged (%s); its kernels are compiled again", entry, error)
                self._discard(entry)
            else:
                count += found is not None and self._take(found)
        return count

    def _take(self, entry: Entry) -> bool:
        folder = self._warp_folder / entry.module
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in entry.files.items():
                (folder / name).write_bytes(data)
        except OSError as error:
            # Half a file would be loaded.
            shutil.rmtree(folder, ignore_errors=True)
            _log.warning("kernel cache: %s could not be copied (%s)", folder, error)
            return False
        self._known.update((entry.module, name) for name in entry.files)
        return True

    def publish(self) -> int:
        """Give the root what was compiled since the start; of two processes with the same module the first one wins.

        Returns:
            How many entries are new in the root.
        """
        if not self.is_writable or self.modules is None:
            return 0
        try:
            count = sum(self._publish(self.modules, folder) for folder in sorted(self._warp_folder.glob("wp_*")))
            for entry in sorted(self.modules.iterdir(), key=_written)[:-MOST_ENTRIES]:
                self._discard(entry)
        except OSError as error:
            _log.warning("kernel cache: new kernels could not be kept in %s (%s)", self.modules, error)
            return 0
        return count

    def _publish(self, modules: Path, folder: Path) -> bool:
        if _UNFINISHED.search(folder.name):
            return False
        new = sorted(file.name for file in folder.iterdir() if file.suffix in BINARIES and (folder.name, file.name) not in self._known)
        meta = f"{folder.name}{META}"
        if not new or not (folder / meta).is_file():
            return False
        is_new = write_entry(modules, folder, [meta, *new], self.folder.path)
        self._known.update((folder.name, name) for name in new)
        return is_new

    def _discard(self, entry: Path) -> None:
        """Move it away at once, then remove it: no process sees a half."""
        # It stays where the root cannot be written, and is gone where another process was first.
        with contextlib.suppress(OSError):
            grave = Path(tempfile.mkdtemp(prefix="gone-", dir=self.folder.path))
            os.rename(entry, grave / entry.name)
            shutil.rmtree(grave, ignore_errors=True)

    def close(self) -> None:
        """Publish, and remove this process's folder; does nothing in a forked child, which shares the folder with its parent."""
        if os.getpid() != self._process or not self._is_open:
            return
        self._is_open = False
        self.publish()
        self.folder.remove()


def _written(entry: Path) -> int:
    """When an entry was made; 0 if it is gone."""
    try:
        return entry.stat().st_mtime_ns
    except OSError:
        return 0
