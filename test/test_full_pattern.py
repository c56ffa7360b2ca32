# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Phantom points and missed returns against a pattern that is small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stand_in_runner import StandInRunner

from copilot4d_core.config import preset
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensors import BeamPattern
from copilot4d_core.evaluation.evaluate import Evaluation
from copilot4d_core.evaluation.full_pattern import BeamCounts, beam_counts, beam_metrics, beam_note
from copilot4d_core.grid import FloatArray, Grid

GRID = Grid(preset("tiny"))
"""x, y in [-10, 10) m, z in [-2.25, 2.25) m."""
SENSOR = BeamPattern("Test", "by hand", (10.0, 5.0, 0.0, -5.0, -10.0), columns=8, max_range_m=100.0)
ORIGIN = np.zeros(3, dtype=np.float32)


def scan_of(*returns: tuple[int, int, float], sensor: BeamPattern = SENSOR) -> Scan:
    """Returns at (row, column, metres)."""
    directions = sensor.rays(ORIGIN).directions.reshape(sensor.rows, sensor.columns, 3)
    points_m = np.array([directions[row, column] * distance for row, column, distance in returns], dtype=np.float32)
    return scan_from_points("by hand", points_m, None, raw_bytes=0)


def depths(*pixels: tuple[int, int]) -> FloatArray:
    image = np.full((SENSOR.rows, SENSOR.columns), np.nan, dtype=np.float32)
    for pixel in pixels:
        image[pixel] = 3.0
    return image.ravel()


SCAN = scan_of((2, 0, 5.0), (2, 4, 50.0), (4, 4, 5.0), (0, 7, 50.0))
"""Inside the region: row 2 of column 0 and row 4 of column 4. Beyond it: row 2 of column 4 and row 0 of column 7."""


def test_counts_by_hand() -> None:
    # On its return; in front of a return beyond the region; beside a return; two rows off; beside one across the seam; in a column
    # of which the scan says nothing.
    rendered = depths((2, 0), (2, 4), (3, 4), (0, 0), (2, 7), (0, 2))
    assert beam_counts(SENSOR, SCAN, GRID, rendered) == BeamCounts(15, 5, phantoms=2, rendered_above=1, phantoms_above=1, returned=2, missed=1)


def test_nothing_rendered_misses_everything_and_invents_nothing() -> None:
    counts = beam_counts(SENSOR, SCAN, GRID, depths())
    assert counts == BeamCounts(15, 0, phantoms=0, rendered_above=0, phantoms_above=0, returned=2, missed=2)
    shares = beam_metrics([counts])
    assert math.isnan(shares["phantom_points"]) and shares["missed_returns"] == 1.0


def test_everything_rendered_misses_nothing() -> None:
    counts = beam_counts(SENSOR, SCAN, GRID, np.full(40, 3.0, dtype=np.float32))
    # Not phantoms: rows 1 to 3 of column 0, rows 3 and 4 of column 4, rows 1 to 3 of column 7. Rows 0 and 1 look up.
    assert counts == BeamCounts(15, 15, phantoms=7, rendered_above=6, phantoms_above=4, returned=2, missed=0)


def test_a_beam_beside_a_missed_return_does_not_stand_in_for_it() -> None:
    assert beam_counts(SENSOR, SCAN, GRID, depths((1, 0), (3, 0), (3, 4))).missed == 2


def test_scans_are_pooled_by_their_beams() -> None:
    counts = [BeamCounts(15, 5, 2, 1, 1, 2, 1), BeamCounts(100, 95, 3, 9, 1, 50, 4)]
    assert beam_metrics(counts) == {"phantom_points": 5 / 100, "phantom_points_above_horizon": 2 / 10, "missed_returns": 5 / 52}
    note = beam_note(SENSOR, counts)
    assert "Test, 5 beams x 8 columns; of 115 beams 52 had a return inside the region and 5" in note
    assert "100 something is rendered, 5" in note and "2 of them above" in note


def test_another_number_of_depths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 x 8 depths, one for each beam, got \(39,\)"):
        beam_counts(SENSOR, SCAN, GRID, np.zeros(39, dtype=np.float32))


def test_the_evaluation_renders_every_beam() -> None:
    full = scan_of(*((row, column, 5.0) for row in range(5) for column in range(8)))
    exact, blind = Evaluation(StandInRunner(), SENSOR), Evaluation(StandInRunner(misses=slice(0, 10)), SENSOR)
    for evaluation in (exact, blind):
        evaluation.add(full)
    assert (exact.metrics()["phantom_points"], exact.metrics()["missed_returns"]) == (0.0, 0.0)
    # The first ten beams of forty meet nothing.
    assert (blind.metrics()["phantom_points"], blind.metrics()["missed_returns"]) == (0.0, 0.25)
    assert any(note.startswith("Full pattern: Test, 5 beams x 8 columns; of 40 beams 40") for note in blind.notes())


def test_scans_of_several_sensors_are_left_out_and_noted() -> None:
    evaluation = Evaluation(StandInRunner(), SENSOR)
    two = SCAN._replace(origins_m=np.zeros((2, 3), dtype=np.float32), sensor=np.zeros(len(SCAN.points_m), dtype=np.uint8))
    evaluation.add(two)
    assert "phantom_points" not in evaluation.metrics()
    assert any("1 scans are of several sensors" in note for note in evaluation.notes())


def test_without_a_sensor_the_keys_are_left_out() -> None:
    evaluation = Evaluation(StandInRunner())
    evaluation.add(SCAN)
    assert not {"phantom_points", "missed_returns"} & set(evaluation.metrics())
