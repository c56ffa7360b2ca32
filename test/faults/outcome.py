# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What came of a fault that was tried many times: how often, and how often the product crashed, hung or gave a wrong result.

Unusual: a time that ran out is a hang while the process lives, and a crash when it has ended; everything else that differs is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class WrongResultError(Exception):
    """The product said or left something else than it must."""


def expect(is_right: bool, what: str) -> None:
    """Raises WrongResultError with what was expected unless it is so."""
    if not is_right:
        raise WrongResultError(what)


@dataclass
class Outcome:
    """Counts of one fault."""

    fault: str
    cases: int = 0
    crashes: int = 0
    hangs: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    """One line for each crash, hang and wrong result."""
    figures: dict[str, float] = field(default_factory=dict)
    """What else was measured, with the unit in its name."""

    @contextmanager
    def case(self, is_alive: Callable[[], bool] = lambda: True, counts: int = 1) -> Iterator[None]:
        """One time that the fault is tried; `counts` 0 for a look at what came of all times."""
        self.cases += counts
        try:
            yield
        except WrongResultError as error:
            self.wrong += 1
            self.problems.append(f"case {self.cases}, wrong: {error}")
        except (AssertionError, TimeoutError) as error:
            crashed = not is_alive()
            self.crashes += crashed
            self.hangs += not crashed
            self.problems.append(f"case {self.cases}, {'crash' if crashed else 'hang'}: {error}")

    def largest(self, name: str, value: float) -> None:
        """Keep the largest value of a figure."""
        self.figures[name] = max(value, self.figures.get(name, value))


@dataclass(frozen=True)
class Budget:
    """How often a fault is tried: so many times, or fewer where the time is up before."""

    most: int
    seconds: float = 3600.0

    def __iter__(self) -> Iterator[int]:
        end_s = time.monotonic() + self.seconds
        for number in range(self.most):
            if number and time.monotonic() > end_s:
                return
            yield number
