# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Files made to do harm: they ask for all memory, for ever, or for code to run; each is refused by name before it gets any."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import half_filled_model, write_tiny_weights
from tiny_prior import MODEL_ID, tiny_prior_arrays

from copilot4d_core.cli import training_config
from copilot4d_core.config import preset
from copilot4d_core.config_file import config_from_dict, dict_from_config
from copilot4d_core.data.bag import BagScans, write_cloud_bag
from copilot4d_core.data.pcd import read_pcd
from copilot4d_core.data.sensor_file import read_sensor_file
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy.export import write_files
from copilot4d_core.deploy.manifest import read_manifest
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.prior_file import read_prior, write_prior
from copilot4d_core.deploy.token_file import load_tokens
from copilot4d_core.model_file import FORMAT, read_model, write_tensors
from copilot4d_core.tensor_file import CHECKSUM, LIST

MEMORY_BYTES, TIME_S = 2**29, 20.0
"""A refusal needs far less of both; this leaves room for a busy machine."""


@pytest.fixture(autouse=True)
def _cheaply() -> Iterator[None]:
    """No test here may take much memory or time."""
    before, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY_BYTES
    assert time.monotonic() - started_s < TIME_S


def laughs(key: str) -> str:
    """Nine lists of nine aliases: 9^9 values in a few hundred bytes."""
    lines = ["a0: &a0 [lol]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))]
    return "\n".join([*lines, f"{key}: *a9", ""])


YAMLS = {"aliases": (laughs("columns"), r"the alias \*a0"), "nesting": ("a: " + "[" * 20_000, "brackets within brackets"),
         "size": ("a: 1\n" * 100_000, "at most 262144 bytes"), "an object": ("a: !!python/object/apply:os.system [touch pwned]", "python/object"),
         "a key twice": ("name: a\nname: b\n", "every key once"), "a date that is none": ("a: 2020-99-99", "month"),
         "a long number": ("a: " + "9" * 10_000, "digit"), "a mapping as a key": ("{? {a: 1} : 2}", "unhashable"), "no UTF-8": ("a: \udcff", "UTF-8")}


@pytest.mark.parametrize("read", [lambda path: training_config(None, path, None), read_sensor_file], ids=["settings", "sensor"])
@pytest.mark.parametrize("name", YAMLS)
def test_yaml_that_is_more_than_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[Path], Any]) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = YAMLS[name]
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as refusal:
        read(path)
    assert "hostile.yaml" in str(refusal.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("section", "change", "message"), [
    ("swin", {"encoder_depths": [10**12, 2]}, "depths of 0 to 256"), ("swin", {"dims": [4 * 10**9, 32]}, "dims and heads"),
    ("grid", {"x_min_m": -1e7, "x_max_m": 1e7}, "16384 voxels"), ("grid", {"voxel_z_m": 1e-320}, "16384 voxels"),
    ("rendering", {"max_samples": 10**12}, "max_samples of 1 to 65536")])
def test_settings_that_ask_for_all_memory_or_time_are_refused(section: str, change: dict[str, Any], message: str) -> None:
    tree = dict_from_config(preset("tiny"))
    tree[section] |= change
    with pytest.raises(ValueError, match=message):
        config_from_dict(tree)


def safetensors(header: dict[str, Any] | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    """A file after the format's description: length of the header, header, body."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def metadata(**entries: Any) -> dict[str, Any]:
    return {"__metadata__": {"format": json.dumps(FORMAT), "format_version": "1", **entries}}


TENSORS = {
    "a header of 2^60 bytes": safetensors({}, length=2**60), "a tensor of 2^60 bytes": safetensors({"a": {"dtype": "F32", "shape": [2**58],
                                                                                                         "data_offsets": [0, 2**60]}}),
    "entries that are nested without end": safetensors(metadata(config="[" * 100_000)), "entries that are no JSON": safetensors(metadata(config="{")),
    "no settings": safetensors(metadata()), "settings that are a list": safetensors(metadata(config="[1]")),
    "entries that are no text": safetensors({"__metadata__": {"format": 1}}), "a pickle": pickle.dumps(print)}


@pytest.mark.parametrize("read", [read_model, read_prior], ids=["weights", "prior"])
@pytest.mark.parametrize("name", TENSORS)
def test_a_safetensors_file_that_promises_what_it_does_not_hold_is_refused(tmp_path: Path, name: str, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(TENSORS[name])
    with pytest.raises(ValueError, match=r"hostile\.safetensors"):
        read(path)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(("member", "message"), [
    (npy("{'descr': '<u2', 'fortran_order': False, 'shape': (1099511627776,)}", bytes(8)), "8 bytes of an array uint16"),
    (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps([print])), "pickle"),
    (npy("__import__('os').system('touch pwned')"), "malformed"), (npy("(" * 300), "EOF"), (b"\x93NUMPY\x09\x00", "format"),
    (npy("{'descr': '<u2', 'fortran_order': False, 'shape': (-1,)}", bytes(8)), "array")])
def test_a_token_file_that_lies_about_its_arrays_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: bytes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tokens.npy", member)
    with pytest.raises(ValueError, match=message) as refusal:
        load_tokens(path)
    assert "hostile.npz" in str(refusal.value) and not (tmp_path / "pwned").exists()


def test_a_token_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hostile.npz"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(ValueError, match=r"hostile\.npz.*more than 67108864 bytes"):
        load_tokens(path)


@pytest.mark.parametrize("header", ["WIDTH 1000000000000\nHEIGHT 1\nPOINTS 1000000000000\nDATA binary", "WIDTH 1\nHEIGHT 1\nPOINTS 1\nCOUNT 1 1 1"
                                    "000000000000\nDATA binary", "WIDTH 4000000000\nHEIGHT 1\nPOINTS 4000000000\nDATA binary_compressed",
                                    "WIDTH " + "9" * 5000 + "\nHEIGHT 1\nPOINTS 1\nDATA ascii"])
def test_a_pcd_file_that_promises_points_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "hostile.pcd"
    path.write_bytes(f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\n{header}\n".encode() + bytes(12))
    with pytest.raises(ValueError, match=r"hostile\.pcd"):
        read_pcd(path)


def test_a_bag_whose_chunk_is_a_bomb_is_refused(tmp_path: Path) -> None:
    write_cloud_bag(tmp_path / "bag", "/points", simulate_drive(1, 1, "vlp16"))
    path = next((tmp_path / "bag").glob("*.mcap"))
    data = path.read_bytes()
    chunk = 17 + int.from_bytes(data[9:17], "little")  # behind the magic and the first record: opcode, length, two times, uncompressed size
    assert data[chunk] == 6
    size_bytes = data[chunk + 25:chunk + 33]
    assert data.count(size_bytes) >= 3, "in the chunk, twice, and in the index"
    for size in (2**62, 2**33):
        path.write_bytes(data.replace(size_bytes, struct.pack("<Q", size)))
        with pytest.raises(ValueError, match="bag"):
            list(BagScans(tmp_path / "bag"))
    path.write_bytes(data)
    (tmp_path / "bag" / "metadata.yaml").write_text(laughs("rosbag2_bagfile_information"))
    with pytest.raises(ValueError, match="bag"):
        BagScans(tmp_path / "bag")


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "[]", "1e999", '{"format": ', " " * (2**20 + 1)])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_an_entry_of_a_manifest_that_was_changed_is_noticed_and_an_older_manifest_is_read(tmp_path: Path) -> None:
    write_files(tmp_path, half_filled_model(), "fp32")
    path, whole = tmp_path / "manifest.json", read_manifest(tmp_path)
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"config": tree["config"] | {"rendering": tree["config"]["rendering"] | {"step_m": 0.1}}}))
    with pytest.raises(ValueError, match=r"manifest\.json: expected the entries of its checksum"):
        read_manifest(tmp_path)
    del tree["manifest_sha256"]
    path.write_text(json.dumps(tree))
    assert read_manifest(tmp_path) == whole


def test_weights_that_were_changed_are_noticed_and_older_weights_are_read(tmp_path: Path) -> None:
    path = write_tiny_weights(tmp_path / "weights.safetensors")
    data, whole = path.read_bytes(), read_model(path)
    path.write_bytes(data[:-8] + b"\x01" + data[-7:])  # another finite float: nothing else could notice
    with pytest.raises(ValueError, match=r"weights\.safetensors: expected the content of its checksum"):
        read_model(path)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    del header["__metadata__"][CHECKSUM]
    path.write_bytes(safetensors(header, data[8 + length:]))
    older = read_model(path)
    assert older.config == whole.config and all(np.array_equal(older.tensors[name], array) for name, array in whole.tensors.items())
    header["__metadata__"]["config"] = header["__metadata__"]["config"].replace('"step_m": 0.2', '"step_m": 0.3')
    header["__metadata__"][CHECKSUM] = json.dumps("0" * 64)
    path.write_bytes(safetensors(header, data[8 + length:]))
    with pytest.raises(ValueError, match="checksum"):
        read_model(path)


def test_the_checksum_is_that_of_the_description(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"b": np.array([[1, 2]], dtype=np.int8), "a": np.array([1.0], dtype=np.float32)}, preset("tiny"))
    data = path.read_bytes()
    entries = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    digest = hashlib.sha256(json.dumps([[key, entries[key]] for key in ("config", "format", "format_version")]).encode())
    digest.update(b'["a", "<f4", [1]]' + b"\0\0\x80\x3f" + b'["b", "|i1", [1, 2]]' + b"\1\2")
    assert json.loads(entries[CHECKSUM]) == digest.hexdigest()


def test_the_packaged_files_are_listed_and_another_in_their_place_is_noticed(tmp_path: Path) -> None:
    listed = dict(reversed(line.split("  ")) for line in PACKAGED_WEIGHTS.with_name(LIST).read_text().splitlines())
    files = {path.name: path for path in PACKAGED_WEIGHTS.parent.glob("*.safetensors")}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}, "run sha256sum *.safetensors > SHA256SUMS"
    for read, name in ((read_model, PACKAGED_WEIGHTS.name), (read_prior, "mini.prior.safetensors")):
        shutil.copy(PACKAGED_WEIGHTS.with_name(LIST), tmp_path)
        data = files[name].read_bytes()
        header_bytes = int.from_bytes(data[:8], "little")
        # The same content with eight spaces behind its description: whole by its own checksum, and yet not the file of the list.
        (tmp_path / name).write_bytes((header_bytes + 8).to_bytes(8, "little") + data[8:8 + header_bytes] + b" " * 8 + data[8 + header_bytes:])
        with pytest.raises(ValueError, match=f"{name}: expected the file that .*{LIST} lists"):
            read(tmp_path / name)


def test_a_prior_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tiny.prior.safetensors"
    write_prior(path, tiny_prior_arrays(), MODEL_ID, {})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"tiny\.prior\.safetensors: expected the content of its checksum"):
        read_prior(path)
