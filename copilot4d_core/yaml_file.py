# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""YAML as data and nothing else: no tags that make objects, no aliases, no key twice, nothing large or deep.

What goes in: a text or a file. What comes out: mappings, lists and plain values.
Unusual: a handful of aliases makes a text of one line into more than fits any memory, and settings need none, so they are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LARGEST_BYTES = 256 * 1024
"""No file of settings comes near, and reading this much takes seconds."""


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases and keys that come twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"found the alias *{event.anchor}; write out what it stands for", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        tree = super().construct_mapping(node, deep)
        if len(tree) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, f"expected every key once, got {', '.join(str(key.value) for key, _ in node.value)}",
                                                    node.start_mark)
        return tree


def load_yaml(text: str) -> Any:
    """What a YAML text says; None for an empty one.

    Raises:
        ValueError: no YAML, an alias, a key twice, a tag, or more than `LARGEST_BYTES` or Python's depth of nesting.
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"expected YAML of at most {LARGEST_BYTES} bytes, got {len(text)}")
    try:
        loader = _StrictLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("expected YAML, got brackets within brackets without end") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # such as a date that is none, or a mapping as a key
        raise ValueError(f"expected YAML, got {error}") from error


def read_yaml_text(path: Path) -> str:
    """Text of a YAML file, for `load_yaml`.

    Raises:
        ValueError: more than `LARGEST_BYTES`, or no UTF-8.
        FileNotFoundError: no such file.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"{path}: expected YAML of at most {LARGEST_BYTES} bytes, the file is larger")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8, got {error}") from error
