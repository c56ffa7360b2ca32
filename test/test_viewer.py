# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""`copilot4d view`: what a recording holds, what the page serves, and what a browser shows."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("rerun", reason="the viewer needs Rerun: pip install '.[view]'")

from rerun.chunk import RrdReader
from stand_in_runner import MODEL_ID, StandInRunner
from tiny_model import write_tiny_weights

from copilot4d_core.cli import main
from copilot4d_core.cli_view import RERUN
from copilot4d_core.data.scan import Scan, scan_from_points
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.simulator import EPOCH_NS, write_demo_bag
from copilot4d_core.evaluation.viewer import DriveRecording
from copilot4d_core.evaluation.viewer_page import Page

ROOT = Path(__file__).resolve().parent.parent
EXACT = (247, 247, 247)
"""Middle of ColorBrewer's RdBu, #f7f7f7."""
HALF_TOO_FAR = (106.5, 172, 208.5)
"""Three quarters of ColorBrewer's 11 colours of RdBu: half-way from #92c5de to #4393c3."""
NOTHING = (0x7A, 0x7A, 0x7A)
ROWS, COLUMNS, STRIP_ROWS = 64, 1024, 192
SHOWN_S = 240.0
"""Longest time until a browser without a GPU shows a drive; on two busy cores it took 18 s."""

Rows = dict[int, npt.NDArray[Any]]


def read(path: Path, entity: str, component: str, timeline: str = "frame") -> Rows:
    """What an entity holds, by frame."""
    rows: Rows = {}
    for chunk in RrdReader(path).stream().to_chunks():
        if chunk.entity_path == entity and component in (batch := chunk.to_record_batch()).schema.names:
            times = batch.column(timeline).cast("int64").to_pylist()
            rows.update({time: np.array(row) for time, row in zip(times, batch.column(component).to_pylist(), strict=True)})
    return rows


def colours_of(path: Path, entity: str) -> npt.NDArray[np.int64]:
    """(N, 3) RGB of the points of frame 0."""
    packed = read(path, entity, "Points3D:colors")[0].astype(np.int64)
    return np.stack([packed >> 24, packed >> 16 & 255, packed >> 8 & 255], axis=-1)


def strip_of(path: Path, entity: str) -> npt.NDArray[np.uint8]:
    """(rows, columns, 3) RGB of the image of frame 0, without the repeated rows."""
    image = read(path, entity, "Image:buffer")[0].astype(np.uint8).reshape(STRIP_ROWS, COLUMNS, 3)
    return image[::STRIP_ROWS // ROWS]


def shell_scan() -> Scan:
    """One return 5 m away in every other column of an even pattern, so that half of the rays have an input."""
    directions = SphericalPattern(ROWS, COLUMNS, -20.0, 5.0).rays(np.zeros(3, dtype=np.float32)).directions
    points_m = 5 * directions.reshape(ROWS, COLUMNS, 3)[:, ::2].reshape(-1, 3)
    return scan_from_points("shell", points_m, None, raw_bytes=0)


def write_kitti(path: Path, points_m: npt.NDArray[np.float32]) -> None:
    np.column_stack([points_m, np.ones(len(points_m))]).astype("<f4").tofile(path)


def record(path: Path, runner: StandInRunner) -> Path:
    with DriveRecording(runner, "shell", path) as drive:
        drive.add(0, shell_scan())
    return path


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> StandInRunner:
    """The runner that the command opens."""
    stand_in = StandInRunner(error_m=0.5)
    module = types.ModuleType("open_runner")
    module.open_runner = lambda weights, runner, int8, tell: stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", module)
    return stand_in


class TestRecording:
    def test_a_simulated_drive(self, runner: StandInRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_demo_bag(tmp_path / "drive", num_scans=5, seed=3, sensor="vlp16")
        out = tmp_path / "drive.rrd"
        assert main(["view", str(tmp_path / "drive"), "--every", "2", "--frames", "2", "--out", str(out)]) == 0
        assert runner.closed
        said = capsys.readouterr()
        assert f"{out}: 2 scans" in said.out and "2 of 3 scans" in said.err
        store, = RrdReader(out).recordings()
        assert (store.application_id, len(RrdReader(out).blueprints())) == ("copilot4d", 1)
        chunks = RrdReader(out).stream().to_chunks()
        assert {chunk.entity_path for chunk in chunks if not chunk.is_static} == {
            "/points/input", "/points/reconstruction", "/points/error", "/depth/input", "/depth/reconstruction", "/depth/error",
            "/tokens", "/surprise/map", "/surprise/mean_m", "/error/median_m", "/share/within_0p2m", "/share/within_1m", "/codes/used", "/ms/total"}
        assert {"/legend", "/region"} <= {chunk.entity_path for chunk in chunks if chunk.is_static}
        # Scans 0 and 2 of a sensor at 10 Hz.
        assert sorted(read(out, "/tokens", "Image:buffer")) == [0, 2]
        assert sorted(read(out, "/tokens", "Image:buffer", "time")) == [EPOCH_NS, EPOCH_NS + 200_000_000]
        name = next(batch.column("RecordingInfo:name")[0].as_py() for chunk in chunks
                    if "RecordingInfo:name" in (batch := chunk.to_record_batch()).schema.names)
        assert name == [f"{MODEL_ID} on drive"]

    def test_an_exact_reconstruction_has_the_colour_of_no_error(self, tmp_path: Path) -> None:
        path = record(tmp_path / "exact.rrd", StandInRunner())
        assert len(read(path, "/points/error", "Points3D:positions")[0]) == ROWS * COLUMNS
        colours = colours_of(path, "/points/error").reshape(ROWS, COLUMNS, 3)
        assert np.abs(colours[:, ::2] - EXACT).max() <= 3
        assert (colours[:, 1::2] == NOTHING).all(), "the input has nothing along these rays"
        assert np.array_equal(strip_of(path, "/depth/error"), colours)
        assert read(path, "/error/median_m", "Scalars:scalars")[0] == pytest.approx([0.0], abs=1e-5)
        assert read(path, "/share/within_0p2m", "Scalars:scalars")[0] == [1.0]
        # Points that lie where the input's do have the input's colours.
        heights = colours_of(path, "/points/reconstruction").reshape(ROWS, COLUMNS, 3)[:, ::2].reshape(-1, 3)
        assert np.abs(heights - colours_of(path, "/points/input")).max() <= 3

    def test_an_error_and_a_miss_have_theirs(self, tmp_path: Path) -> None:
        path = record(tmp_path / "far.rrd", StandInRunner(error_m=0.5, misses=slice(COLUMNS)))
        assert len(read(path, "/points/error", "Points3D:positions")[0]) == (ROWS - 1) * COLUMNS
        assert np.abs(colours_of(path, "/points/error")[::2] - HALF_TOO_FAR).max() <= 3
        error, depth = strip_of(path, "/depth/error"), strip_of(path, "/depth/reconstruction")
        assert (error[0] == NOTHING).all() and (depth[0] == NOTHING).all(), "the highest row met nothing"
        assert np.abs(error[1:, ::2] - np.array(HALF_TOO_FAR)).max() <= 3 and (error[:, 1::2] == NOTHING).all()
        assert read(path, "/error/median_m", "Scalars:scalars")[0] == pytest.approx([0.5], abs=1e-5)
        assert read(path, "/share/within_0p2m", "Scalars:scalars")[0] == [0.0]
        assert read(path, "/share/within_1m", "Scalars:scalars")[0] == pytest.approx([63 / 64])
        # Half a metre in every cell but those that hold one of the 1,024 returns that are missed.
        assert 0.5 < read(path, "/surprise/mean_m", "Scalars:scalars")[0][0] < 1.0
        # The stand-in knows token 1 for a cell with points, and 0.
        assert read(path, "/codes/used", "Scalars:scalars")[0] == [1.0]

    def test_tokens_are_turned_so_that_ahead_is_up(self, tmp_path: Path) -> None:
        # tiny: 16 x 16 cells of 1.25 m. Ahead and to the left: the upper left corner.
        scan = scan_from_points("corner", np.array([[9.9, 9.9, 0.0], [9.9, 9.9, -1.0]], dtype=np.float32), None, raw_bytes=0)
        with DriveRecording(StandInRunner(), "corner", tmp_path / "corner.rrd") as drive:
            drive.add(0, scan)
        image = read(tmp_path / "corner.rrd", "/tokens", "Image:buffer")[0].reshape(16, 16, 3)
        bright = image.max(axis=-1) > 100
        assert bright[0, 0] and bright.sum() == 1
        # Its surprise is 0, the dark end of the palette; every other cell is the grey of nothing.
        surprise = read(tmp_path / "corner.rrd", "/surprise/map", "Image:buffer")[0].reshape(16, 16, 3)
        assert surprise[0, 0].max() < 10
        surprise[0, 0] = NOTHING
        assert (surprise == NOTHING).all()

    def test_rays_are_those_of_a_sensor_file(self, runner: StandInRunner, tmp_path: Path) -> None:
        (tmp_path / "four.yaml").write_text("{name: Four, source: by hand, columns: 100, max_range_m: 50, elevations_deg: [5, 0, -5, -20]}")
        write_kitti(tmp_path / "scan.bin", shell_scan().points_m)
        out = tmp_path / "four.rrd"
        assert main(["view", str(tmp_path / "scan.bin"), "--sensor", str(tmp_path / "four.yaml"), "--out", str(out)]) == 0
        # Four rows, each five times, so that the strip is five times as wide as high.
        assert read(out, "/depth/input", "Image:buffer")[0].size == 100 * 20 * 3
        found_m = read(out, "/points/reconstruction", "Points3D:positions")[0].reshape(4, 100, 3)
        assert np.rad2deg(np.arcsin(found_m[:, 0, 2] / 5.5)) == pytest.approx([5, 0, -5, -20], abs=1e-3)

    def test_a_scan_outside_the_region_is_left_out_and_named(self, runner: StandInRunner, tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
        shell_m = shell_scan().points_m
        (tmp_path / "drive").mkdir()
        for name, scale in (("a", 1), ("b", 50)):
            write_kitti(tmp_path / "drive" / f"{name}.bin", scale * shell_m)
        assert main(["view", str(tmp_path / "drive"), "--out", str(tmp_path / "a.rrd")]) == 0
        said = capsys.readouterr()
        assert "1 scans" in said.out and "left out, because no return lies inside the model's region: b" in said.err
        assert main(["view", str(tmp_path / "drive" / "b.bin"), "--out", str(tmp_path / "b.rrd")]) == 2
        assert "got none in 1 scans" in capsys.readouterr().err
        assert not (tmp_path / "b.rrd").exists()


class TestRefusals:
    @pytest.mark.parametrize(("arguments", "expected"), [
        (["absent"], "absent: expected KITTI"),
        (["scan.bin", "--topic", "/x"], "a topic ('/x') is only for bags"),
        (["scan.bin", "--every", "0"], "--every: expected at least 1, got 0"),
        (["scan.bin", "--frames", "0"], "--frames: expected at least 1, got 0"),
        (["scan.bin", "--port", "70000"], "--port: expected at most 65535, got 70000"),
        (["scan.bin", "--sensor", "radar"], "sensor: expected one of hdl32e"),
        (["scan.bin", "--out", "drive.txt"], "drive.txt: expected a name that ends in .rrd"),
        (["scan.bin", "--out", "nowhere/drive.rrd"], "the folder nowhere does not exist"),
    ])
    def test_wrong_use_is_named_before_a_model_is_loaded(self, arguments: list[str], expected: str, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", None)
        monkeypatch.chdir(tmp_path)
        np.ones((8, 4), dtype="<f4").tofile("scan.bin")
        assert main(["view", *arguments]) == 2
        said = capsys.readouterr()
        assert expected in said.err and said.err.count("\n") == 1 and not said.out

    @pytest.mark.parametrize(("found", "expected"), [(None, "it is not installed"), ("0.37.2", "expected rerun-sdk 0.38 or newer, got 0.37.2")])
    def test_without_rerun_it_says_what_to_install(self, found: str | None, expected: str, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def version(name: str) -> str:
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)
        np.ones((8, 4), dtype="<f4").tofile(tmp_path / "scan.bin")
        assert main(["view", str(tmp_path / "scan.bin")]) == 2
        assert expected in (said := capsys.readouterr().err) and f'`pip install "{RERUN}"`' in said

    def test_the_extra_asks_for_the_same_versions(self) -> None:
        assert f'"view": ["{RERUN}"]' in (ROOT / "setup.py").read_text()


def get(address: str, **headers: str) -> Any:
    return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30)


class TestPage:
    def test_it_serves_a_recording_that_grows_and_only_to_this_machine(self, tmp_path: Path) -> None:
        path = tmp_path / "drive.rrd"
        path.write_bytes(b"first")
        with path.open("rb") as recording, path.open("ab", buffering=0) as writer, Page(recording, 0) as page:
            with get(page.address) as answer:
                assert "Rerun" in answer.read().decode()
                assert answer.url.startswith(f"{page.address}?url=http%3A%2F%2F127.0.0.1") and "drive.rrd" in answer.url
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'self' ")
            with get(page.address + "drive.rrd") as answer:
                assert answer.read(5) == b"first"
                writer.write(b" second")
                page.finish()
                assert answer.read() == b" second"
            for address, headers, code in ((page.address, {"Host": "evil.example:80"}, 403), (page.address + "absent", {}, 404)):
                with pytest.raises(urllib.error.HTTPError) as refusal:
                    get(address, **headers)
                assert refusal.value.code == code
            port = int(page.address.rsplit(":", 1)[1].rstrip("/"))
            # Linux answers on all of 127/8 where a server listens to every interface.
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), timeout=5)
            with pytest.raises(OSError, match=f"--port {port}: Address already in use; choose another"), path.open("rb") as again:
                Page(again, port)

    @pytest.mark.parametrize(("when", "code"), [("Ctrl-C ends", 130), ("scans shown", 0)])
    def test_ctrl_c_ends_it(self, when: str, code: int, tmp_path: Path) -> None:
        weights = write_tiny_weights(tmp_path / "tiny.safetensors")
        (tmp_path / "drive").mkdir()
        for number in range(100 if code else 1):
            write_kitti(tmp_path / "drive" / f"{number:03}.bin", shell_scan().points_m)
        command = [sys.executable, "-m", "copilot4d_core.cli", "view", str(tmp_path / "drive"), "--weights", str(weights), "--runner", "onnx"]
        environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            said = next(line for line in process.stdout if when in line)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        assert re.match(r"drive: http://127\.0\.0\.1:\d+/ " if code else r"1 scans shown", said)


def count(picture: npt.NDArray[np.uint8], colour: tuple[float, ...]) -> int:
    """Pixels of a colour."""
    return int(np.count_nonzero(np.abs(picture.astype(float) - colour).max(axis=-1) <= 4))


def test_a_browser_shows_the_drive_and_fetches_nothing_from_outside(tmp_path: Path) -> None:
    chromium = pytest.importorskip("chromium", reason="needs websocket-client: pip install '.[test]'")
    if chromium.PROGRAM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    path = record(tmp_path / "drive.rrd", StandInRunner(error_m=0.5))
    # By hand: code 1 is hue 0.618, saturation 0.7, value 0.75 + 0.25 * 0.382.
    colours = {"error of 0.5 m": HALF_TOO_FAR, "nothing": NOTHING, "token 1": (65, 107, 216)}
    with path.open("rb") as recording, Page(recording, 0) as page, chromium.chromium(1000, 700) as tab:
        page.finish()
        tab.open(f"{page.address}?renderer=webgl")
        picture = tab.wait_for(lambda shot: all(count(shot, colour) > 100 for colour in colours.values()), SHOWN_S)
        assert {name: count(picture, colour) for name, colour in colours.items() if count(picture, colour) <= 100} == {}
        addresses = list(tab.let_out.values())
        assert page.address + "drive.rrd" in addresses
        assert [address for address in addresses if not address.startswith((page.address, "data:", "blob:"))] == []
