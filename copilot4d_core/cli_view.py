# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The subcommand that shows scans and their reconstruction in the browser: view. Dispatch only."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import Any

from copilot4d_core.cli_model import add_model_arguments, open_chosen_runner

RERUN = "rerun-sdk>=0.38,<0.42"
"""Rerun's interface changes from release to release; these were tried. The extra `view` asks for the same."""


def add_view_command(commands: Any) -> None:
    """Add it to the parser's subcommands."""
    parser = commands.add_parser("view", help="show scans and their reconstruction in the browser")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders, files or bags")
    parser.add_argument("--topic", help="PointCloud2 topic of the bags")
    parser.add_argument("--sensor", metavar="NAME", help="rays of the reconstruction: a sensor, such as hdl64e, or the path of a sensor "
                        "file (default: 64 x 1024 rays, fitted to the first scan)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth scan (default 1: all)")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="at most N scans (default 100)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write a recording (.rrd) in place of showing it")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port of the page, which only this machine sees (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="open no browser, only print the address")
    add_model_arguments(parser)
    parser.set_defaults(run=_view)


def _view(parsed: argparse.Namespace) -> None:
    from copilot4d_core.atomic_file import check_writable
    from copilot4d_core.data.sensor_file import sensor_file
    from copilot4d_core.data.sources import open_all

    for name, least in (("every", 1), ("frames", 1), ("port", 0)):
        if getattr(parsed, name) < least:
            raise ValueError(f"--{name}: expected at least {least}, got {getattr(parsed, name)}")
    if parsed.port > 65535:
        raise ValueError(f"--port: expected at most 65535, got {parsed.port}")
    if parsed.out is not None:
        check_writable(parsed.out, ".rrd")
    pattern = None if parsed.sensor is None else sensor_file(parsed.sensor)
    sources = open_all(parsed.paths, parsed.topic)
    _check_rerun()
    from copilot4d_core.evaluation.view import Selection, serve, write

    selection = Selection(sources, parsed.every, parsed.frames)
    runner = open_chosen_runner(parsed)
    if parsed.out is not None:
        print(write(runner, selection, pattern, parsed.out))
    else:
        serve(runner, selection, pattern, parsed.port, with_browser=not parsed.no_browser)


def _check_rerun() -> None:
    oldest = RERUN.partition(">=")[2].partition(",")[0]
    try:
        version = importlib.metadata.version("rerun-sdk")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f'view: expected the package rerun-sdk, it is not installed; `pip install "{RERUN}"`') from None
    if _numbers(version) < _numbers(oldest):
        raise ValueError(f'view: expected rerun-sdk {oldest} or newer, got {version}; `pip install "{RERUN}"`')


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
