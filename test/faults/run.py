# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Every fault, as often as the time allows, and a record of each: `PYTHONPATH=test python -m faults.run --seconds 3600`.

What comes out: `out/trust/*.json`, the table in docs/reliability.md, and exit code 1 if anything crashed, hung or went wrong.
Unusual: each check has a share of the time and a number of cases; it ends with whichever is reached first.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import rclpy
from faults import disk_faults, graph_faults, input_faults, parameter_faults, process_faults, signal_faults
from faults.outcome import Budget, Outcome, expect
from faults.running_node import USUAL, expected_tokens, running_node
from node_client import NodeClient
from test_killed_training import kill_many_times
from test_node import node_process
from trust.record import Record, write_record
from trust.table import write_table

from copilot4d_ros.dead_segments import remove_dead_segments
from copilot4d_ros.own_graph import own_graph, stop

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_S = 5400.0


class Check(NamedTuple):
    """One row of the table."""

    area: str
    name: str
    unit: str
    most: int
    share: float
    """Of the time, at most."""
    run: Callable[[Path, Budget], Outcome]


def _with_node(namespace: str, run: Callable[..., Outcome], *parameters: str, encode_ms: float = 0.0, input_qos: str = "reliable",
               ) -> Callable[[Path, Budget], Outcome]:
    def check(folder: Path, budget: Budget) -> Outcome:
        with running_node(namespace, folder, *parameters, encode_ms=encode_ms, input_qos=input_qos) as node:
            return run(node, budget)

    return check


def _lifecycle_of_the_fake(folder: Path, budget: Budget) -> Outcome:
    with node_process("cycles", folder / "cycles.txt", "-p", "autostart:=false", "-p", "input_qos:=reliable") as process:
        client = NodeClient("cycles")
        outcome = process_faults.lifecycle_cycles(client, process.pid, budget, USUAL, expected_tokens(USUAL))
        client.destroy_node()
    return outcome


def _lifecycle_of_the_model(folder: Path, budget: Budget) -> Outcome:
    log, arguments = folder / "cycles.txt", ("-r", "__ns:=/model", "-p", "autostart:=false", "-p", "input_qos:=reliable")
    process = signal_faults.started("tokenizer_node", log, *arguments)
    try:
        client = NodeClient("model")
        outcome = process_faults.lifecycle_cycles(client, process.pid, budget, process_faults.SCAN, process_faults.right_tokens())
        client.destroy_node()
    finally:
        stop(process)
    return outcome


def _signals(last_s: float, is_cold: bool = False) -> Callable[[Path, Budget], Outcome]:
    def check(folder: Path, budget: Budget) -> Outcome:
        def prepare() -> dict[str, str]:
            return {"XDG_CACHE_HOME": tempfile.mkdtemp(dir=folder)} if is_cold else {}

        moments_s = signal_faults.random_moments(budget.most, last_s)
        return signal_faults.signals(folder, (moments_s[number] for number in budget), prepare=prepare)

    return check


def _disk(kind: str) -> Callable[[Path, Budget], Outcome]:
    return lambda folder, budget: disk_faults.full_disk(kind, folder, budget.most)


def _network(folder: Path, budget: Budget) -> Outcome:
    return graph_faults.network_goes_down(folder, budget)


def _training_kills(folder: Path, budget: Budget) -> Outcome:
    outcome = Outcome("training killed with SIGKILL at a random moment, half of them while a file is written; then compared bit for bit with an "
                      "uninterrupted one")
    with outcome.case():
        outcome.cases, writing, steps = kill_many_times(budget.most, budget.seconds)
        outcome.figures |= {"while_a_file_was_written": writing, "steps": steps}
    return outcome


def _bad_batches(folder: Path, budget: Budget) -> Outcome:
    outcome = Outcome("batches with NaN: skipped, counted, named, and the end of the run when they repeat (test/test_bad_batches.py)")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test/test_bad_batches.py"], cwd=ROOT, capture_output=True,
                          text=True, check=False)
    outcome.cases = sum(int(count) for count in re.findall(r"\b(\d+) (?:passed|failed)\b", done.stdout))
    with outcome.case(counts=0):
        expect(done.returncode == 0 and outcome.cases > 0, done.stdout)
    return outcome


CHECKS = (
    Check("faults", "publisher-dies", "kills", 100, 0.05, _with_node("dies", input_faults.publisher_dies, "-p", "diagnostics.stale_s:=0.5",
                                                                     input_qos="auto")),
    Check("faults", "rate-burst", "bursts", 30, 0.03, _with_node("burst", input_faults.rate_burst, encode_ms=50, input_qos="auto")),
    Check("faults", "large-cloud", "clouds", 100, 0.03, _with_node("large", input_faults.large_cloud)),
    Check("faults", "subscriber-stops", "stops", 100, 0.04, _with_node("stops", input_faults.subscriber_stops)),
    Check("faults", "clock-jumps", "jumps", 100, 0.03, _with_node("clock", graph_faults.clock_jumps, "-p", "use_sim_time:=true")),
    Check("faults", "participants-restart", "restarts", 50, 0.03, _with_node("restart", graph_faults.participants_restart)),
    Check("faults", "network-down", "outages", 20, 0.04, _network),
    Check("faults", "killed-and-respawned", "kills", 100, 0.10, process_faults.killed_and_respawned),
    *(Check("faults", f"disk-full-{kind}", "writes", 100, 0.02, _disk(kind)) for kind in disk_faults.KINDS),
    Check("faults", "signals", "signals", 100, 0.08, _signals(6.0)),
    Check("faults", "signals-cold-cache", "signals", 20, 0.05, _signals(20.0, is_cold=True)),
    Check("faults", "lifecycle-cycles", "cycles", 1000, 0.04, _lifecycle_of_the_fake),
    Check("faults", "lifecycle-cycles-model", "cycles", 120, 0.08, _lifecycle_of_the_model),
    Check("faults", "cold-kernel-cache", "starts of two", 5, 0.04, process_faults.two_on_a_cold_cache),
    Check("faults", "parameters-running", "values", 1000, 0.01, _with_node("wrong", parameter_faults.while_running)),
    Check("faults", "parameters-at-start", "values", 1000, 0.08, parameter_faults.at_the_start),
    Check("training", "killed", "kills", 200, 0.40, _training_kills),
    Check("training", "bad-batches", "tests", 1, 0.02, _bad_batches),
)


def run(checks: tuple[Check, ...], seconds: float) -> bool:
    """Run checks and write their records; whether all passed."""
    passed = True
    for check in checks:
        begin_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, own_graph():
            rclpy.init()
            try:
                outcome = check.run(Path(folder), Budget(check.most, seconds * check.share))
            except Exception as error:  # the rows after it are worth having, too
                outcome = Outcome(check.name, 0, 0, 0, 1, [f"the check itself failed: {error!r}"])
            finally:
                rclpy.try_shutdown()
                remove_dead_segments()
        passed &= _record(check, outcome, seconds, time.monotonic() - begin_s).passed
    return passed


def _record(check: Check, outcome: Outcome, seconds: float, took_s: float) -> Record:
    figures = ", ".join(map(_figure, outcome.figures.items()))
    record = Record(check.area, check.name, outcome.fault, outcome.cases, check.unit,
                    {"crashes": outcome.crashes, "hangs": outcome.hangs, "wrong results": outcome.wrong}, figures or "all came out as they must",
                    f"make faults TIME={seconds:.0f}", took_s, {"problems": outcome.problems, **outcome.figures})
    write_record(record)
    print(f"{check.area}/{check.name}: {outcome.cases} {check.unit}, {record.failures}, {figures} ({took_s:.0f} s)", flush=True)
    for problem in outcome.problems:
        print(f"  {problem}", flush=True)
    return record


def _figure(item: tuple[str, float]) -> str:
    name, value = item
    unit = {"mb": " MB", "s": " s"}.get(name.rpartition("_")[2], "")
    return f"{(name.rpartition('_')[0] if unit else name).replace('_', ' ')} {value:g}{unit}"


def main() -> int:
    """Run all checks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=DEFAULT_S, help="for all checks together, about")
    parser.add_argument("--only", nargs="*", help="names of checks")
    given = parser.parse_args()
    passed = run(tuple(check for check in CHECKS if not given.only or check.name in given.only), given.seconds)
    with suppress(FileNotFoundError):
        write_table()
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
