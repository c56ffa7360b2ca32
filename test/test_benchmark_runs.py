# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How the benchmark runs frames, pairs and sizes: with a clock that stands still unless a frame moves it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from copilot4d_core.benchmark.compare import Pair, compared
from copilot4d_core.benchmark.frames import SPREAD_M, load_frames, pattern_rays, resampled
from copilot4d_core.benchmark.identity import identity
from copilot4d_core.benchmark.latency import at_rate, jitter_ms, peak_hz, percentiles
from copilot4d_core.benchmark.process_load import SLOPE_S, ProcessLoad
from copilot4d_core.benchmark.result import json_line
from copilot4d_core.benchmark.scaling import Row, Sizes, scaling_cases, slopes, with_region, with_token_grid, write_csv
from copilot4d_core.config import preset
from copilot4d_core.deploy.machine import Machine
from copilot4d_core.grid import Grid


class Clock:
    """Time that only `sleep` moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class TestFixedRate:
    def run(self, costs_s: dict[int, float], frames: int) -> tuple[list[int], object]:
        clock, seen = Clock(), []

        def process(number: int) -> dict[str, float]:
            seen.append(number)
            clock.sleep(costs_s.get(number, 0.02))
            return {"encode": 1e3 * costs_s.get(number, 0.02)}

        return seen, at_rate(process, 10.0, frames, clock, clock.sleep)

    def test_fast_frames_are_all_processed_when_they_are_due(self) -> None:
        seen, timed = self.run({}, 5)
        assert seen == [0, 1, 2, 3, 4] and timed.missed == 0
        assert timed.end_to_end_ms == pytest.approx([20.0] * 5) and timed.stage_ms == {"encode": pytest.approx([20.0] * 5)}
        assert timed.done_s == pytest.approx([0.02, 0.12, 0.22, 0.32, 0.42])
        assert jitter_ms(timed.done_s, 10.0) == {"std": pytest.approx(0.0, abs=1e-6), "max": pytest.approx(0.0, abs=1e-6)}

    def test_after_a_slow_frame_the_newest_wins_and_its_wait_counts(self) -> None:
        # Frame 1, due at 100 ms, ends at 450 ms: 2, 3 and 4 have come, 4 was due at 400 ms and starts 50 ms late; 2 and 3 are missed.
        seen, timed = self.run({1: 0.35}, 7)
        assert seen == [0, 1, 4, 5, 6] and timed.missed == 2
        assert timed.end_to_end_ms == pytest.approx([20.0, 350.0, 70.0, 20.0, 20.0])
        # Results at 20, 450, 470, 520, 620 ms: 330 too late, 80 too early, 50 too early, on time.
        assert jitter_ms(timed.done_s, 10.0) == {"std": pytest.approx(np.sqrt((330**2 + 80**2 + 50**2) / 4)), "max": pytest.approx(330.0)}

    def test_the_last_frame_is_processed_however_late_it_is(self) -> None:
        seen, timed = self.run({0: 2.0}, 4)
        assert seen == [0, 3] and timed.missed == 2 and timed.end_to_end_ms == pytest.approx([2000.0, 1720.0])

    def test_peak_throughput(self) -> None:
        clock = Clock()
        assert peak_hz(lambda number: clock.sleep(0.25) or {}, 8, clock) == pytest.approx(4.0)

    def test_percentiles_by_hand(self) -> None:
        assert percentiles([4.0, 1.0, 2.0, 3.0, 5.0], 50, 90) == {"p50": 3.0, "p90": pytest.approx(4.6), "max": 5.0}
        assert percentiles([], 50) == {}


class TestPairs:
    def test_order_is_a_b_a_b_and_the_ratio_is_that_of_neighbours(self) -> None:
        clock, order = Clock(), []
        ours_s, other_s = iter([9.0, 1.0, 2.0, 1.0]), iter([9.0, 4.0, 10.0, 3.0])

        def run(name: str, costs: object, result: list[float]) -> list[float]:
            order.append(name)
            clock.sleep(next(costs))  # type: ignore[call-overload]
            return result

        pair = Pair("a", "b", lambda: run("A", ours_s, [1.0, np.nan]), lambda: run("B", other_s, [1.5, 2.0]), "m")
        row = compared(pair, 3, clock, lambda seconds: None)
        assert order == ["A", "B"] * 4
        assert (row.ours_ms, row.other_ms, row.ratio, row.lowest_ratio) == pytest.approx((1000.0, 4000.0, 4.0, 3.0))
        assert (row.pairs, row.difference) == (3, pytest.approx(0.5))

    def test_the_input_is_made_anew_before_each_run_and_its_making_is_not_counted(self) -> None:
        clock, order = Clock(), []

        def run(name: str, cost_s: float) -> list[float]:
            order.append(name)
            clock.sleep(cost_s)
            return [1.0]

        row = compared(Pair("a", "b", lambda: run("A", 1.0), lambda: run("B", 4.0), "m", lambda: run("input", 7.0)), 2, clock, lambda seconds: None)
        assert order == ["A", "B"] + ["input", "A", "input", "B"] * 2
        assert (row.ours_ms, row.other_ms, row.ratio) == pytest.approx((1000.0, 4000.0, 4.0))

    def test_results_without_a_common_number_are_refused(self) -> None:
        with pytest.raises(ValueError, match="expected finite numbers to compare"):
            compared(Pair("a", "b", lambda: [np.nan], lambda: [1.0], ""), 1)


class TestFrames:
    def test_fewer_points_are_taken_evenly_and_more_are_moved_copies(self) -> None:
        points = np.arange(30, dtype=np.float32).reshape(10, 3)
        np.testing.assert_array_equal(resampled(points, 5), points[::2])
        more = resampled(points, 25)
        np.testing.assert_array_equal(more[:10], points)
        moved = more[10:] - points[np.arange(10, 25) % 10]
        assert more.dtype == np.float32 and 0 < np.abs(moved).max() <= SPREAD_M + 1e-5 and len(np.unique(more, axis=0)) == 25

    def test_a_simulated_drive_says_so_and_bad_numbers_are_refused(self) -> None:
        frames = load_frames(None, None, 1, 1000)
        assert (frames.source, frames.points, len(frames.clouds_m)) == ("simulated drive", 1000, 1)
        for count, points in ((0, None), (1, 0)):
            with pytest.raises(ValueError, match="expected at least 1, got 0"):
                load_frames(None, None, count, points)

    def test_rays_are_those_of_the_depth_image(self) -> None:
        assert len(pattern_rays(128).directions) == 128
        with pytest.raises(ValueError, match="multiple of 64"):
            pattern_rays(100)


class TestScaling:
    def test_slopes_are_the_powers(self) -> None:
        rows = [Row("points", size, {"voxelize": 3 * size, "encode": 7, "decode": size**2, "render": size**0.5, "total": size}, size**0.25)
                for size in (10, 100, 1000)]
        found = slopes(rows)["points"]
        assert [found[name].whole for name in ("voxelize", "encode", "decode", "render", "memory")] == pytest.approx([1, 0, 2, 0.5, 0.25])
        assert found["decode"].end == pytest.approx(2)
        assert slopes(rows[:1]) == {}

    def test_region_keeps_the_cells_and_the_token_grid_keeps_the_region(self) -> None:
        mini = preset("mini")
        wide, fine = Grid(with_region(mini, 160)), Grid(with_token_grid(mini, 96))
        assert wide.tokens_HW == (128, 128) and wide.token_size_m == Grid(mini).token_size_m and wide.maximum_m[0] == 80
        assert fine.tokens_HW == (96, 96) and fine.maximum_m[0] == 40
        assert len(scaling_cases(mini, 1000, 64, Sizes())) == 18

    def test_csv_has_a_line_a_size(self, tmp_path: Path) -> None:
        write_csv([Row("rays", 64, {"voxelize": 1, "encode": 2, "decode": 3, "render": 4, "total": 10}, 5)], tmp_path / "s.csv")
        assert (tmp_path / "s.csv").read_text().splitlines()[1] == "rays,64,1.0000,2.0000,3.0000,4.0000,10.0000,5.00"


def test_load_of_this_process_sees_memory_and_work() -> None:
    watched = ProcessLoad(os.getpid())
    held = np.ones(64 * 2**20, dtype=np.uint8)
    watched.sample()
    sum(range(3_000_000))
    load = watched.load()
    assert len(held) and load.rss_max_mib >= load.rss_mib > 50 and load.cpu_percent > 10
    assert load.rss_slope_mib_per_min is None and SLOPE_S > 10, "a second says nothing about a slope"


def test_slope_of_memory_is_mib_a_minute() -> None:
    watched = ProcessLoad(os.getpid())
    watched._samples = [(0.0, 0.0, 100.0), (30.0, 1.0, 101.0), (60.0, 2.0, 102.0)]
    watched.sample = lambda: None  # type: ignore[method-assign]
    load = watched.load()
    assert (load.rss_slope_mib_per_min, load.rss_mib) == (pytest.approx(2.0), 102.0)
    assert load.cpu_percent == pytest.approx(100 * 2 / 60)


def test_identity_tells_machines_apart(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text("processor : 0\nmodel name : Some CPU\nflags : avx2\n")
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 2097152 kB\nMemFree: 1 kB\n")
    found = identity(Machine(root=tmp_path, environment={"PATH": ""}))
    assert found["hardware"]["cpu"] == "Some CPU, 1 cores, avx2" and found["hardware"]["memory_gib"] == 2.0
    assert found["hardware"]["gpu"] is None and found["power_mode"] == {"gpu": None, "cpu_governor": None}
    assert found["versions"]["numpy"] == np.__version__


def test_a_line_of_json_is_one_line_of_short_numbers() -> None:
    line = json_line({"a": {"b": [1.23456789e-5, 2]}, "c": None})
    assert "\n" not in line and json.loads(line) == {"a": {"b": [1.23457e-5, 2]}, "c": None}
