# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Steps whose numbers are not finite: skipped, counted and named; the run stops when they repeat.

Every check is collective: what one rank finds, all ranks skip.
"""

from __future__ import annotations

import sys

from torch import Tensor

from copilot4d_core.tokenizer import ranks

STOP_AFTER = 3
"""Bad batches in a row that end a run. A skipped batch changes nothing in the model, so a single broken scan is left behind
by the next batch; three batches of other scans in a row mean that the model or its settings are at fault, and that waiting helps nothing."""


class NotFinite(Exception):  # noqa: N818 - caught one line up the call; no error that anybody else sees
    """A step met NaN or infinity."""

    def __init__(self, what: str, is_finite: list[bool]) -> None:
        super().__init__(f"{what} is not finite")
        self.is_finite = is_finite


def refuse_not_finite(what: str, is_finite_B: Tensor) -> None:
    """Look whether all is well with every scan of the batch, on every rank.

    Args:
        what: name of what was looked at.
        is_finite_B: (B,) bool, one entry a scan of this rank's part.
    Raises:
        NotFinite: on every rank, when one scan of any rank is bad.
    """
    if int(ranks.total((~is_finite_B).sum())):
        raise NotFinite(what, is_finite_B.tolist())


class BadBatches:
    """How many batches of the run were skipped, and how many of them in a row; both belong to a checkpoint."""

    def __init__(self) -> None:
        self.skipped = self.in_a_row = 0
        self.last_names: list[str] = []
        """The bad scans of the last batch; empty for a good one."""

    def good(self) -> None:
        """The batch was used."""
        self.in_a_row, self.last_names = 0, []

    def skip(self, step: int, reason: NotFinite, names: list[str]) -> None:
        """Count a batch that was skipped, and say which scans it fell over.

        Args:
            step: its number, from 1.
            reason: what was not finite.
            names: the scans of this rank's part.
        Raises:
            ValueError: too many in a row.
        """
        self.last_names = ranks.joined_names([name for name, is_finite in zip(names, reason.is_finite, strict=True) if not is_finite])
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        told = f"step {step}: {reason} with {', '.join(self.last_names)}"
        if self.in_a_row == STOP_AFTER:
            raise ValueError(f"{told}; it is batch {STOP_AFTER} in a row, so the run stops: look at these scans, or start a new run from its "
                             "last checkpoint (--start) with a lower training.learning_rate")
        if ranks.is_first():
            print(f"copilot4d: {told}; the batch is skipped, number {self.skipped} of this run", file=sys.stderr)
