# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The `copilot4d` command: exit codes, messages of one line, files written."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_in_runner import MODEL_ID, MaskedStandInRunner, StandInRunner
from test_metrics import DEPTH_KEYS, KEYS

from copilot4d_core.cli import main
from copilot4d_core.config import Config, preset
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.deploy.prior_file import read_prior
from copilot4d_core.deploy.token_file import save_tokens

SENSOR = ["--sensor-rows", "8", "--sensor-columns", "64", "--sensor-elevation-min-deg", "-20", "--sensor-elevation-max-deg", "5"]
Calls = list[tuple[Config, dict[str, Any]]]
PATTERN = SphericalPattern(8, 64, -20.0, 5.0)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> MaskedStandInRunner:
    """The runner that the command opens."""
    stand_in = MaskedStandInRunner(error_m=0.25)
    module = types.ModuleType("open_runner")
    module.open_runner = lambda weights, runner, int8, tell: stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", module)
    return stand_in


@pytest.fixture
def no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal must come before a model is loaded."""
    monkeypatch.setitem(sys.modules, "copilot4d_core.deploy.open_runner", None)


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """A ring of 64 points at 5 m, in the format of KITTI."""
    return write_ring(tmp_path / "ring.bin", 5.0)


def write_ring(path: Path, radius_m: float) -> Path:
    rays = PATTERN.rays(np.zeros(3, dtype=np.float32)).directions[64 * 2:64 * 3]
    np.hstack([rays * radius_m, np.full((64, 1), 0.5)]).astype("<f4").tofile(path)
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "copilot4d_core.cli", *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, check=False, cwd=Path(__file__).parent.parent)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a refusal."""
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("copilot4d: ") and captured.err.count("\n") == 1, captured.err
    return captured.err


class TestProcess:
    def test_help_names_the_commands_and_imports_nothing_heavy(self) -> None:
        code = ("import sys\nfrom copilot4d_core.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n"
                "    print(stop.code, [m for m in ('numpy', 'torch', 'scipy', 'matplotlib', 'rich') if m in sys.modules])")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                              cwd=Path(__file__).parent.parent)
        assert done.stdout.endswith("0 []\n")
        assert all(command in done.stdout for command in ("train", "evaluate", "encode", "decode"))

    def test_refusal_is_one_line_and_code_2(self, tmp_path: Path) -> None:
        foreign = tmp_path / "foreign.npz"
        foreign.write_bytes(b"no archive")
        done = run("decode", foreign, "--out", tmp_path / "cloud.pcd")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"copilot4d: {foreign}: expected a whole token file") and done.stderr.count("\n") == 1

    def test_unknown_command_is_code_2(self) -> None:
        done = run("explode")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


class TestEncodeDecode:
    def test_files_there_and_back(self, runner: StandInRunner, scan_file: Path, tmp_path: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:
        tokens, cloud, depth = tmp_path / "tokens.npz", tmp_path / "cloud.pcd", tmp_path / "depth.png"
        assert main(["encode", str(scan_file), "--out", str(tokens)]) == 0
        assert main(["decode", str(tokens), "--out", str(cloud), "--depth", str(depth), *SENSOR]) == 0
        assert runner.closed
        with np.load(tokens, allow_pickle=False) as arrays:
            assert arrays["tokens"].shape == (16, 16) and arrays["tokens"].dtype == np.uint16
            assert str(arrays["model_id"]) == MODEL_ID
        head, body = cloud.read_bytes().split(b"DATA binary\n")
        assert b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\n" in head and b"POINTS 64\n" in head
        points = np.frombuffer(body, "<f4").reshape(-1, 3)
        assert np.linalg.norm(points, axis=1) == pytest.approx(np.full(64, 5.25), rel=1e-5)
        assert depth.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert "64 of 512 rays" in capsys.readouterr().out

    def test_written_cloud_is_read_by_the_data_layer(self, tmp_path: Path) -> None:
        from copilot4d_core.data.pcd_writer import write_pcd
        from copilot4d_core.data.sources import open_scans

        points = np.random.default_rng(0).normal(0, 5, (100, 3)).astype(np.float32)
        write_pcd(tmp_path / "cloud.pcd", points)
        assert np.array_equal(open_scans(tmp_path / "cloud.pcd")[0].points_m, points)

    def test_tokens_of_another_model_are_refused_by_name(self, runner: StandInRunner, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "tokens.npz"
        save_tokens(path, np.zeros((16, 16), dtype=np.uint16), "tiny-ffffffffffff", preset("tiny"))
        message = refused(capsys, "decode", path, "--out", tmp_path / "cloud.pcd")
        assert MODEL_ID in message and "tiny-ffffffffffff" in message
        assert not (tmp_path / "cloud.pcd").exists()

    def test_points_outside_the_region_are_refused(self, runner: StandInRunner, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
        far = write_ring(tmp_path / "far.bin", 50.0)
        assert "none of 64" in refused(capsys, "encode", far, "--out", tmp_path / "t.npz")
        assert not (tmp_path / "t.npz").exists()

    @pytest.mark.usefixtures("no_runner")
    def test_folder_and_bag_are_refused_with_advice(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "drive.bag").write_bytes(b"#ROSBAG V2.0\n")
        for path in (tmp_path, tmp_path / "drive.bag"):
            message = refused(capsys, "encode", path, "--out", tmp_path / "t.npz")
            assert f"{path}: expected one scan" in message and "copilot4d evaluate" in message

    @pytest.mark.usefixtures("no_runner")
    @pytest.mark.parametrize(("arguments", "expected"), [
        (["encode", "absent.bin", "--out", "t.npz"], "absent.bin"),
        (["encode", "cut.bin", "--out", "t.npz"], "cut.bin: expected a multiple of 16 bytes"),
        (["encode", "cut.bin", "--out", "t.txt"], "t.txt: expected a name that ends in .npz"),
        (["encode", "cut.bin", "--out", "nowhere/t.npz"], "the folder nowhere does not exist"),
        (["decode", "absent.npz", "--out", "c.pcd"], "absent.npz: expected a token file"),
        (["decode", "absent.npz"], "--out CLOUD, --depth PICTURE"),
        (["decode", "absent.npz", "--depth", "d.png", "--returns"], "--returns is for the point cloud"),
        (["decode", "absent.npz", "--out", "c.ply"], "c.ply: expected a name that ends in .pcd"),
        (["decode", "absent.npz", "--depth", "d.jpg"], "d.jpg: expected a name that ends in .png"),
        (["decode", "absent.npz", "--out", "c.pcd", "--sensor-rows", "0"], "rows"),
        (["evaluate", "--data", "absent", "--json", "r.json"], "absent: expected KITTI"),
        (["evaluate", "--data", "cut.bin", "cut.bin", "--json", "r.json"], "each path once"),
        (["evaluate", "--data", "cut.bin", "--json", "r.json", "--every", "0"], "--every: expected at least 1, got 0"),
        (["evaluate", "--data", "cut.bin", "--json", "nowhere/r.json"], "the folder nowhere does not exist"),
    ])
    def test_wrong_use_is_named(self, arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(tmp_path)
        Path("cut.bin").write_bytes(b"17 bytes are cut.")
        assert expected in refused(capsys, *arguments)


class TestEvaluate:
    def test_json_and_table(self, runner: StandInRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for folder in ("near", "wide"):
            (tmp_path / folder).mkdir()
            for number in range(3):
                write_ring(tmp_path / folder / f"{number}.bin", 3.0 + number)
        out = tmp_path / "result.json"
        paths = [str(tmp_path / "near"), str(tmp_path / "wide")]
        assert main(["evaluate", "--data", *paths, "--json", str(out), "--every", "2"]) == 0
        tree = json.loads(out.read_text())
        assert tree["model_id"] == MODEL_ID and list(tree["data_sets"]) == ["near", "wide"]
        result = tree["data_sets"]["near"]
        assert list(result) == KEYS + [f"{key}_gt_mask" for key in DEPTH_KEYS]
        assert (result["scans"], result["bits_per_scan"]) == (2, 1536)
        assert result["depth_l1_mean_m"] == pytest.approx(0.25, rel=1e-5)
        printed = capsys.readouterr().out
        assert all(key in printed for key in result) and "met nothing" in printed

    def test_value_that_is_not_finite_is_null(self, runner: StandInRunner, scan_file: Path, tmp_path: Path) -> None:
        runner.misses = slice(None)
        out = tmp_path / "result.json"
        assert main(["evaluate", "--data", str(scan_file), "--json", str(out)]) == 0
        tree = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert tree["data_sets"]["ring"]["chamfer_m"] is None
        assert any("infinite" in note for note in tree["notes"]["ring"])

    def test_data_sets_of_one_name_stay_apart(self, runner: StandInRunner, tmp_path: Path) -> None:
        paths = [tmp_path / side / "velodyne" for side in ("a", "b")]
        for path in paths:
            path.mkdir(parents=True)
            write_ring(path / "0.bin", 5.0)
        assert main(["evaluate", "--data", *map(str, paths), "--json", str(tmp_path / "r.json")]) == 0
        assert list(json.loads((tmp_path / "r.json").read_text())["data_sets"]) == [str(path) for path in paths]

    def test_data_set_outside_the_region_is_named(self, runner: StandInRunner, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
        far = write_ring(tmp_path / "far.bin", 50.0)
        assert main(["evaluate", "--data", str(far), "--json", str(tmp_path / "r.json")]) == 2
        assert "copilot4d: far: evaluate: expected at least one scan" in capsys.readouterr().err


class TestFitPrior:
    def test_file_and_table(self, runner: StandInRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("fitted", "judged"):
            (tmp_path / name).mkdir()
            for number in range(2):
                write_ring(tmp_path / name / f"{number}.bin", 3.0 + number)
        out = tmp_path / "tiny.prior.safetensors"
        assert main(["fit-prior", "--data", str(tmp_path / "fitted"), "--judge", str(tmp_path / "judged"), "--copies", "3", "--simulate", "1",
                     "--steps", "20", "--out", str(out)]) == 0
        file = read_prior(out)
        assert file.model_id == MODEL_ID and len(file.arrays.code_order) == 64
        assert file.provenance == {"grids": {"fitted": 8, "simulator": 1}, "copies": 3, "simulate": 1, "steps": 20, "seed": 0}
        printed = capsys.readouterr().out
        row = next(line for line in printed.splitlines() if "judged" in line)
        _, scans, packed, mean, largest, _ = (part.strip() for part in row.split("│")[1:])
        assert (scans, packed) == ("2", "236")  # 44 bytes of header and 256 times 6 bits
        assert "fitted" not in printed
        assert 44 + 5 < float(mean) <= int(largest) < 236

    @pytest.mark.usefixtures("no_runner")
    @pytest.mark.parametrize(("arguments", "expected"), [
        (["--data", "absent", "--out", "a.prior.safetensors"], "absent: expected KITTI"),
        (["--data", "ring.bin", "--out", "a.safetensors"], "a.safetensors: expected a name that ends in prior.safetensors"),
        (["--data", "ring.bin", "--out", "nowhere/prior.safetensors"], "the folder nowhere does not exist"),
        (["--data", "ring.bin", "--out", "prior.safetensors", "--steps", "0"], "--steps: expected at least 1, got 0"),
        (["--data", "ring.bin", "--out", "prior.safetensors", "--copies", "-1"], "--copies: expected at least 0, got -1"),
        (["--data", "ring.bin", "--out", "prior.safetensors", "--simulate", "-2"], "--simulate: expected at least 0, got -2"),
        (["--data", "ring.bin", "--judge", "ring.bin", "--out", "prior.safetensors"], "each path once"),
    ])
    def test_wrong_use_is_named_before_work(self, arguments: list[str], expected: str, scan_file: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(scan_file.parent)
        assert expected in refused(capsys, "fit-prior", *arguments)

    def test_points_outside_the_region_are_refused(self, runner: StandInRunner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        far = write_ring(tmp_path / "far.bin", 50.0)
        assert main(["fit-prior", "--data", str(far), "--out", str(tmp_path / "prior.safetensors")]) == 2
        assert "copilot4d: far: expected a scan with points inside" in capsys.readouterr().err
        assert not (tmp_path / "prior.safetensors").exists()


class TestTrain:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
        seen: Calls = []

        def train(config: Config, data: list[Path], out: Path, **options: object) -> None:
            seen.append((config, options | {"data": data, "out": out}))

        module = types.ModuleType("train")
        module.train = train  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "copilot4d_core.training.train", module)
        monkeypatch.chdir(tmp_path)
        Path("scans").mkdir()
        return seen

    def test_arguments_arrive(self, calls: Calls) -> None:
        assert main(["train", "--preset", "tiny", "--data", "scans", "--out", "runs/a", "--resume", "--topic", "/x",
                     "--steps", "7", "--simulate", "20", "--simulate-sensors", "vlp16", "hdl64", "--workers", "3", "--precision", "bf16"]) == 0
        (config, options), = calls
        assert (config.name, config.training.steps) == ("tiny", 7)
        assert options == {"data": [Path("scans")], "out": Path("runs/a"), "resume": True, "topic": "/x", "simulate": 20,
                           "simulate_sensors": ["vlp16", "hdl64"], "start": None, "sensor": None, "workers": 3, "bf16": True}

    def test_run_is_named_after_the_data(self, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
        Path("my.mcap").touch()
        assert main(["train", "--data", "my.mcap", "scans", "--topic", "/points", "--steps", "9"]) == 0
        assert (calls[0][1]["out"], calls[0][1]["topic"], calls[0][1]["workers"]) == (Path("runs/my"), "/points", 1)
        assert capsys.readouterr().out == "runs/my/weights.safetensors: 9 steps\n"

    def test_default_is_mini(self, calls: Calls) -> None:
        assert main(["train", "--data", "scans", "--out", "a"]) == 0
        assert calls[0][0] == preset("mini") and calls[0][1]["bf16"] is False

    @pytest.mark.parametrize(("text", "arguments", "name"), [
        ("training: {seed: 5}", ["--preset", "tiny"], "tiny"),
        ("preset: tiny\ntraining: {seed: 5}", [], "tiny"),
        ("{preset: tiny, training: {seed: 5}}", ["--preset", "tiny"], "tiny"),
        ("---\ntraining:\n  seed: 5\n", ["--preset", "mini"], "mini"),
    ])
    def test_file_overrides_the_preset(self, calls: Calls, text: str, arguments: list[str], name: str) -> None:
        Path("c.yaml").write_text(text)
        assert main(["train", "--data", "scans", "--out", "a", "--config", "c.yaml", *arguments]) == 0
        assert (calls[0][0].name, calls[0][0].training.seed) == (name, 5)

    def test_empty_file_keeps_the_preset(self, calls: Calls) -> None:
        Path("c.yaml").write_text("# nothing yet\n")
        assert main(["train", "--data", "scans", "--out", "a", "--config", "c.yaml", "--preset", "tiny"]) == 0
        assert calls[0][0] == preset("tiny")

    @pytest.mark.parametrize(("text", "arguments", "expected"), [
        ("preset: tiny", ["--preset", "mini"], "--preset says mini, the file says preset tiny"),
        ("trainin: {}", [], "c.yaml: config: unknown key 'trainin'"),
        ("a: [", ["--preset", "mini"], "c.yaml: expected YAML"),
        ("- 1", ["--preset", "mini"], "c.yaml: config: expected a mapping"),
        ("", ["--preset", "huge"], "expected one of mini, paper, tiny, got 'huge'"),
        ("", ["--steps", "0"], "--steps: expected at least 1, got 0"),
        ("", ["--simulate", "101"], "--simulate: expected a share of 0 to 100 percent, got 101"),
        ("", ["--precision", "fp16"], "--precision: expected fp32 or bf16, got 'fp16'"),
        ("", ["--data", "absent"], "absent: expected scans to train on"),
        ("", ["--config", "absent.yaml"], "absent.yaml: expected a YAML file"),
    ])
    def test_wrong_settings_are_named(self, calls: Calls, text: str, arguments: list[str], expected: str,
                                      capsys: pytest.CaptureFixture[str]) -> None:
        Path("c.yaml").write_text(text)
        message = refused(capsys, "train", "--data", "scans", "--out", "a", "--config", "c.yaml", *arguments)
        assert expected in message
        assert calls == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without training, whose skip mask is open everywhere, so that rays meet something."""
    import torch

    from copilot4d_core.tokenizer.tokenizer import Tokenizer
    from copilot4d_core.tokenizer.weights_file import save_weights

    torch.manual_seed(0)
    tokenizer = Tokenizer(preset("tiny"))
    torch.nn.init.constant_(tokenizer.spatial_skip.linear.bias, 5.0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, tokenizer)
    return path


class TestRealModel:
    def test_decode_from_disk_is_what_the_process_has(self, weights: Path, scan_file: Path, tmp_path: Path) -> None:
        from copilot4d_core.data.sources import open_scans
        from copilot4d_core.deploy.open_runner import open_runner
        from copilot4d_core.evaluation.evaluate import points_on_rays

        done = run("encode", scan_file, "--out", tmp_path / "t.npz", "--weights", weights)
        assert done.returncode == 0, done.stderr
        done = run("decode", tmp_path / "t.npz", "--out", tmp_path / "c.pcd", "--weights", weights, *SENSOR)
        assert done.returncode == 0, done.stderr
        rays = PATTERN.rays(np.zeros(3, dtype=np.float32))
        with open_runner(weights) as runner:
            tokens = runner.encode(open_scans(scan_file)[0].points_m)
            depth_m = runner.decode(tokens, rays).depth_m
        with np.load(tmp_path / "t.npz", allow_pickle=False) as arrays:
            assert np.array_equal(arrays["tokens"], tokens)
        assert np.isfinite(depth_m).any()
        assert (tmp_path / "c.pcd").read_bytes().split(b"DATA binary\n", 1)[1] == points_on_rays(rays, depth_m).tobytes()

    def test_returns_are_in_the_cloud_with_their_weights(self, weights: Path, scan_file: Path, tmp_path: Path) -> None:
        from copilot4d_core.data.sources import open_scans
        from copilot4d_core.deploy.open_runner import open_runner

        for arguments in (["encode", scan_file, "--out", tmp_path / "t.npz"],
                          ["decode", tmp_path / "t.npz", "--out", tmp_path / "c.pcd", "--returns", *SENSOR]):
            done = run(*arguments, "--weights", weights)
            assert done.returncode == 0, done.stderr
        rays = PATTERN.rays(np.zeros(3, dtype=np.float32))
        with open_runner(weights) as runner:
            returns = runner.decode(runner.encode(open_scans(scan_file)[0].points_m), rays, with_returns=True).returns
        assert returns is not None
        head, body = (tmp_path / "c.pcd").read_bytes().split(b"DATA binary\n", 1)
        assert b"FIELDS x y z weight return\nSIZE 4 4 4 4 1\nTYPE F F F F U\nCOUNT 1 1 1 1 1\n" in head
        points = np.frombuffer(body, dtype=[("xyz", "<f4", 3), ("weight", "<f4"), ("return", "u1")])
        first, second = (points[points["return"] == number] for number in (1, 2))
        assert len(first) + len(second) == len(points) > 0
        for place, part in ((0, first), (1, second)):
            there = returns.weight[place] > 0
            np.testing.assert_array_equal(part["weight"], returns.weight[place][there])
            np.testing.assert_allclose(np.linalg.norm(part["xyz"], axis=1), returns.distance_m[place][there], rtol=1e-5)
        assert f"{len(second)} have a second return" in done.stdout
        assert len(open_scans(tmp_path / "c.pcd")[0].points_m) == len(points)

    def test_evaluate_has_every_key(self, weights: Path, scan_file: Path, tmp_path: Path) -> None:
        out = tmp_path / "result.json"
        assert main(["evaluate", "--weights", str(weights), "--data", str(scan_file), "--json", str(out)]) == 0
        assert list(json.loads(out.read_text())["data_sets"]["ring"]) == KEYS + [f"{key}_gt_mask" for key in DEPTH_KEYS]

    def test_file_that_is_no_weights_is_named(self, scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refused(capsys, "encode", scan_file, "--out", tmp_path / "t.npz", "--weights", scan_file)
        assert f"{scan_file}: expected a safetensors weights file" in message
