# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Does surprise tell scans that are unlike the training data? Its AUROC for every corruption and for foreign scans.

What goes in: a model, scans of drives that it was not trained on but should know, and foreign ones. What comes out: a table and a JSON file.
Beside surprise stands what the model's prior says, bits per token, which needs no rendering.

`python -m copilot4d_core.evaluation.surprise_study --normal PATH ... --foreign PATH ... --json OUT`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from copilot4d_core.atomic_file import check_writable, replacing_file
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.sources import open_scans
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.evaluation.corruptions import CORRUPTIONS, corrupted
from copilot4d_core.evaluation.surprise import scan_surprise_m, surprise_of
from copilot4d_core.grid import FloatArray, Grid

NORMAL, FOREIGN = "as recorded", "foreign: "


class Score(NamedTuple):
    """What is said of one scan; the larger, the less it is like the training data."""

    surprise_m: float
    bits_per_token: float | None
    """Mean over all tokens; None for a model without a prior."""


def auroc(worse: npt.ArrayLike, normal: npt.ArrayLike) -> float:
    """Chance that a worse scan scores higher than a normal one, a tie counting half; the area under the ROC curve (Mann and Whitney, 1947)."""
    above = np.asarray(worse, dtype=np.float64)[:, None] - np.asarray(normal, dtype=np.float64)[None]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def score(runner: Runner, points_m: FloatArray, origins_m: FloatArray) -> Score:
    """Scores of one scan; `origins_m` is (N, 3), metres: where the ray of each point starts.

    Raises:
        ValueError: no point lies inside the region.
    """
    inside = Grid(runner.config).inside(points_m)
    if not inside.any():
        raise ValueError(f"surprise: expected points inside the region, none of {len(points_m)} is; check the frame and unit")
    tokens = runner.encode(points_m)
    bits = None if runner.prior is None else 8 * len(runner.prior.encode(tokens)) / tokens.size
    return Score(scan_surprise_m(surprise_of(runner, tokens, points_m[inside], origins_m[inside])), bits)


def study(runner: Runner, normal: Iterable[Scan], foreign: Iterable[tuple[str, Scan]], seeds: int) -> dict[str, list[Score]]:
    """Scores by group: the normal scans as recorded, every corruption of each of them, and the foreign ones by data set.

    Args:
        foreign: name of the data set, and a scan of it.
        seeds: how often each normal scan is corrupted in each way that is random.
    """
    scores: dict[str, list[Score]] = {NORMAL: []}
    for number, scan in enumerate(normal):
        scores[NORMAL].append(score(runner, scan.points_m, scan.point_origins_m))
        for name, corruption in CORRUPTIONS.items():
            for seed in range(seeds if corruption.is_random else 1):
                worse = corrupted(corruption, scan.points_m, 1000 * seed + number)
                scores.setdefault(name, []).append(score(runner, worse, np.broadcast_to(scan.origin_m, worse.shape)))
    for name, scan in foreign:
        scores.setdefault(FOREIGN + name, []).append(score(runner, scan.points_m, scan.point_origins_m))
    return scores


def table(scores: dict[str, list[Score]]) -> Table:
    """A row a group: how many scans, surprise (median, least to most), and the AUROC of both scores against the normal scans."""
    result = Table(title="scans told from normal ones")
    for name in ("scans", "how many", "surprise (m)", "AUROC", "bits per token", "AUROC of bits"):
        result.add_column(name, justify="left" if name == "scans" else "right")
    normal = np.array(scores[NORMAL], dtype=np.float64)
    for name, group in scores.items():
        values = np.array(group, dtype=np.float64)
        low, middle, high = np.percentile(values[:, 0], (0, 50, 100))
        told = ["-", "-"] if name == NORMAL else [f"{auroc(values[:, place], normal[:, place]):.2f}" for place in (0, 1)]
        result.add_row(name, str(len(group)), f"{middle:.2f} ({low:.2f} to {high:.2f})", told[0], f"{np.median(values[:, 1]):.2f}", told[1])
    return result


def _scans(places: list[str], seen: str) -> Iterator[tuple[str, Scan]]:
    """Scans of each place, with the name that stands before its `=`, or that of the source."""
    for place in places:
        name, _, path = ("", "", place) if Path(place).exists() else place.rpartition("=")
        source = open_scans(Path(path))
        for index in track(range(len(source)), description=f"{seen} {source.name}", console=Console(stderr=True), transient=True):
            yield name or source.name, source[index]


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(prog="surprise_study", description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--normal", nargs="+", required=True, metavar="PATH", help="scans that were not trained on, of known sensors")
    parser.add_argument("--foreign", nargs="*", default=[], metavar="[NAME=]PATH", help="scans of other sensors or frames; those of one name make "
                        "one row")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how often each scan is corrupted in each random way (default 3)")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="weights or export folder (default: the weights in the package)")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="file for the scores of every scan")
    parsed = parser.parse_args()
    check_writable(parsed.json)
    with open_runner(parsed.weights) as runner:
        scores = study(runner, (scan for _, scan in _scans(parsed.normal, "normal")), _scans(parsed.foreign, "foreign"), parsed.seeds)
    with replacing_file(parsed.json) as file:
        file.write((json.dumps({name: [one._asdict() for one in group] for name, group in scores.items()}, indent=1) + "\n").encode())
    Console(width=120).print(table(scores))


if __name__ == "__main__":
    main()
