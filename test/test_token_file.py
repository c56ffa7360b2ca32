# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token files: what is written comes back, and whatever else lies there is refused by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from copilot4d_core.config import preset
from copilot4d_core.deploy.token_file import check_model, load_tokens, save_tokens

CONFIG = preset("tiny")
"""16 x 16 tokens, 64 codes."""
MODEL = "tiny-0123456789ab"
TOKENS = np.arange(256, dtype=np.uint16).reshape(16, 16) % 64


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.npz"
    save_tokens(path, TOKENS, MODEL, CONFIG)
    return path


def test_what_is_written_comes_back(saved: Path) -> None:
    file = load_tokens(saved)
    assert file.tokens.dtype == np.uint16
    assert np.array_equal(file.tokens, TOKENS)
    assert file.model_id == MODEL
    check_model(saved, file, MODEL, CONFIG)


def test_the_arrays_are_plain_numpy(saved: Path) -> None:
    with np.load(saved, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["model_id", "schema_version", "tokens"]
        assert arrays["tokens"].dtype == np.uint16
        assert str(arrays["model_id"]) == MODEL


def test_invalid_token_is_kept(tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[3, 5] = 65535
    save_tokens(tmp_path / "t.npz", tokens, MODEL, CONFIG)
    assert load_tokens(tmp_path / "t.npz").tokens[3, 5] == 65535


@pytest.mark.parametrize(("tokens", "message"), [
    (TOKENS[:, :8], r"shape \(16, 16\).*\(16, 8\)"),
    (TOKENS.astype(np.int32), "uint16.*int32"),
    (np.full((16, 16), 64, dtype=np.uint16), "below 64.*got 64"),
])
def test_tokens_that_no_such_model_makes_are_not_written(tmp_path: Path, tokens: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_tokens(tmp_path / "t.npz", tokens, MODEL, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def broken(file: object, **arrays: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        save_tokens(saved, TOKENS, MODEL, CONFIG)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save_tokens(tmp_path / "nowhere" / "t.npz", TOKENS, MODEL, CONFIG)


def test_every_truncation_is_refused_by_name(saved: Path) -> None:
    whole = saved.read_bytes()
    for length in range(0, len(whole), 7):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"tokens\.npz"):
            load_tokens(saved)


def test_damaged_bytes_never_give_other_tokens(saved: Path) -> None:
    whole = saved.read_bytes()
    for position in range(len(whole)):
        saved.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1:])
        try:
            file = load_tokens(saved)
        except ValueError as error:
            assert "tokens.npz" in str(error)
        else:
            assert np.array_equal(file.tokens, TOKENS)
            assert file.model_id == MODEL


@pytest.mark.parametrize("content", [b"", b"no archive at all", np.arange(9).tobytes()])
def test_foreign_bytes_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.npz.*token file"):
        load_tokens(path)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"tokens": TOKENS}, "model_id"),
    ({"tokens": TOKENS, "model_id": np.array(MODEL), "schema_version": np.array(2)}, "version 1, got 2"),
    ({"tokens": TOKENS, "model_id": np.array(7), "schema_version": np.array(1)}, "model_id as one text"),
    ({"tokens": TOKENS.ravel(), "model_id": np.array(MODEL), "schema_version": np.array(1)}, r"\(256,\)"),
    ({"tokens": TOKENS.astype(np.float32), "model_id": np.array(MODEL), "schema_version": np.array(1)}, "float32"),
    ({"tokens": np.array([{}]), "model_id": np.array(MODEL), "schema_version": np.array(1)}, "pickle"),
])
def test_foreign_arrays_are_refused_by_name(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "foreign.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as refusal:
        load_tokens(path)
    assert "foreign.npz" in str(refusal.value)


def test_huge_array_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tokens.npy", bytes(65 * 2**20))
    with pytest.raises(ValueError, match=r"huge\.npz.*68157440 bytes"):
        load_tokens(path)


def test_tokens_of_another_model_are_refused_by_both_names(saved: Path) -> None:
    with pytest.raises(ValueError, match=f"of model mini-ffffffffffff, got tokens of model {MODEL}"):
        check_model(saved, load_tokens(saved), "mini-ffffffffffff", CONFIG)


def test_tokens_of_another_shape_are_refused_by_file(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens\.npz.*\(64, 64\).*\(16, 16\)"):
        check_model(saved, load_tokens(saved), MODEL, preset("mini"))
