# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a check found, as one JSON file: `out/trust/AREA.NAME.json`; `table.py` makes docs/reliability.md of all of them.

What goes in: what was tried and what came of it. What comes out: the same with date, commit and machine.
Unusual: a check with failures is written like any other, so that a table never shows an older run that went better.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "trust"
AREAS = ("messages", "files", "faults", "training", "soak", "recordings")
"""In the order of the table."""


@dataclass(frozen=True)
class Record:
    """One row of the table."""

    area: str
    """One of `AREAS`."""
    name: str
    """Lower case, digits, hyphens: names the file, and the row for good."""
    what: str
    """What was done, in one sentence without a full stop."""
    tried: int
    unit: str
    """Of `tried`, in the plural: messages, files, kills, frames."""
    failures: Mapping[str, int]
    """Every kind of failure that was looked for, with its count; all 0 means passed. Such as {"crashes": 0, "hangs": 0}."""
    found: str
    """What came of it, with the figures that matter, in one sentence without a full stop."""
    command: str
    """What reproduces the row, such as `make fuzz TIME=600`."""
    seconds: float
    """Wall time of the check."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Anything more that JSON holds; not in the table."""

    def __post_init__(self) -> None:
        if self.area not in AREAS or not re.fullmatch(r"[a-z0-9-]+", self.name) or not self.failures:
            raise ValueError(f"record: expected an area of {', '.join(AREAS)}, a name of a-z, 0-9 and hyphens, and failures that were looked for, "
                             f"got {self.area!r}, {self.name!r} and {dict(self.failures)}")

    @property
    def passed(self) -> bool:
        """Whether nothing that was looked for happened."""
        return not any(self.failures.values())


def write_record(record: Record, folder: Path = OUT) -> Path:
    """Write a record with the date, the commit and the machine of this moment; an older one of that name is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {**asdict(record), "seconds": round(record.seconds, 1), "date": datetime.date.today().isoformat(), "commit": commit(),
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}"}
    path = folder / f"{record.area}.{record.name}.json"
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(tree, indent=1) + "\n")
    temporary.replace(path)
    return path


def commit() -> str:
    """Short hash of the checkout, with a plus where tracked files differ from it; `unknown` outside a checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # The table itself is written by these runs, and no part of what they try.
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/reliability.md")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
