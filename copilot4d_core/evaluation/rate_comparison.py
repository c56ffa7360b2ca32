# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Who wins at equal bytes: sentences about the means of `rate_distortion.py`.

What goes in: mean rows. What comes out: one paragraph for every data set and model.
Unusual: between two settings a codec's value is read off the straight line over the logarithm of the bytes, as a reader of the picture
would; beyond its settings nothing is said.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.evaluation.rate_distortion import DRACO, ENTROPY_CODED, FIXED_RATE, OCTREE, TOKENS, Row


class Measure(NamedTuple):
    """One way to judge a cloud."""

    name: str
    field: str
    unit: str
    sign: int
    """1 where less is better, -1 where more is."""

    def shown(self, value: float) -> str:
        """With its unit."""
        return f"{value:.2f}{self.unit}" if np.isfinite(value) else "has no such setting"


CODECS = (OCTREE, DRACO)
MEASURES = (Measure("Chamfer distance", "chamfer_m", " m", 1), Measure("F-score at 0.2 m", "fscore_0p2m", "", -1))


def curve(rows: list[Row], data_set: str, codec: str, measure: Measure) -> tuple[list[float], list[float]]:
    """Bytes and values of a codec on a data set, by bytes."""
    points = sorted((row.bytes, float(getattr(row, measure.field))) for row in rows if (row.data_set, row.codec) == (data_set, codec))
    return [size for size, _ in points], [value for _, value in points]


def value_at(rows: list[Row], data_set: str, codec: str, measure: Measure, size: float) -> float:
    """What a codec reaches with so many bytes; NaN beyond its settings."""
    sizes, values = curve(rows, data_set, codec, measure)
    return float(np.interp(np.log(size), np.log(sizes), values, left=np.nan, right=np.nan)) if sizes else np.nan


def bytes_for(rows: list[Row], data_set: str, codec: str, measure: Measure, value: float) -> float:
    """Fewest bytes with which a codec is as good as a value; NaN where no setting is."""
    sizes, values = curve(rows, data_set, codec, measure)
    good = [measure.sign * (one - value) <= 0 for one in values]
    if not any(good):
        return np.nan
    end = good.index(True)
    if end == 0:
        return sizes[0]
    share = (value - values[end - 1]) / (values[end] - values[end - 1])
    return float(np.exp(np.log(sizes[end - 1]) + share * np.log(sizes[end] / sizes[end - 1])))


def is_best_rate(row: Row, rows: list[Row]) -> bool:
    """Whether a row of tokens is entropy-coded, or at the fixed rate because its model has no prior."""
    coded = row.setting.replace(FIXED_RATE, ENTROPY_CODED)
    return row.setting == coded or all(other.setting != coded for other in rows if other.data_set == row.data_set)


def sentences(rows: list[Row]) -> list[str]:
    """Who wins at the bytes of the tokens, and from where on the codecs do: for every data set, model and way of coding, by every measure."""
    result = []
    for row in rows:
        if row.codec == TOKENS:
            result.append(f"{row.data_set}, {row.setting}, {row.bytes:,.0f} bytes a scan:")
            result += [f"  {_verdict(rows, row, one)}" for one in MEASURES]
    return result


def _verdict(rows: list[Row], tokens: Row, measure: Measure) -> str:
    mine = float(getattr(tokens, measure.field))
    theirs = {codec: value_at(rows, tokens.data_set, codec, measure, tokens.bytes) for codec in CODECS}
    ranked = sorted({"tokens": mine, **theirs}.items(), key=lambda item: np.inf if np.isnan(item[1]) else measure.sign * item[1])
    (first, value), others = ranked[0], ranked[1:]
    others_shown = ", ".join(f"{codec} {measure.shown(other)}" for codec, other in others)
    start = {codec: bytes_for(rows, tokens.data_set, codec, measure, mine) for codec in CODECS}
    start_shown = ", ".join(f"{codec} {'nowhere' if np.isnan(size) else f'from {size:,.0f} bytes on'}" for codec, size in start.items())
    return (f"{measure.name}: {first} {'win' if first == 'tokens' else 'wins'} with {measure.shown(value)}; {others_shown}. "
            f"Better than these tokens: {start_shown}.")
