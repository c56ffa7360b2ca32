# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The table of docs/reliability.md: one row a record, other rows stay, failures are seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from trust.record import Record, write_record
from trust.table import BEGIN, DOCUMENT, END, merged, write_table

RECORD = Record("files", "weights", "single bits flipped", 1234, "files", {"crashes": 0, "hangs": 0}, "all refused by name", "make fuzz", 2.04)
OLD = "| soak/node | 36,000 frames: 10 Hz | 0 losses | a slope | `make soak` | 2026-01-01, abc, 3,600 s |"


def test_records_become_rows_and_rows_of_others_stay(tmp_path: Path) -> None:
    document = tmp_path / "reliability.md"
    document.write_text(f"above\n{BEGIN}\n| check | head |\n|---|---|\n{OLD}\n| files/weights | older |\n{END}\nbelow\n")
    path = write_record(RECORD, tmp_path)
    assert path.name == "files.weights.json"
    assert json.loads(path.read_text()).keys() >= {"date", "commit", "machine", *dataclasses.asdict(RECORD)}
    write_table(tmp_path, document)
    text = document.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "older" not in text
    rows = [line for line in text.splitlines() if line.startswith(("| files/", "| soak/"))]
    assert rows[1] == OLD
    assert rows[0].startswith("| files/weights | 1,234 files: single bits flipped | 0 crashes, 0 hangs | all refused by name | `make fuzz` | 20")
    write_table(tmp_path, document)
    assert document.read_text() == text


def test_a_failure_is_seen(tmp_path: Path) -> None:
    failed = dataclasses.replace(RECORD, failures={"crashes": 2, "hangs": 0})
    assert RECORD.passed and not failed.passed
    assert "| **2 crashes, 0 hangs** |" in merged(f"{BEGIN}{END}", [json.loads(write_record(failed, tmp_path).read_text())])


def test_records_that_no_row_can_be_made_of_are_refused() -> None:
    for change in ({"area": "other"}, {"name": "a b"}, {"failures": {}}):
        with pytest.raises(ValueError, match="expected an area"):
            dataclasses.replace(RECORD, **change)  # type: ignore[arg-type]


def test_the_document_has_its_marks() -> None:
    assert merged(DOCUMENT.read_text(), []) == DOCUMENT.read_text()
