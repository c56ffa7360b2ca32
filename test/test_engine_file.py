# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Engine files: what this user built here comes back, another key means build, and everything else is refused by name."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from copilot4d_core.deploy.engine_file import (
    EngineKey,
    EngineRefused,
    prepare_to_write,
    read_engine,
    write_engine,
)

KEY = EngineKey("5e" * 32, "tensorrt", "10.3.0", "Orin", "8.7", "540.4.0", "fp16", "patches float32 2x3 -> tokens int32 2")
ENGINE = bytes(range(256)) * 256
"""64 KiB."""
pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "engines"
    path.mkdir()
    return path


@pytest.fixture
def written(folder: Path) -> Path:
    path = folder / "encoder.engine"
    write_engine(path, ENGINE, KEY)
    return path


def sidecar(path: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(path.with_name("encoder.engine.json").read_bytes())
    return tree


def write_sidecar(path: Path, tree: object) -> None:
    path.with_name("encoder.engine.json").write_text(json.dumps(tree))


def refusal(path: Path, key: EngineKey = KEY) -> str:
    """Message of the refusal; it must say which file to delete and what to run."""
    with pytest.raises(EngineRefused) as caught:
        read_engine(path, key)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert message.endswith(f"delete {path} and build again with `copilot4d build-engine`")
    return message


def test_what_is_written_comes_back(written: Path) -> None:
    assert read_engine(written, KEY) == ENGINE
    assert sorted(file.name for file in written.parent.iterdir()) == ["encoder.engine", "encoder.engine.json"]


def test_the_sidecar_says_what_the_engine_is(written: Path, state: Path) -> None:
    tree = sidecar(written)
    assert tree.pop("seal") == hmac.digest(
        (state / "engine.secret").read_bytes(),
        json.dumps({name: tree[name] for name in ("key", "sha256", "bytes")}, sort_keys=True, separators=(",", ":")).encode(), "sha256").hex()
    assert tree == {"format": "copilot4d-engine", "format_version": 1, "key": asdict(KEY), "sha256": hashlib.sha256(ENGINE).hexdigest(),
                    "bytes": 65536}


def test_no_engine_means_build(folder: Path) -> None:
    assert read_engine(folder / "encoder.engine", KEY) is None
    assert read_engine(folder / "nowhere" / "encoder.engine", KEY) is None


@pytest.mark.parametrize("name", [field.name for field in fields(EngineKey)])
def test_another_key_means_build(written: Path, name: str) -> None:
    assert read_engine(written, replace(KEY, **{name: "another"})) is None
    assert read_engine(written, KEY) == ENGINE


def test_a_new_engine_replaces_the_old_one(written: Path) -> None:
    newer = replace(KEY, driver="545.0")
    write_engine(written, b"new", newer)
    assert read_engine(written, newer) == b"new"
    assert read_engine(written, KEY) is None


def test_one_byte_flipped_in_any_kilobyte_is_refused(written: Path) -> None:
    for kilobyte in range(64):
        position = kilobyte * 1024 + kilobyte * 7 % 1024
        written.write_bytes(ENGINE[:position] + bytes([ENGINE[position] ^ 1]) + ENGINE[position + 1:])
        assert "the file was altered" in refusal(written)
    written.write_bytes(ENGINE)
    assert read_engine(written, KEY) == ENGINE


@pytest.mark.parametrize("length", [0, 1, 1024, 32_768, 65_535])
def test_a_truncated_engine_is_refused(written: Path, length: int) -> None:
    written.write_bytes(ENGINE[:length])
    assert f"an engine of 65536 bytes, got {length}: the file is truncated" in refusal(written)


def test_a_longer_engine_is_refused(written: Path) -> None:
    written.write_bytes(ENGINE + b"\0")
    assert "an engine of 65536 bytes, got more" in refusal(written)


def test_an_engine_without_sidecar_is_refused(written: Path) -> None:
    written.with_name("encoder.engine.json").unlink()
    assert "a sidecar encoder.engine.json beside the engine, there is none" in refusal(written)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 60_000, b'{"format": "copilot4d-engine", "format_version": 1}', b" " * 70_000,
])
def test_an_unreadable_sidecar_is_refused(written: Path, content: bytes) -> None:
    written.with_name("encoder.engine.json").write_bytes(content)
    assert "a sidecar encoder.engine.json as this version writes it" in refusal(written)


def test_every_truncated_sidecar_is_refused(written: Path) -> None:
    file = written.with_name("encoder.engine.json")
    whole = file.read_bytes()
    for length in range(0, len(whole), 5):
        file.write_bytes(whole[:length])
        assert "a sidecar encoder.engine.json" in refusal(written)


def test_a_sidecar_of_another_format_version_is_refused(written: Path) -> None:
    write_sidecar(written, sidecar(written) | {"format_version": 2})
    assert "got: ValueError(\"format 'copilot4d-engine' version 2, not copilot4d-engine version 1\")" in refusal(written)


@pytest.mark.parametrize("change", [
    {"bytes": 4}, {"sha256": "00" * 32}, {"key": {**asdict(KEY), "gpu_name": "another"}}, {"key": "text"}, {"seal": ""},
    {"seal": "0" * 64}, {"seal": "\ud800"},
])
def test_an_altered_sidecar_is_refused(written: Path, change: dict[str, Any]) -> None:
    write_sidecar(written, sidecar(written) | change)
    refusal(written)


def test_a_sidecar_that_fits_an_altered_engine_but_keeps_the_seal_is_refused(written: Path) -> None:
    written.write_bytes(b"evil")
    write_sidecar(written, sidecar(written) | {"bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()})
    assert "this engine was not built here" in refusal(written)


@pytest.mark.parametrize("has_secret", [True, False])
def test_a_perfect_pair_from_another_machine_is_refused(written: Path, state: Path, has_secret: bool) -> None:
    shutil.rmtree(state)
    if has_secret:
        prepare_to_write(written)
    assert "this engine was not built here" in refusal(written)


def test_a_foreign_pair_is_refused_for_every_key(written: Path, state: Path) -> None:
    shutil.rmtree(state)
    prepare_to_write(written)
    refusal(written, replace(KEY, driver="another"))


def test_only_this_user_can_read_the_secret(written: Path, state: Path) -> None:
    status = (state / "engine.secret").stat()
    assert (status.st_mode & 0o7777, status.st_size, status.st_uid) == (0o600, 32, os.geteuid())
    assert [file.name for file in state.iterdir()] == ["engine.secret"]


@pytest.mark.parametrize("damage", [
    lambda file: file.chmod(0o644), lambda file: file.write_bytes(b"short"), lambda file: file.write_bytes(bytes(33)),
])
def test_a_secret_that_others_may_know_is_refused(written: Path, state: Path, damage: Callable[[Path], object]) -> None:
    damage(state / "engine.secret")
    with pytest.raises(EngineRefused, match="engine.secret: expected 32 bytes that are yours"):
        read_engine(written, KEY)
    with pytest.raises(EngineRefused, match="engine.secret: expected 32 bytes that are yours"):
        write_engine(written, ENGINE, KEY)


def test_a_secret_that_is_a_link_is_not_followed(written: Path, state: Path, tmp_path: Path) -> None:
    (state / "engine.secret").rename(tmp_path / "elsewhere")
    (state / "engine.secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="engine.secret"):
        read_engine(written, KEY)


def test_a_user_without_home_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="set XDG_STATE_HOME"):
        prepare_to_write(folder / "encoder.engine")


def test_a_secret_that_another_program_makes_meanwhile_is_kept(folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, theirs = secrets.token_bytes, folder / "theirs.engine"

    def draw_late(size: int) -> bytes:
        monkeypatch.setattr(secrets, "token_bytes", draw)
        write_engine(theirs, b"theirs", KEY)
        return draw(size)

    monkeypatch.setattr(secrets, "token_bytes", draw_late)
    write_engine(folder / "encoder.engine", ENGINE, KEY)
    assert read_engine(theirs, KEY) == b"theirs"
    assert read_engine(folder / "encoder.engine", KEY) == ENGINE
    assert [file.name for file in state.iterdir()] == ["engine.secret"]


TWO_WRITERS = """
import sys
from pathlib import Path
from copilot4d_core.deploy.engine_file import EngineKey, read_engine, write_engine
path, name = Path(sys.argv[1]), sys.argv[2]
keys = {letter: EngineKey(*[letter] * 8) for letter in "ab"}
for turn in range(60):
    write_engine(path, name.encode() * 5000, keys[name])
    for letter, key in keys.items():
        found = read_engine(path, key)
        assert found in (None, letter.encode() * 5000), found[:9]
"""


def test_two_programs_that_build_the_same_file_never_mix_their_pairs(folder: Path) -> None:
    programs = [subprocess.Popen([sys.executable, "-c", TWO_WRITERS, str(folder / "encoder.engine"), name], stderr=subprocess.PIPE) for name in "ab"]
    for program in programs:
        _, errors = program.communicate(timeout=60)
        assert program.returncode == 0, errors.decode()


KILLED = """
import json, os, sys
from pathlib import Path
from copilot4d_core.deploy.engine_file import EngineKey, EngineRefused, read_engine, write_engine
folder, has_old = Path(sys.argv[1]), sys.argv[2] == "old"
old, new = EngineKey(*["old"] * 8), EngineKey(*["new"] * 8)
results = []
while True:
    place = folder / str(len(results))
    place.mkdir()
    os.environ["XDG_STATE_HOME"] = str(place / "state")
    path = place / "encoder.engine"
    if has_old:
        write_engine(path, b"old engine", old)
    child = os.fork()
    if child == 0:
        left = len(results)
        def trace(frame, event, argument):
            global left
            if not frame.f_code.co_filename.endswith(("engine_file.py", "atomic_file.py")):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(9)
            return trace
        sys.settrace(trace)
        write_engine(path, b"new engine", new)
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    try:
        found = [(read_engine(path, key) or b"none").decode() for key in (old, new)]
    except EngineRefused as error:
        found = ["refused", str(error)]
    parts = len(list(place.glob(".*.part")))
    write_engine(path, b"after", new)
    found += [read_engine(path, new).decode(), len(list(place.glob(".*"))), parts]
    results.append(found)
    if os.waitstatus_to_exitcode(status) == 0:
        break
print(json.dumps(results))
"""


@pytest.mark.parametrize("before", ["old", "nothing"])
def test_a_write_killed_at_any_line_leaves_nothing_that_is_refused(tmp_path: Path, before: str) -> None:
    told = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), before], capture_output=True, text=True, timeout=120, check=True)
    results = [tuple(result) for result in json.loads(told.stdout)]
    assert len(results) > 40
    order = [("old engine", "none"), ("none", "none"), ("none", "new engine")][before == "nothing":]
    found = [result[:2] for result in results]
    assert set(found) == set(order)
    assert found == sorted(found, key=order.index), "first the old engine, then none, then the new one"
    assert {result[2:4] for result in results} == {("after", 0)}, "the next write works and removes what was left"
    assert {result[4] for result in results} == {0, 1, 2}, "some kills left temporary files"


@pytest.mark.parametrize("call", range(8))
def test_a_full_disk_leaves_the_old_pair_or_none(written: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls, synchronise = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    newer = replace(KEY, driver="545.0")
    if call == 7:
        write_engine(written, b"new", newer)
        assert calls == 7
        return
    with pytest.raises(OSError, match="No space left"):
        write_engine(written, b"new", newer)
    assert not list(written.parent.glob(".*"))
    found = (read_engine(written, KEY), read_engine(written, newer))
    assert found == ((ENGINE, None) if call < 2 else (None, b"new") if call == 6 else (None, None))


def test_a_file_system_that_takes_no_more_bytes_leaves_the_old_pair(written: Path) -> None:
    before, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_engine(written, bytes(200_000), replace(KEY, driver="545.0"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, action)
    assert caught.value.errno == errno.EFBIG
    assert read_engine(written, KEY) == ENGINE
    assert not list(written.parent.glob(".*"))


def test_what_a_killed_build_left_is_removed_and_nothing_else(folder: Path) -> None:
    for name in (".encoder.engine.4194303.part", ".encoder.engine.json.4194303.part", ".decoder.engine.4194303.part", ".encoder.engine.notes"):
        (folder / name).write_bytes(b"half")
    write_engine(folder / "encoder.engine", ENGINE, KEY)
    assert sorted(file.name for file in folder.glob(".*")) == [".decoder.engine.4194303.part", ".encoder.engine.notes"]


def test_a_link_to_the_engine_is_checked_like_the_engine(written: Path, tmp_path: Path) -> None:
    written.rename(tmp_path / "big disk")
    written.symlink_to(tmp_path / "big disk")
    assert read_engine(written, KEY) == ENGINE
    (tmp_path / "big disk").write_bytes(b"evil")
    refusal(written)


@pytest.mark.parametrize("name", ["encoder.engine", "encoder.engine.json"])
def test_a_pipe_or_a_folder_is_refused_without_waiting(written: Path, name: str) -> None:
    place = written.with_name(name)
    place.unlink()
    os.mkfifo(place)
    assert "to be a regular file, it is none" in refusal(written)
    place.unlink()
    place.mkdir()
    assert "a readable file" in refusal(written)


def test_a_device_that_never_ends_is_refused(written: Path) -> None:
    written.unlink()
    written.symlink_to("/dev/zero")
    assert "to be a regular file, it is none" in refusal(written)


def test_a_missing_folder_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        write_engine(tmp_path / "nowhere" / "encoder.engine", ENGINE, KEY)
