# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sensor files: one YAML file says where the beams of one LiDAR look.

What goes in: the name of a sensor that comes with the package, such as `hdl64e`, or the path of a file.
What comes out: a `BeamPattern`; and the other way round, a file.
Unusual: the files lie in the package, as the weights do, so that the core finds them without ROS and without a checkout.
A file gives either `elevations_deg`, highest first, or `rows`, `elevation_min_deg` and `elevation_max_deg` for even steps.
It may give `min_range_m`, and for each beam `azimuth_offsets_deg` (how far it looks to the left of its column) and
`origin_heights_m` (how far above the sensor's origin it leaves the axis).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from copilot4d_core.atomic_file import check_writable, replacing_file
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.yaml_file import load_yaml, read_yaml_text

PACKAGED_SENSORS = Path(__file__).resolve().parent / "sensors"
ENDING = ".yaml"
EVEN_KEYS = ("rows", "elevation_min_deg", "elevation_max_deg")
BEAM_KEYS = ("azimuth_offsets_deg", "origin_heights_m")
KEYS = ("name", "source", "columns", "min_range_m", "max_range_m", "elevations_deg", *EVEN_KEYS, *BEAM_KEYS)
LARGEST_NUMBER = 1e6
"""No angle, count or range of a sensor comes near; it keeps out NaN and infinity, too."""


def packaged_sensors() -> tuple[str, ...]:
    """Names of the sensors that come with the package."""
    return tuple(sorted(path.stem for path in PACKAGED_SENSORS.glob(f"*{ENDING}")))


def sensor_file(name_or_path: str | Path) -> BeamPattern:
    """Pattern of a packaged sensor, or of a file.

    Args:
        name_or_path: one of `packaged_sensors()`, or the path of a `.yaml` file.
    Raises:
        ValueError: no such sensor, or a file that is not as it should be; the message names the file and the key.
        FileNotFoundError: no such file.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix != ENDING:
        if str(name_or_path) not in packaged_sensors():
            raise ValueError(f"sensor: expected one of {', '.join(packaged_sensors())}, or the path of a {ENDING} file, got {str(name_or_path)!r}")
        path = PACKAGED_SENSORS / f"{name_or_path}{ENDING}"
    return read_sensor_file(path)


def read_sensor_file(path: Path) -> BeamPattern:
    """Pattern that a sensor file describes.

    Raises:
        ValueError: no YAML mapping, a key that is unknown or missing, or a value of another type or out of its range.
        FileNotFoundError: no such file.
    """
    tree = _mapping(path)
    name, source = _text(tree, "name", path), _text(tree, "source", path)
    columns, max_range_m = _whole(tree, "columns", path), _number(_value(tree, "max_range_m", path), "max_range_m", path)
    min_range_m = _number(tree.get("min_range_m", 0.0), "min_range_m", path)
    elevations_deg = _elevations_deg(tree, path)
    offsets_deg, heights_m = (_numbers(tree, key, path) if key in tree else () for key in BEAM_KEYS)
    try:
        return BeamPattern(name, source, elevations_deg, columns, max_range_m, min_range_m, offsets_deg, heights_m)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_sensor_file(pattern: BeamPattern, path: Path) -> None:
    """Write a sensor file; an existing file is replaced at once or left as it was. Optional keys without a value are left out.

    Raises:
        ValueError: the path does not end in `.yaml`.
        FileNotFoundError: the folder does not exist.
    """
    check_writable(path, ENDING)
    tree = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(pattern).items()
            if key not in BEAM_KEYS or value}
    with replacing_file(path) as file:
        file.write(yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True).encode())


def _mapping(path: Path) -> dict[Any, Any]:
    text = read_yaml_text(path)
    try:
        tree = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected a mapping with the keys {', '.join(KEYS)}, got {type(tree).__name__}")
    unknown = [key for key in tree if key not in KEYS]
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; known keys: {', '.join(KEYS)}")
    return tree


def _elevations_deg(tree: dict[Any, Any], path: Path) -> tuple[float, ...]:
    even = [key for key in EVEN_KEYS if key in tree]
    if ("elevations_deg" in tree) == bool(even):
        raise ValueError(f"{path}: expected either elevations_deg or {', '.join(EVEN_KEYS)}, got {'both' if even else 'neither'}")
    if not even:
        return _numbers(tree, "elevations_deg", path)
    rows = _whole(tree, "rows", path)
    low, high = (_number(_value(tree, key, path), key, path) for key in EVEN_KEYS[1:])
    if rows < 2 or not low < high:
        raise ValueError(f"{path}: expected rows of at least 2 and elevation_min_deg < elevation_max_deg, got {rows}, {low} and {high}")
    return tuple(float(elevation) for elevation in np.linspace(high, low, rows))


def _numbers(tree: dict[Any, Any], key: str, path: Path) -> tuple[float, ...]:
    given = tree[key]
    if not isinstance(given, list) or not given:
        raise ValueError(f"{path}: {key}: expected a list of numbers, highest beam first, got {given!r}")
    return tuple(_number(value, f"{key}[{row}]", path) for row, value in enumerate(given))


def _value(tree: dict[Any, Any], key: str, path: Path) -> Any:
    if key not in tree:
        raise ValueError(f"{path}: missing key {key!r}")
    return tree[key]


def _text(tree: dict[Any, Any], key: str, path: Path) -> str:
    value = _value(tree, key, path)
    if not isinstance(value, str):
        raise ValueError(f"{path}: {key}: expected a text, got {value!r}")
    return value


def _whole(tree: dict[Any, Any], key: str, path: Path) -> int:
    value = _value(tree, key, path)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST_NUMBER:
        raise ValueError(f"{path}: {key}: expected a whole number, got {value!r}")
    return value


def _number(value: Any, key: str, path: Path) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"{path}: {key}: expected a number, got {value!r}")
    return float(value)
