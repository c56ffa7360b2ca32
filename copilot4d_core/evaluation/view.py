# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The view of a drive: written into a file, or shown in the browser while it is made.

What goes in: a runner and scans. What comes out: an `.rrd` file, or a page on this machine.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from copilot4d_core.atomic_file import replacing_file
from copilot4d_core.data.scan import Scan, ScanSource
from copilot4d_core.data.sensors import SensorPattern
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.evaluation.viewer import DriveRecording
from copilot4d_core.evaluation.viewer_page import Page


class Selection(NamedTuple):
    """Which scans are shown."""

    sources: list[ScanSource]
    """One after the other."""
    every: int
    """Only every Nth scan."""
    frames: int
    """At most so many."""

    @property
    def name(self) -> str:
        """Of the drive, for the reader."""
        return ", ".join(source.name for source in self.sources)

    @property
    def available(self) -> int:
        """Scans without the limit of `frames`."""
        return math.ceil(sum(map(len, self.sources)) / self.every)

    def __iter__(self) -> Iterator[tuple[int, Scan]]:  # type: ignore[override]
        """The scans and their numbers, counted through all sources."""
        scans = enumerate(itertools.chain.from_iterable(self.sources))
        return itertools.islice(scans, 0, self.every * self.frames, self.every)


def write(runner: Runner, selection: Selection, pattern: SensorPattern | None, out: Path) -> str:
    """Write a recording for Rerun's viewer; an existing file is replaced at once or left as it was.

    Args:
        runner: closed afterwards.
        pattern: rays of the reconstruction; None fits an even pattern to the first scan.
        out: `.rrd` file.
    Returns:
        One line for the reader.
    Raises:
        ValueError: no scan has a return inside the model's region.
    """
    with replacing_file(out) as file, runner:
        with DriveRecording(runner, selection.name, Path(file.name), pattern) as drive:
            _record(drive, selection)
        return f"{out}: {drive.frames} scans; `rerun {out}` shows them"


def serve(runner: Runner, selection: Selection, pattern: SensorPattern | None, port: int, with_browser: bool) -> None:
    """Show a drive in the browser, from the first scan on, until Ctrl-C.

    Args:
        runner: closed when every scan is reconstructed.
        port: 0 takes a free one.
        with_browser: open the page if there is a display.
    Raises:
        ValueError: no scan has a return inside the model's region.
        OSError: the port is taken.
        KeyboardInterrupt: Ctrl-C before the last scan was reconstructed; later it is the way to end.
    """
    with runner:
        with tempfile.TemporaryDirectory(prefix="copilot4d_view_") as folder:
            path = Path(folder) / "drive.rrd"
            drive = DriveRecording(runner, selection.name, path, pattern)
            recording = path.open("rb")
        # The name is gone already, so nothing is left behind, however this process ends.
        with recording, Page(recording, port) as page:
            print(f"{selection.name}: {page.address} (Ctrl-C ends)", flush=True)
            if with_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
                webbrowser.open(page.address)
            with drive:
                _record(drive, selection)
            page.finish()
            try:
                print(f"{drive.frames} scans shown", flush=True)
                threading.Event().wait()
            except KeyboardInterrupt:
                return


def _record(drive: DriveRecording, selection: Selection) -> None:
    count = min(selection.available, selection.frames)
    if count < selection.available:
        print(f"{count} of {selection.available} scans; --frames N takes more", file=sys.stderr)
    for number, scan in track(iter(selection), description=selection.name, total=count, console=Console(stderr=True), transient=True):
        drive.add(number, scan)
    if drive.left_out:
        print(f"left out, because no return lies inside the model's region: {', '.join(drive.left_out)}", file=sys.stderr)
    if not drive.frames:
        raise ValueError(f"{selection.name}: expected scans with returns inside the model's region, got none in "
                         f"{len(drive.left_out)} scans; check the frame and unit of the points")
