# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every kind of file that the package reads: how to make a good one, how to read it, and what of its content must stay the same.

What goes in: an empty folder. What comes out: files in it, and a reader that gives plain content to compare.
Unusual: settings and sensor files are written by people and carry no checksum: there the content must be what the text says, as a plain
YAML reader reads it. A bag or a PCD file has none either: see `is_protected`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tiny_model import half_filled_model
from tiny_prior import MODEL_ID, tiny_prior_arrays

from copilot4d_core.cli import training_config
from copilot4d_core.config import preset
from copilot4d_core.config_file import dict_from_config
from copilot4d_core.data.bag import BagScans, cloud_record, write_cloud_bag
from copilot4d_core.data.pcd import read_pcd
from copilot4d_core.data.pcd_writer import write_pcd
from copilot4d_core.data.recording import Recording, recorded
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensor_file import read_sensor_file, sensor_file, write_sensor_file
from copilot4d_core.deploy.engine_file import EngineKey, read_engine, write_engine
from copilot4d_core.deploy.export import write_files
from copilot4d_core.deploy.exported_model import read_export
from copilot4d_core.deploy.kernel_weights import arrays_from
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.prior_file import read_prior, write_prior
from copilot4d_core.deploy.token_file import load_tokens, save_tokens
from copilot4d_core.deploy.token_stream import tokens_from_bytes, tokens_to_bytes
from copilot4d_core.model_file import read_model, read_tensors, stored_config, write_tensors

TOKENS = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 7) % 64
KEY = EngineKey("0" * 64, "tensorrt", "10.3", "GPU", "8.7", "driver", "fp32", "shapes")
CLOUD = "sensor_msgs/msg/PointCloud2"
RECORDED = [bytes([index]) * 200 for index in range(20)]


class FileKind(NamedTuple):
    """One kind of file."""

    make: Callable[[Path], list[Path]]
    """Write good files into a folder; returns those that are damaged in turn."""
    read: Callable[[Path], Any]
    """Content, from the path of a file of `make`; lists, dicts, bytes, numbers and arrays."""
    is_protected: bool = True
    """Whether other content must not come out; else only nothing but typed errors may."""


def _weights(folder: Path) -> list[Path]:
    model, path = half_filled_model(), folder / "weights.safetensors"
    write_tensors(path, model.tensors, model.config)
    return [path]


def _read_weights(path: Path) -> Any:
    model = read_model(path)
    return [dict(model.tensors), dict_from_config(model.config)]


def _packaged(folder: Path) -> list[Path]:
    for path in PACKAGED_WEIGHTS.parent.iterdir():
        shutil.copy(path, folder)
    return [folder / PACKAGED_WEIGHTS.name]


def _packaged_prior(folder: Path) -> list[Path]:
    return [path.with_name("mini.prior.safetensors") for path in _packaged(folder)]


def _checkpoint(folder: Path) -> list[Path]:
    model, path = half_filled_model(), folder / "checkpoint.safetensors"
    extra = {"random.torch": np.arange(5000, dtype=np.uint8)}
    write_tensors(path, {f"model.{name}": array for name, array in model.tensors.items()} | extra, model.config, step=7, skipped=[0, 0])
    return [path]


def _read_checkpoint(path: Path) -> Any:
    tensors, header = read_tensors(path)
    return [tensors, dict_from_config(stored_config(path, header)), header["step"]]


def _prior(folder: Path) -> list[Path]:
    write_prior(folder / "tiny.prior.safetensors", tiny_prior_arrays(), MODEL_ID, {"made": "by hand"})
    return [folder / "tiny.prior.safetensors"]


def _read_prior(path: Path) -> Any:
    prior = read_prior(path)
    return [prior.arrays._asdict(), prior.model_id, prior.provenance]


def _export(folder: Path) -> list[Path]:
    write_files(folder, half_filled_model(), "fp32")
    return sorted(path for path in folder.iterdir() if path.suffix != ".json")


def _manifest(folder: Path) -> list[Path]:
    _export(folder)
    return [folder / "manifest.json"]


def _read_export(path: Path) -> Any:
    model = read_export(path.parent)
    return [dict_from_config(model.config), model.model_id, model.precision, model.codebook_sha256, model.encoder, model.decoder,
            arrays_from(model.kernels)]


def _tokens(folder: Path) -> list[Path]:
    save_tokens(folder / "tokens.npz", TOKENS, MODEL_ID, preset("tiny"))
    return [folder / "tokens.npz"]


def _stream(folder: Path) -> list[Path]:
    path = folder / "tokens.c4dt"
    path.write_bytes(tokens_to_bytes(TOKENS, MODEL_ID, preset("tiny")))
    return [path]


def _read_stream(path: Path) -> Any:
    try:
        return tokens_from_bytes(path.read_bytes(), MODEL_ID, preset("tiny"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error  # a stream has no file of its own: its reader is given bytes


def _config(folder: Path) -> list[Path]:
    path = folder / "settings.yaml"
    path.write_text("# by hand\npreset: tiny\nquantizer: {dead_after_steps: 2, decay: 0.95, kind: vq}\ntraining:\n  steps: 300\n  seed: 4\n"
                    "swin:\n  dims: [16, 32]\n  heads: [2, 4]\nspatial_skip:\n  enabled: true\n  threshold: 0.05\n")
    return [path]


def _read_config(path: Path) -> Any:
    config = dict_from_config(training_config(None, path, None))
    return _as_written(path, {**config, "preset": config["name"]})


def _sensor(folder: Path) -> list[Path]:
    write_sensor_file(sensor_file("hdl64e"), folder / "sensor.yaml")
    return [folder / "sensor.yaml"]


def _read_sensor(path: Path) -> Any:
    pattern = read_sensor_file(path)
    return _as_written(path, {key: list(value) if isinstance(value, tuple) else value for key, value in vars(pattern).items()})


def _as_written(path: Path, read: dict[str, Any]) -> str:
    """Always the same, if what was read holds every value of the text; else a text that says what it does not hold."""
    written = yaml.safe_load(path.read_text())
    return "as written" if _holds(read, {} if written is None else written) else f"{read} is not what stands in {written}"


def _holds(read: Any, written: Any) -> bool:
    if isinstance(written, dict):
        return isinstance(read, dict) and all(key in read and _holds(read[key], value) for key, value in written.items())
    return bool(read == written)


def _engine(folder: Path) -> list[Path]:
    path = folder / "encoder.engine"
    with _state_in(folder):
        write_engine(path, bytes(range(256)) * 40, KEY)
    return [path, folder / "encoder.engine.json"]


def _read_engine(path: Path) -> Any:
    with _state_in(path.parent):
        data = read_engine(path.with_name("encoder.engine"), KEY)
    if data is None:
        raise ValueError(f"{path}: no engine with this key: it is built")
    return data


class _state_in:  # noqa: N801 - used as a statement
    """The secret that seals engines lies in this folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        os.environ["XDG_STATE_HOME"] = str(self._folder / "state")

    def __exit__(self, *_: object) -> None:
        del os.environ["XDG_STATE_HOME"]


def _scans() -> list[Scan]:
    rng = np.random.default_rng(1)
    return [scan_from_points(f"scan{index}", rng.uniform(-9, 9, (40, 3)).astype(np.float32), rng.uniform(0, 1, 40).astype(np.float32), raw_bytes=640,
                             stamp_ns=10**18 + index * 10**8, frame_id="lidar") for index in range(3)]


def _mcap(folder: Path) -> list[Path]:
    write_cloud_bag(folder / "bag", "/points", _scans())
    return sorted((folder / "bag").iterdir())


def _sqlite(folder: Path) -> list[Path]:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(folder / "bag", version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/points", CLOUD, typestore=store)
        for scan in _scans():
            writer.write(connection, scan.stamp_ns or 0, store.serialize_cdr(cloud_record(store, scan), CLOUD))
    return sorted((folder / "bag").iterdir())


def _ros1(folder: Path) -> list[Path]:
    store = get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(folder / "drive.bag") as writer:
        connection = writer.add_connection("/points", CLOUD, typestore=store)
        for scan in _scans():
            writer.write(connection, scan.stamp_ns or 0, store.serialize_ros1(_ros1_message(store, scan), CLOUD))
    return [folder / "drive.bag"]


def _ros1_message(store: Any, scan: Scan) -> Any:
    message = cloud_record(get_typestore(Stores.ROS2_HUMBLE), scan)
    header = store.types["std_msgs/msg/Header"](0, store.types["builtin_interfaces/msg/Time"](*divmod(scan.stamp_ns or 0, 10**9)), scan.frame_id)
    fields = [store.types["sensor_msgs/msg/PointField"](f.name, f.offset, f.datatype, f.count) for f in message.fields]
    return store.types[CLOUD](header, message.height, message.width, fields, message.is_bigendian, message.point_step, message.row_step,
                              message.data, message.is_dense)


def _read_bag(path: Path) -> Any:
    scans = BagScans(path if path.suffix == ".bag" else path.parent)
    return [[scan.points_m, scan.intensity, scan.stamp_ns, scan.frame_id] for scan in [*scans, scans[len(scans) - 1]]]


def _pcd(folder: Path) -> list[Path]:
    write_pcd(folder / "scan.pcd", _scans()[0].points_m)
    return [folder / "scan.pcd"]


def _read_pcd(path: Path) -> Any:
    return read_pcd(path).points_m


def _recording(folder: Path) -> list[Path]:
    path = folder / "tokens.mcap"
    with Recording(path) as recording:
        channel = recording.channel("/tokenizer/model_info", "std_msgs/msg/String", "string data")
        for index, data in enumerate(RECORDED):
            recording.write(channel, index, data)
            if index % 5 == 4:
                recording.flush()
    return [path]


def _read_recording(path: Path) -> Any:
    # Whatever the end of the file is like, the chunks before it are read.
    messages = [message.data for message in recorded(path)]
    return "the first of them" if messages == RECORDED[:len(messages)] else messages


KINDS: dict[str, FileKind] = {
    "weights": FileKind(_weights, _read_weights), "packaged weights": FileKind(_packaged, _read_weights),
    "checkpoint": FileKind(_checkpoint, _read_checkpoint), "prior": FileKind(_prior, _read_prior),
    "packaged prior": FileKind(_packaged_prior, _read_prior), "export": FileKind(_export, _read_export),
    "manifest": FileKind(_manifest, _read_export), "tokens": FileKind(_tokens, load_tokens), "token stream": FileKind(_stream, _read_stream),
    "settings": FileKind(_config, _read_config), "sensor": FileKind(_sensor, _read_sensor), "engine": FileKind(_engine, _read_engine),
    "mcap bag": FileKind(_mcap, _read_bag, False), "sqlite bag": FileKind(_sqlite, _read_bag, False), "ros 1 bag": FileKind(_ros1, _read_bag, False),
    "pcd": FileKind(_pcd, _read_pcd, False), "recording": FileKind(_recording, _read_recording)}


def same(one: Any, other: Any) -> bool:
    """Whether two contents are equal bit for bit."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return isinstance(other, (list, tuple)) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
