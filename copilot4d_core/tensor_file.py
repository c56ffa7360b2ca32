# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Named arrays and a header in one safetensors file, with a checksum of both.

What goes in: arrays, and entries that JSON holds. What comes out: the same, or a refusal; nothing in the file is code.
Unusual: a flipped bit gives other finite weights, which no check of names and shapes sees, so the header carries a SHA-256 of all
that it describes. Files from before that have none: a list beside them, as `sha256sum` writes it, may say what they should be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from copilot4d_core.atomic_file import replacing_file

CHECKSUM = "content_sha256"
LIST = "SHA256SUMS"
"""Beside a file; what it does not list is read as it is."""
Array = npt.NDArray[Any]


def write_arrays(path: Path, arrays: Mapping[str, Array], entries: Mapping[str, Any]) -> None:
    """Write arrays and entries (JSON values); an existing file is replaced at once or left as it was."""
    packed = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = {key: json.dumps(value) for key, value in entries.items()}
    header[CHECKSUM] = json.dumps(content_sha256(packed, header))
    with replacing_file(path) as file:
        file.write(save(packed, header))


def read_arrays(path: Path, expected: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and entries of a file, its checksum verified where it has one.

    Args:
        expected: what the file should be, for a refusal.
    Raises:
        ValueError: no whole safetensors file with JSON entries, or one that was altered; the message names the file.
        FileNotFoundError: no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            header = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        entries = {key: json.loads(value) for key, value in header.items()}
    except FileNotFoundError:
        raise
    except (SafetensorError, ValueError, TypeError, RecursionError, OSError) as error:
        raise ValueError(f"{path}: expected {expected}, got: {error}") from error
    if CHECKSUM in entries and entries.pop(CHECKSUM) != content_sha256(arrays, header):
        raise ValueError(f"{path}: expected the content of its checksum, got other; the file was damaged or altered: copy or make it again")
    _check_listed(path)
    return arrays, entries


def _check_listed(path: Path) -> None:
    listed = path.with_name(LIST)
    if not listed.is_file():
        return
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in listed.read_text(errors="replace").splitlines())}
    if path.name in expected and expected[path.name] != hashlib.sha256(path.read_bytes()).hexdigest():
        raise ValueError(f"{path}: expected the file that {listed} lists, got another; it was damaged or altered: copy it again, or take it off the "
                         "list")


def content_sha256(arrays: Mapping[str, Array], header: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and bytes of the arrays and of all header entries but itself, each in the order of its name."""
    digest = hashlib.sha256()
    digest.update(json.dumps([[key, header[key]] for key in sorted(header) if key != CHECKSUM]).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
