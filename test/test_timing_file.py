# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Timings of a build are taken again where they hold, and nowhere else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from copilot4d_core.deploy.engine_file import (
    EngineKey,
    read_timing_cache,
    write_timing_cache,
)

KEY = EngineKey("5e" * 32, "tensorrt", "10.3.0", "Orin", "8.7", "540.4.0", "fp16", "patches float32 2x3 -> tokens int32 2")
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "engines"
    path.mkdir()
    return path


def test_timings_come_back_where_they_hold(folder: Path) -> None:
    path = folder / "encoder.engine.timing"
    write_timing_cache(path, b"timings", KEY.environment)
    assert read_timing_cache(path, KEY.environment) == b"timings"
    assert read_timing_cache(path, replace(KEY, onnx_sha256="another", precision="fp32", shapes="another").environment) == b"timings"


@pytest.mark.parametrize("name", ["library", "library_version", "gpu_name", "compute_capability", "driver"])
def test_timings_of_another_environment_are_not_taken(folder: Path, name: str) -> None:
    path = folder / "encoder.engine.timing"
    write_timing_cache(path, b"timings", KEY.environment)
    assert read_timing_cache(path, replace(KEY, **{name: "another"}).environment) is None


def test_damaged_and_foreign_timings_are_not_taken(folder: Path, state: Path) -> None:
    path = folder / "encoder.engine.timing"
    assert read_timing_cache(path, KEY.environment) is None
    write_timing_cache(path, b"timings", KEY.environment)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x80]) + whole[position + 1:])
        assert read_timing_cache(path, KEY.environment) is None
        path.write_bytes(whole[:position])
        assert read_timing_cache(path, KEY.environment) is None
    path.write_bytes(whole)
    shutil.rmtree(state)
    assert read_timing_cache(path, KEY.environment) is None
