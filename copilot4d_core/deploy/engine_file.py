# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""An engine on disk, with a sidecar that says what it was built from and that it was built here.

What goes in: the bytes of an engine and its key. What comes out: the same bytes, nothing (build it), or a refusal.
Unusual: an engine is native code that TensorRT runs unchecked, and a hash beside a file proves no origin. So the sidecar is
sealed with a secret of this user on this machine, and every byte is checked in memory before TensorRT sees one.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from copilot4d_core.atomic_file import check_writable, replacing_file

FORMAT, FORMAT_VERSION = "copilot4d-engine", 1
ANY = "any"
"""GPU, compute capability and driver of an engine that TensorRT-RTX built without a GPU."""
SECRET_BYTES, SEAL_DIGITS = 32, 64
LARGEST_SIDECAR_BYTES = 65_536


class EngineRefused(ValueError):  # noqa: N818 - says what happened to it
    """The engine is damaged, altered or from elsewhere; nobody may run it, and a person has to delete it."""


class GpuIdentity(NamedTuple):
    """The GPU that an engine is for."""

    name: str
    compute_capability: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for; equal keys mean the same engine."""

    onnx_sha256: str
    library: str
    """`tensorrt` or `tensorrt_rtx`."""
    library_version: str
    gpu_name: str
    compute_capability: str
    """Such as `8.7`."""
    driver: str
    precision: str
    shapes: str
    """Names, dtypes and shapes of inputs and outputs."""

    @property
    def environment(self) -> str:
        """Where timings of this build hold."""
        return "\n".join((self.library, self.library_version, self.gpu_name, self.compute_capability, self.driver))


def prepare_to_write(path: Path) -> None:
    """Refuse a place where no engine can be written and sealed, before the long build; make this user's secret at the first call.

    Raises:
        OSError: the folder is missing or takes no file, or the secret cannot be written.
        EngineRefused: the secret is not private.
    """
    check_writable(path)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: the folder {path.parent} takes no new files; name another with --out")
    _secret()


def write_engine(path: Path, data: bytes, key: EngineKey) -> None:
    """Write an engine and its sidecar; a kill at any point leaves the old pair, no engine, or the new pair.

    The old engine goes before the sidecar changes, and the new one comes after it: no sidecar ever lies beside another's engine.

    Raises:
        OSError: no room or no right to write; temporary files are removed.
        EngineRefused: this user's secret is not private.
    """
    prepare_to_write(path)
    content = {"key": asdict(key), "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    sidecar = {"format": FORMAT, "format_version": FORMAT_VERSION, **content, "seal": _seal(_secret(), _canonical(content))}
    with _locked(path.parent, fcntl.LOCK_EX) as folder:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            left.unlink()  # of a killed build: who writes one holds the lock
        with replacing_file(path) as engine:
            engine.write(data)
            _to_disk(engine)
            with replacing_file(path.with_name(f"{path.name}.json")) as file:
                file.write(json.dumps(sidecar, indent=1).encode())
                _to_disk(file)
                path.unlink(missing_ok=True)
                os.fsync(folder)
            os.fsync(folder)
        os.fsync(folder)


def read_engine(path: Path, key: EngineKey) -> bytes | None:
    """Bytes of the engine with this key, every one of them checked.

    A link is followed, for what it leads to is checked like any file; what is no regular file is refused unread. The sealed
    size bounds what is read.

    Returns:
        The engine, or None where there is none or one with another key: build it.
    Raises:
        EngineRefused: the sidecar is missing, damaged, of another format version or not sealed here; or the engine is not the one it seals.
    """
    if not path.parent.is_dir():
        return None
    with _locked(path.parent, fcntl.LOCK_SH):
        if not path.exists():
            return None
        sidecar = _read_sidecar(path)
        if sidecar["key"] != asdict(key):
            return None
        data = _read_regular(path, path, sidecar["bytes"])
    if len(data) != sidecar["bytes"]:
        found = f"{len(data)}" if len(data) < sidecar["bytes"] else "more"
        raise _refusal(path, f"an engine of {sidecar['bytes']} bytes, got {found}: the file is truncated or another")
    if hashlib.sha256(data).hexdigest() != sidecar["sha256"]:
        raise _refusal(path, "the engine that was built, its SHA-256 is another: the file was altered")
    return data


def write_timing_cache(path: Path, data: bytes, environment: str) -> None:
    """Write TensorRT's timings beside an engine, sealed with where they hold."""
    with _locked(path.parent, fcntl.LOCK_EX), replacing_file(path) as file:
        file.write(_seal(_secret(), b"timing", environment.encode(), data).encode() + data)


def read_timing_cache(path: Path, environment: str) -> bytes | None:
    """Timings that this user wrote for this environment; None for any other file, because a build does without."""
    secret = _read_secret()
    if secret is None or not path.is_file():
        return None
    content = path.read_bytes()
    seal, data = content[:SEAL_DIGITS], content[SEAL_DIGITS:]
    return data if hmac.compare_digest(_seal(secret, b"timing", environment.encode(), data).encode(), seal) else None


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Sidecar of an engine, its seal and its entries checked."""
    file = path.with_name(f"{path.name}.json")
    if not file.exists():
        raise _refusal(path, f"a sidecar {file.name} beside the engine, there is none: nobody knows where the engine is from")
    text = _read_regular(path, file, LARGEST_SIDECAR_BYTES)
    try:
        tree = json.loads(text)
        version = (tree["format"], tree["format_version"])
        if version != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"format {version[0]!r} version {version[1]!r}, not {FORMAT} version {FORMAT_VERSION}")
        content, seal = {name: tree[name] for name in ("key", "sha256", "bytes")}, tree["seal"].encode()
        sealed = _canonical(content)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _refusal(path, f"a sidecar {file.name} as this version writes it, got: {error!r}") from error
    secret = _read_secret()
    if secret is None or not hmac.compare_digest(_seal(secret, sealed).encode(), seal):
        raise _refusal(path, "an engine that this user built on this machine; this engine was not built here")
    return content


def _refusal(path: Path, expected: str) -> EngineRefused:
    return EngineRefused(f"{path}: expected {expected}; delete {path} and build again with `copilot4d build-engine`")


def _read_regular(engine: Path, path: Path, most_bytes: int) -> bytes:
    """At most one byte more than expected, of a regular file; a pipe or device neither blocks nor fills the memory."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(most_bytes + 1)
    except OSError as error:
        raise _refusal(engine, f"a readable file {path.name}, got: {error}") from error
    raise _refusal(engine, f"{path.name} to be a regular file, it is none")


@contextmanager
def _locked(folder: Path, mode: int) -> Iterator[int]:
    """Lock of a folder, so that two programs never mix their pairs; the kernel gives it back when a program dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, mode)
        yield descriptor
    finally:
        os.close(descriptor)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _seal(secret: bytes, *parts: bytes) -> str:
    return hmac.new(secret, b"\0".join(parts), hashlib.sha256).hexdigest()


def _secret_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if os.path.isabs(state) else Path(os.path.expanduser("~/.local/state"))
    if not folder.is_absolute():
        raise ValueError("engine files: expected a home folder for the secret that seals them, there is none; set XDG_STATE_HOME")
    return folder / "copilot4d" / "engine.secret"


def _read_secret() -> bytes | None:
    """The secret; None where this user has none yet."""
    path = _secret_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status, secret = os.fstat(descriptor), file.read(SECRET_BYTES + 1)
    if len(secret) != SECRET_BYTES or stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
        raise EngineRefused(f"{path}: expected {SECRET_BYTES} bytes that are yours and only you can read (mode 0600), got others; "
                            "who knows them can forge engines: delete this file and every engine, and build again")
    return secret


def _secret() -> bytes:
    """The secret, made at the first call; where two programs make it at once, both get that of the first."""
    path, secret = _secret_path(), _read_secret()
    if secret is not None:
        return secret
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            _to_disk(file)
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
    return _secret()
