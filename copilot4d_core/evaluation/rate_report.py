# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d evaluate --rate-distortion`: a picture, a CSV and sentences.

What goes in: runners, data sets and the sensor's pattern. What comes out: PICTURE.png, PICTURE.csv, and on the screen who wins.
"""

from __future__ import annotations

from pathlib import Path

from copilot4d_core.data.sensors import SensorPattern
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.evaluation.pictures import save_figure
from copilot4d_core.evaluation.rate_comparison import sentences
from copilot4d_core.evaluation.rate_distortion import means, measure, write_rows
from copilot4d_core.evaluation.rate_picture import rate_figure
from copilot4d_core.evaluation.report import DataSet


def rate_distortion(runners: list[Runner], data_sets: list[DataSet], sensor: SensorPattern | None, picture: Path) -> None:
    """Measure, write the files and print who wins.

    Args:
        sensor: where it looks; None: fitted to the first scan of each data set.
        picture: `.png` file to write; the numbers go to a `.csv` beside it.
    Raises:
        ValueError: models of different regions, or a data set without a return inside the region.
    """
    rows = measure(runners, data_sets, sensor)
    averages = means(rows)
    write_rows([*averages, *rows], picture.with_suffix(".csv"))
    save_figure(rate_figure(averages), picture)
    for sentence in sentences(averages):
        print(sentence)
    print(f"{picture} and {picture.with_suffix('.csv')}: {len(rows)} rows and their means")
