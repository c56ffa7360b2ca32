# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Values that a parameter must not have, one by one, at the start and while the node runs: refused, and the answer says what is allowed."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from faults.outcome import Budget, Outcome, expect
from faults.running_node import RunningNode
from node_client import DEADLINE_S
from test_node import node_process

from copilot4d_ros.parameter_table import ParameterSpec, specs
from copilot4d_ros.parameters import CameraParameters, TokenizerParameters

TYPES = {bool: ("'1'", "'BOOL'"), int: ("'2'", "'INTEGER'"), float: ("'3'", "'DOUBLE'"), str: ("'4'", "'STRING'"), tuple: ("'9'", "'STRING_ARRAY'")}
"""How rclpy calls a type that it expects: by its number in rcl_interfaces/ParameterType while the node runs, by its name at the start."""


class Wrong(NamedTuple):
    """A value that must be refused, and what the refusal must hold."""

    name: str
    value: Any
    told: tuple[str, ...]
    told_at_start: tuple[str, ...]
    live: bool


def every_wrong_value() -> list[Wrong]:
    """Below and above every range, beside every list of choices, and of another type; with what the user must be told."""
    table = [*specs(TokenizerParameters), *specs(CameraParameters, "camera.")]
    return [wrong for spec in table for wrong in _wrong_values(spec)]


def _wrong_values(spec: ParameterSpec) -> Iterator[Wrong]:
    live = not spec.read_only
    if spec.choices:
        yield Wrong(spec.name, "none-of-these", spec.choices, spec.choices, live)
    if spec.low is not None and spec.high is not None:
        kind = type(spec.default)
        told = (str(kind(spec.low)), str(kind(spec.high)))
        values = [kind(spec.low - 1), kind(spec.high + 1)]
        if kind is float:
            values += [float("nan"), float("inf"), -float("inf")]
        yield from (Wrong(spec.name, value, told, told, live) for value in values)
    number, name = TYPES[type(spec.default)]
    yield Wrong(spec.name, 7 if isinstance(spec.default, str) else "text", (number,), (name,), live)


def while_running(node: RunningNode, budget: Budget) -> Outcome:
    """Every wrong value to a node that runs; one that may not change at all says so. After it, the node answers right."""
    outcome = Outcome("wrong value of a parameter while the node runs")
    wrongs = every_wrong_value()
    for number in budget:
        if number >= len(wrongs):
            break
        wrong = wrongs[number]
        with outcome.case(node.is_alive):
            answer = node.client.set_parameter(wrong.name, wrong.value)
            expect(not answer.successful, f"{wrong.name}: {wrong.value!r} was taken")
            told = wrong.told if wrong.live else ("read-only", wrong.name)
            expect(all(part in answer.reason for part in told), f"{wrong.name}: {wrong.value!r} was refused with {answer.reason!r}, without {told}")
    with outcome.case(node.is_alive, counts=0):
        node.answers_right()
    return outcome


def at_the_start(folder: Path, budget: Budget) -> Outcome:
    """A node is started with a wrong value: it ends with 1 and says what is allowed, without a traceback. In a random order, always the same."""
    outcome, log = Outcome("wrong value of a parameter at the start"), folder / "wrong.txt"
    wrongs = every_wrong_value()
    random.Random(4).shuffle(wrongs)
    for number in budget:
        if number >= len(wrongs):
            break
        wrong = wrongs[number]
        file = folder / "wrong.yaml"
        file.write_text(f"/**: {{ros__parameters: {{{wrong.name}: {_yaml(wrong.value)}}}}}\n")
        with outcome.case(), node_process("wrong", log, "--params-file", str(file)) as process:
            try:
                code = process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired as error:
                raise TimeoutError(f"{wrong.name}: {wrong.value!r}: the node did not end") from error
            text = log.read_text()
            expect(code == 1 and "Traceback" not in text, f"{wrong.name}: {wrong.value!r}: exit code {code}: {text}")
            told = (wrong.name, *wrong.told_at_start)
            expect(all(part in text for part in told), f"{wrong.name}: {wrong.value!r} was refused with {text!r}, without {told}")
    return outcome


def _yaml(value: Any) -> str:
    words = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}
    return words.get(str(value), str(value))
