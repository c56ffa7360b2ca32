# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Settings from YAML and JSON, and back: strict, with the name of what is wrong.

What goes in: a YAML text that overrides a preset, or the complete dictionary of a weights file. What comes out: a `Config`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import typing
from typing import Any

from copilot4d_core.config import Config, preset
from copilot4d_core.yaml_file import load_yaml


def config_from_yaml(text: str) -> Config:
    """Settings from YAML text: a key `preset` (default `paper`) and the values that differ from it.

    Raises:
        ValueError: the text is no mapping, names an unknown key at any depth, or holds a value of another type.
    """
    try:
        tree = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"config: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ValueError(f"config: expected a mapping of sections, got {type(tree).__name__}")
    base = preset(tree.pop("preset", "paper"))
    return typing.cast("Config", _override(base, tree, path=""))


def config_from_dict(tree: Any) -> Config:
    """Settings from a complete dictionary, as written by `dict_from_config`; every key must be there that was when it was written.

    Raises:
        ValueError: no dictionary, a key is missing or unknown, or a value has another type.
    """
    if not isinstance(tree, dict):
        raise ValueError(f"config: expected a dictionary of sections, got {type(tree).__name__}")
    tree = _with_newer_keys(Config(), tree)
    missing = set(_flatten(dict_from_config(Config()))) - set(_flatten(tree))
    if missing:
        raise ValueError(f"config: missing keys {sorted(missing)}; the file was written by another version")
    return typing.cast("Config", _override(Config(), tree, path=""))


def dict_from_config(config: Config) -> dict[str, Any]:
    """Plain dictionary of all settings, ready for JSON or YAML."""
    return typing.cast("dict[str, Any]", json.loads(json.dumps(dataclasses.asdict(config))))


def _with_newer_keys(settings: Any, tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of a file, and for each key that did not exist when it was written what files of that time mean."""
    result = dict(tree)
    for known in dataclasses.fields(settings):
        section = getattr(settings, known.name)
        if dataclasses.is_dataclass(section) and isinstance(tree.get(known.name), dict):
            result[known.name] = _with_newer_keys(section, tree[known.name])
        elif known.name not in tree and "before" in known.metadata:
            result[known.name] = known.metadata["before"]
    return result


def _flatten(tree: dict[str, Any], path: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _flatten(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]
    return keys


def _override(base: Any, tree: dict[str, Any], path: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(base)}
    types = typing.get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in tree.items():
        here = f"{path}{key}"
        if key not in known:
            raise ValueError(f"config: unknown key {here!r}; known keys here: {', '.join(known)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ValueError(f"config: {here}: expected a section (mapping), got {value!r}")
            changes[key] = _override(current, value, f"{here}.")
        else:
            changes[key] = _checked(types[key], value, here)
    return dataclasses.replace(base, **changes)


def _checked(kind: Any, value: Any, path: str) -> Any:
    refusal = ValueError(f"config: {path}: expected {getattr(kind, '__name__', kind)}, got {value!r}")
    if typing.get_origin(kind) is tuple:
        members = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise refusal
        if members[-1] is Ellipsis:
            members = members[:1] * len(value)
        if len(value) != len(members):
            raise refusal
        return tuple(_checked(member, item, path) for member, item in zip(members, value, strict=True))
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"config: {path}: expected one of {', '.join(m.value for m in kind)}, got {value!r}") from None
    if kind is bool:
        if not isinstance(value, bool):
            raise refusal
        return value
    if isinstance(value, bool):
        raise refusal
    if kind is float and isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    if kind in (int, str) and isinstance(value, kind):
        return value
    raise refusal
