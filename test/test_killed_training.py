# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A training that is killed with SIGKILL at any moment goes on as if nothing had been, bit for bit.

Run as a program, it kills one run many times: `python test/test_killed_training.py 50` (how many times).
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from copilot4d_core.data.bag import write_cloud_bag
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.model_file import read_tensors
from copilot4d_core.training.training_log import keep_steps

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
DEADLINE_S = 300.0
"""Tells a hang; on a quiet machine a run takes seconds."""
# The command itself, with a checkpoint after every step in place of every two minutes, so that kills meet one being written.
COMMAND = """
import sys
from copilot4d_core import cli
from copilot4d_core.training import train
train.CHECKPOINT_EVERY_S, train.CALIBRATION_SCANS = 0.0, 2
sys.exit(cli.main(["train", "--config", "settings.yaml", "--data", "bag", "--resume", "--out", sys.argv[1]]))
"""


def make_folder(folder: Path, steps: int) -> Path:
    """Scans, and settings under which the codebook starts late, codes die and K-Means comes in again."""
    write_cloud_bag(folder / "bag", "/points", simulate_drive(3, 4, "vlp16"))
    (folder / "settings.yaml").write_text("preset: tiny\n"
                                          "quantizer: {dead_after_steps: 2, reinit_interval_steps: 4}\n"
                                          f"training: {{steps: {steps}, codebook_start_step: 3}}\n")
    return folder


def started(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")} | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "told.txt").open("ab") as told:
        # A session of its own, so that its worker, which outlives it by some seconds, can be ended with it.
        return subprocess.Popen([sys.executable, "-c", COMMAND, str(out)], env=environment, cwd=folder, stdout=told, stderr=told,
                                start_new_session=True)


def finish(folder: Path, out: Path, steps: int = STEPS) -> None:
    run = started(folder, out)
    try:
        assert run.wait(DEADLINE_S + steps) == 0, (folder / "told.txt").read_text()
    finally:
        end(run)


def end(run: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def kill_when(folder: Path, out: Path, moment: Callable[[], bool]) -> bool:
    """Start the run, kill it at a moment; returns whether it came so far before it ended by itself."""
    run = started(folder, out)
    deadline_s = time.monotonic() + DEADLINE_S
    try:
        while not moment():
            assert time.monotonic() < deadline_s, (folder / "told.txt").read_text()
            if run.poll() is not None:
                assert run.returncode == 0, (folder / "told.txt").read_text()
                return False
            time.sleep(2e-4)  # short beside a file's writing; a loop without rest would take a core from the run
        run.send_signal(signal.SIGKILL)
        return run.wait(DEADLINE_S) == -signal.SIGKILL
    finally:
        end(run)


def steps_logged(out: Path) -> int:
    return (out / "losses.csv").read_text().count("\n") - 1 if (out / "losses.csv").exists() else 0


def writes(out: Path, name: str) -> bool:
    return any(out.glob(f".{name}.safetensors.*.part"))


def check_equal(whole: Path, parts: Path) -> None:
    assert (parts / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()
    for name in ("checkpoint", "weights"):
        (one, header), (other, other_header) = (read_tensors(run / f"{name}.safetensors") for run in (whole, parts))
        assert header == other_header and one.keys() == other.keys()
        assert not [key for key in one if one[key].tobytes() != other[key].tobytes()]
    assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}, "a kill must leave nothing behind"


def tensorboard(out: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss/total")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("killed"), STEPS)


def test_a_run_killed_again_and_again_gives_the_curve_and_weights_of_an_uninterrupted_one(folder: Path) -> None:
    whole, parts = folder / "whole", folder / "parts"
    finish(folder, whole)
    with (whole / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    # K-Means came in by the late start (step 4) and, later, by the dead-code rule.
    assert [int(row["step"]) for row in rows if float(row["codebook/steps_since_kmeans"]) == 0][:2] == [4, 8]
    moments: list[Callable[[], bool]] = [
        lambda: (parts / "config.json").exists(),  # before or while the first checkpoint is written
        lambda: steps_logged(parts) >= 4 and writes(parts, "checkpoint"),
        lambda: steps_logged(parts) >= 9 and writes(parts, "weights"),
    ]
    for moment in moments:
        assert kill_when(folder, parts, moment), "the run must not end before it is killed"
        if (parts / "checkpoint.safetensors").exists():
            assert "random.torch" in load_file(parts / "checkpoint.safetensors")
    with (parts / "losses.csv").open("a") as file:
        file.write("99,0.")  # what a kill leaves of a line in an unlucky moment
    finish(folder, parts)
    check_equal(whole, parts)


def test_the_table_ends_with_the_checkpoint_s_step(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    keep_steps(path, ["step", "loss"], 0)
    assert path.read_text() == "step,loss\n"
    path.write_text('step,loss\n1,3\n2,"a, b"\n3,1\n4,0.')
    keep_steps(path, ["step", "loss"], 3)
    assert path.read_text() == 'step,loss\n1,3\n2,"a, b"\n3,1\n'
    keep_steps(path, ["step", "loss"], 2)
    assert path.read_text() == 'step,loss\n1,3\n2,"a, b"\n'


def test_a_run_of_an_earlier_version_keeps_its_columns_apart(tmp_path: Path) -> None:
    path = tmp_path / "losses.csv"
    path.write_text("step,loss,skipped\n1,3,\n2,2,a scan\n")
    keep_steps(path, ["step", "loss", "new", "skipped"], 2)
    assert path.read_text() == "step,loss,new,skipped\n1,3,,\n2,2,,a scan\n"
    with pytest.raises(ValueError, match="got new, too; another version"):
        keep_steps(path, ["step", "loss", "skipped"], 2)
    assert path.read_text() == "step,loss,new,skipped\n1,3,,\n2,2,,a scan\n"


def kill_many_times(kills: int, seconds: float = 1e9) -> tuple[int, int, int]:
    """Kill a run of many steps at random moments, and compare it with an uninterrupted one.

    Returns:
        Kills made before the time was up, those of them while a file was written, and steps of the run.
    """
    begin_s, steps, rng = time.monotonic(), 12 * kills, random.Random(0)
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # two checkpoints a step would keep a disk busy for longer than the kills
    folder = make_folder(Path(tempfile.mkdtemp(dir=in_memory)), steps)
    finish(folder, folder / "whole", steps)
    out, done, writing = folder / "parts", 0, 0
    while done < kills and (done == 0 or time.monotonic() - begin_s < seconds):
        wait_steps, rest_s, aim = rng.randint(1, 8), rng.uniform(0.0, 0.3), rng.random() < 0.5
        logged = steps_logged(out)
        since: list[float] = []

        def moment(wait_steps: int = wait_steps, rest_s: float = rest_s, aim: bool = aim, logged: int = logged, since: list[float] = since) -> bool:
            if steps_logged(out) < min(logged + wait_steps, steps - 1):
                return False
            since.append(time.monotonic())
            return any(out.glob(".*.part")) if aim else since[-1] - since[0] >= rest_s

        if not kill_when(folder, out, moment):
            break
        done, writing = done + 1, writing + any(out.glob(".*.part"))
        load_file(out / "checkpoint.safetensors")
    if steps_logged(out) < steps:
        finish(folder, out, steps)
    check_equal(folder / "whole", out)
    assert tensorboard(out) == tensorboard(folder / "whole")
    shutil.rmtree(folder)
    return done, writing, steps


if __name__ == "__main__":
    made, while_written, of_steps = kill_many_times(int(sys.argv[1]))
    print(f"{made} kills in {of_steps} steps, {while_written} of them while a file was written: curve, weights and checkpoint equal")
