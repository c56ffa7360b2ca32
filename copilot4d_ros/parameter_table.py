# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Parameters as a frozen dataclass: declared from it, read into it, and changed only within what it allows.

What goes in: a dataclass whose fields come from `parameter` and whose groups are such dataclasses. What comes out: an object of it.
Unusual: names are those of ROS, so the field `rows` of the group `depth` is the parameter `depth.rows`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

T = TypeVar("T")
Default = str | int | float | bool | tuple[str, ...]


class ParameterSpec(NamedTuple):
    """One parameter; `low` and `high` bound a number, `choices` a string."""

    name: str
    default: Default
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    read_only: bool


def parameter(default: Any, description: str, low: float | None = None, high: float | None = None, *, choices: Sequence[str] = (),
              live: bool = False) -> Any:
    """Field of a dataclass of parameters.

    Args:
        low: least value of a number.
        high: largest value of a number.
        choices: the values that a string may have.
        live: whether it may change while the node runs.
    """
    return dataclasses.field(default=default, metadata={"description": description, "low": low, "high": high, "choices": tuple(choices),
                                                        "read_only": not live})


def specs(kind: type[Any], prefix: str = "") -> Iterator[ParameterSpec]:
    """Every parameter of a dataclass and of its groups, in the order in which they are written."""
    for field in dataclasses.fields(kind):
        if (group := _group(field)) is not None:
            yield from specs(group, f"{prefix}{field.name}.")
        else:
            default: Any = field.default
            yield ParameterSpec(f"{prefix}{field.name}", default, **field.metadata)


def declare(node: Node, kind: type[T], prefix: str = "") -> T:
    """Declare every parameter and read it.

    Raises:
        ValueError: a string is none of its choices.
        rclpy.exceptions.ParameterException: a number is out of its range, or a value has another type.
    """
    values: dict[str, Any] = {}
    for spec in specs(kind, prefix):
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        values[spec.name] = _checked(spec, node.declare_parameter(spec.name, default, _descriptor(spec)).value)
    return _built(kind, values, prefix)


def changed(current: T, changes: Sequence[Parameter[Any]], prefix: str = "") -> T:
    """The same parameters after a request to change some; names that are not among them are left alone.

    Raises:
        ValueError: a string is none of its choices, or the values do not go together.
    """
    table = {spec.name: spec for spec in specs(type(current), prefix)}
    new = {change.name: _checked(table[change.name], change.value) for change in changes if change.name in table}
    return _built(type(current), {**_flat(current, prefix), **new}, prefix) if new else current


def _group(field: dataclasses.Field[Any]) -> Any:
    return None if field.default_factory is dataclasses.MISSING else field.default_factory


def _flat(values: Any, prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        flat |= _flat(value, f"{prefix}{field.name}.") if dataclasses.is_dataclass(value) else {f"{prefix}{field.name}": value}
    return flat


def _built(kind: type[T], values: Mapping[str, Any], prefix: str) -> T:
    fields = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        group = _group(field)
        fields[field.name] = _built(group, values, f"{prefix}{field.name}.") if group else values[f"{prefix}{field.name}"]
    return kind(**fields)


def _checked(spec: ParameterSpec, value: Any) -> Any:
    if spec.choices and value not in spec.choices:
        raise ValueError(f"{spec.name}: expected one of {', '.join(spec.choices)}, got {value!r}")
    return tuple(value) if isinstance(spec.default, tuple) else value


def _descriptor(spec: ParameterSpec) -> Any:
    descriptor = ParameterDescriptor(description=spec.description, read_only=spec.read_only)
    if spec.choices:
        descriptor.additional_constraints = f"one of {', '.join(spec.choices)}"
    if spec.low is not None and spec.high is not None:
        if isinstance(spec.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high), step=0.0)]
    return descriptor
