# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Slow, plain twin of the token prior: cell by cell, in Python's whole numbers, after the description of the file's arrays."""

from __future__ import annotations

import numpy as np

from copilot4d_core.deploy.prior_file import PriorArrays
from copilot4d_core.deploy.token_order import passes


def weight(gap: int) -> int:
    """floor(2^16 * 2^(-gap / 16)): the largest whole number whose 16th power is at most 2^(256 - gap)."""
    if gap > 256:
        return 0
    return max(number for number in range(2 ** ((256 - gap) // 16), 2 ** ((256 - gap) // 16 + 1) + 1) if number**16 <= 2 ** (256 - gap))


WEIGHTS = [weight(gap) for gap in range(258)]


def intervals(arrays: PriorArrays, tokens: np.ndarray) -> list[tuple[int, int]]:
    """First number and share of every choice, for every pass first the classes of its cells, then the codes, by class and cell."""
    rows, columns = tokens.shape
    order, sizes = arrays.code_order.tolist(), arrays.class_sizes.tolist()
    rank = {code: place for place, code in enumerate(order)}
    first = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
    found: list[tuple[int, int]] = []
    ranks = [rank[token] for token in tokens.reshape(-1).tolist()] + [len(order)]
    for index, one in enumerate(passes(rows, columns)):
        codes = []
        for cell, near, place in zip(one.cells.tolist(), one.neighbours.tolist(), one.places.tolist(), strict=True):
            units = hidden_units(arrays, index, [ranks[other] for other in near], place)
            number = next(n for n in range(len(sizes)) if ranks[cell] < first[n + 1])
            logits = [int(bias) + sum(unit * int(w) for unit, w in zip(units, column, strict=True))
                      for bias, column in zip(arrays.class_bias, arrays.class_output.T, strict=True)]
            found.append(interval(logits, number, int(arrays.logit_scale[0])))
            mine = range(first[number], first[number + 1])
            logits = [int(arrays.code_bias[r]) + sum(unit * int(w) for unit, w in zip(units, arrays.code_output[:, r], strict=True)) for r in mine]
            codes.append((number, interval(logits, ranks[cell] - mine.start, int(arrays.logit_scale[0]))))
        found += [one for _, one in sorted(codes, key=lambda entry: entry[0])]
    return found


def hidden_units(arrays: PriorArrays, index: int, near: list[int], place: int) -> list[int]:
    """Cut sums of the neighbours' embeddings."""
    units = []
    for unit in range(arrays.hidden_scale.shape[1]):
        total = int(arrays.hidden_bias[index, place, unit])
        for slot, other in enumerate(near):
            total += sum(int(e) * int(w) for e, w in zip(arrays.embedding[other], arrays.inputs[index - 1, slot, :, unit], strict=True))
        scaled = np.float32(total) * (np.float32(arrays.hidden_scale[index, unit]) / np.float32(2**24))
        units.append(int(min(max(scaled, 0), 255)))
    return units


def interval(logits: list[int], chosen: int, scale: int) -> tuple[int, int]:
    """Where a symbol lies: one for each symbol, the rest of 65536 by weight; bounds are cut down to whole numbers."""
    shift = 0
    while ((len(WEIGHTS) * 2**24) // scale + 2) >> shift >= 4096:
        shift += 1
    gaps = [((max(logits) - logit) >> shift << shift) * scale // 2**24 for logit in logits]
    weights = [WEIGHTS[min(gap, 257)] for gap in gaps]
    room = 65536 - len(logits)
    bounds = [number + sum(weights[:number]) * room // sum(weights) for number in range(len(logits) + 1)]
    return bounds[chosen], bounds[chosen + 1] - bounds[chosen]
