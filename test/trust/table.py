# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/reliability.md from the records in out/trust: `PYTHONPATH=test python -m trust.table`.

What goes in: records, and the document with two marks. What comes out: the document with a row for each record between them.
Unusual: a row without a record stays as it is, so that whoever repeats one check changes one row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trust.record import AREAS, OUT, ROOT

DOCUMENT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: written by the commands in them -->", "<!-- end of rows -->"
HEAD = ("| check | what was tried | failures | what came of it | command | run |", "|---|---|---|---|---|---|")


def row(tree: dict[str, Any]) -> str:
    """One line of the table from one record file."""
    failures = ", ".join(f"{count:,} {kind}" for kind, count in tree["failures"].items())
    bold = "**" if any(tree["failures"].values()) else ""
    cells = [f"{tree['area']}/{tree['name']}", f"{tree['tried']:,} {tree['unit']}: {tree['what']}", f"{bold}{failures}{bold}", tree["found"],
             f"`{tree['command']}`", f"{tree['date']}, {tree['commit']}, {tree['seconds']:,.0f} s"]
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def merged(text: str, records: list[dict[str, Any]]) -> str:
    """The document with the rows of these records in place of those of the same name.

    Raises:
        ValueError: the document has lost its marks.
    """
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT}: expected the lines {BEGIN!r} and {END!r}, between which the rows go")
    rows = {name: line for line in old.splitlines() if (name := _name(line))} | {_name(line): line for line in map(row, records)}
    lines = [*HEAD, *(rows[name] for name in sorted(rows, key=_order))]
    return f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}"


def _name(line: str) -> str:
    """Area and name of a row; empty for a line that is none."""
    cells = line.split("|")
    name = cells[1].strip() if len(cells) > 2 else ""
    return name if name.partition("/")[0] in AREAS and "/" in name else ""


def _order(name: str) -> tuple[int, str]:
    area, _, rest = name.partition("/")
    return AREAS.index(area), rest


def write_table(folder: Path = OUT, document: Path = DOCUMENT) -> None:
    """Bring the document up to date with all records of a folder."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    document.write_text(merged(document.read_text(), records))


if __name__ == "__main__":
    write_table()
