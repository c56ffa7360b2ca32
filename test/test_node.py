# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The real node in its own process on a real ROS graph, with a stand-in for the model (see fake_runner.py)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from fake_runner import MODEL_ID, RENDER_MS_VARIABLE, SLOW_MS_VARIABLE  # noqa: E402
from node_client import DEADLINE_S, NodeClient  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402

from copilot4d_core.config import preset  # noqa: E402
from copilot4d_core.deploy.token_stream import tokens_from_bytes  # noqa: E402
from copilot4d_ros.messages import array_from_image, stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402
from copilot4d_ros.parameter_table import specs  # noqa: E402
from copilot4d_ros.parameters import CameraParameters, TokenizerParameters  # noqa: E402

HERE = Path(__file__).parent
FAST_DIAGNOSTICS = ("-p", "diagnostics.period_s:=0.1")


@contextmanager
def node_process(namespace: str, log: Path, *parameters: str, encode_ms: float = 0.0, render_ms: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """The node with the fake model; killed at the end if it still runs."""
    # The fake runner lies here, so the child would not find a checkout that is not installed.
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {SLOW_MS_VARIABLE: str(encode_ms), RENDER_MS_VARIABLE: str(render_ms), "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, str(HERE / "fake_runner.py"), "--ros-args", "-r", f"__ns:=/{namespace}", *parameters]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process
        finally:
            stop(process)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shared node prints."""
    return tmp_path_factory.mktemp("node") / "log.txt"


@pytest.fixture(scope="module")
def client(graph: None, log: Path) -> Iterator[NodeClient]:
    """A client connected to one node for all tests that leave it as it was."""
    with node_process("shared", log, "-p", "depth.rows:=8", "-p", "depth.columns:=16", *FAST_DIAGNOSTICS):
        client = NodeClient("shared")
        client.connect()
        yield client
        client.destroy_node()


def test_tokens_carry_the_header_and_lie_in_the_right_cells(client: NodeClient) -> None:
    # tiny: +-10 m, 16 x 16 tokens of 1.25 m; row = y, column = x. One point low right, three at the top, left of the middle.
    stamp = client.send([[9.9, -9.9, 0.0], *[[-0.1, 9.9, 0.5]] * 3], frame="roof/lidar")
    client.wait(lambda: stamp in client.tokens, "tokens")
    message = client.tokens[stamp]
    expected = np.zeros((16, 16), dtype=np.uint16)
    expected[0, 15], expected[15, 7] = 1, 3
    assert message.header.frame_id == "roof/lidar"
    assert (message.encoding, message.step, message.is_bigendian) == ("16UC1", 32, 0)
    np.testing.assert_array_equal(array_from_image(message), expected)


def test_compressed_tokens_are_the_tokens_in_fewer_bytes_while_somebody_subscribes(client: NodeClient) -> None:
    heard: dict[int, Any] = {}
    topic = f"{client.target}/tokens/compressed"
    subscription = client.create_subscription(CompressedImage, topic, lambda m: heard.setdefault(stamp_ns(m.header), m), 10)
    client.send_until(lambda: heard, "compressed tokens")
    stamp = client.send([[9.9, -9.9, 0.0], *[[-0.1, 9.9, 0.5]] * 3], frame="roof/lidar")
    client.wait(lambda: stamp in heard and stamp in client.tokens, "both")
    client.destroy_subscription(subscription)
    message = heard[stamp]
    assert message.header == client.tokens[stamp].header
    assert message.format == "copilot4d; v1; tiny-fake"
    # A header of 23 bytes and the name, a CRC of 4; then 16 x 16 tokens of 6 bits (64 codes): row 0 ends with 1, in the last bit of 12 bytes.
    assert len(message.data) == 23 + 9 + 4 + 16 * 16 * 6 // 8
    assert bytes(message.data)[-192:][11] == 1 and bytes(message.data)[:4] == b"C4DT"
    np.testing.assert_array_equal(tokens_from_bytes(bytes(message.data), MODEL_ID, preset("tiny")), array_from_image(client.tokens[stamp]))


def test_info_reaches_whoever_comes_late(client: NodeClient) -> None:
    late = NodeClient("shared", "late")
    late.wait(lambda: late.info, "latched info")
    late.destroy_node()
    assert late.info is not None
    assert late.info["model_id"] == MODEL_ID
    assert (late.info["codebook_size"], late.info["token_dtype"], late.info["invalid_token"]) == (64, "uint16", 65535)
    assert (late.info["grid"], late.info["row_axis"], late.info["column_axis"]) == ([16, 16], "y", "x")
    assert (late.info["region_min_m"], late.info["region_max_m"]) == ([-10.0, -10.0, -2.25], [10.0, 10.0, 2.25])
    assert late.info["cell_size_m"] == [1.25, 1.25]
    assert (late.info["depth_image"]["rows"], late.info["depth_image"]["columns"]) == (8, 16)


def test_depth_is_rendered_only_while_somebody_looks(client: NodeClient) -> None:
    stamp = client.send([[1.0, 1.0, 0.0]])
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics of the scan")
    assert "encode_ms" in client.diagnostics and "render_ms" not in client.diagnostics

    subscriptions = client.watch_renderings()
    client.send_until(lambda: set(client.depth) & set(client.reconstruction), "renderings")
    stamp = max(set(client.depth) & set(client.reconstruction))
    depth_m = array_from_image(client.depth[stamp])
    # The fake model meets something at 6 m below the horizon, which is where rows 1 to 7 of -24.8 to 2 degrees look.
    assert client.depth[stamp].encoding == "32FC1" and depth_m.shape == (8, 16)
    assert np.isnan(depth_m[0]).all() and (depth_m[1:] == 6.0).all()
    cloud = client.reconstruction[stamp]
    assert (cloud.height, cloud.width, cloud.is_dense, cloud.header.frame_id) == (8, 16, False, "lidar_top")
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "error_m"]
    points_m, error_m = np.split(np.frombuffer(cloud.data, dtype="<f4").reshape(8, 16, 4), [3], axis=2)
    # The one return is at (1, 1, 0): elevation 0 is nearest to row 1 (-1.8 degrees), azimuth 45 degrees is column 6 of 16.
    assert np.argwhere(np.isfinite(error_m[..., 0])).tolist() == [[1, 6]]
    assert error_m[1, 6, 0] == pytest.approx(6 - np.sqrt(2), abs=1e-5)
    assert np.isnan(points_m[0]).all()
    np.testing.assert_allclose(np.linalg.norm(points_m[1:], axis=2), 6.0, rtol=1e-6)
    for subscription in subscriptions:
        client.destroy_subscription(subscription)


def test_depth_mode_changes_while_running_and_nothing_else(client: NodeClient) -> None:
    assert client.set_parameter("depth.mode", "expected").successful
    subscriptions = client.watch_renderings()
    client.depth.clear()
    client.send_until(lambda: client.depth, "depth")
    assert np.nanmax(array_from_image(client.depth[max(client.depth)])) == 5.0
    refused = client.set_parameter("depth.mode", "mean")
    assert not refused.successful and "expected, median, strongest" in refused.reason
    assert not client.set_parameter("depth.rows", 16).successful
    assert client.set_parameter("depth.mode", "median").successful
    for subscription in subscriptions:
        client.destroy_subscription(subscription)


@pytest.mark.parametrize(("points", "names", "reason", "warning"), [
    ([[1.0, 2.0]], "xy", "invalid", r"missing z"),
    ([], "xyz", "empty", r"got width 0"),
    ([[np.nan] * 3, [np.inf] * 3, [0.0] * 3], "xyz", "empty", r"got 3 points that are all NaN"),
    ([[500.0, 0.0, 0.0]], "xyz", "outside", r"between \[-10.0, -10.0, -2.25\]"),
    ([[1.0, 1.0, 1.0]] * 13, "xyz", "failed", r"fake model: 13 points"),
])
def test_a_bad_cloud_is_named_and_counted_and_the_next_good_one_works(
        client: NodeClient, log: Path, points: list[list[float]], names: str, reason: str, warning: str) -> None:
    key = f"dropped_{reason}"
    before = client.count(key)
    bad = client.send(points, names=names)
    client.wait(lambda: client.count(key) == before + 1, key)
    useless = reason in ("invalid", "failed")
    assert (client.level, client.text.startswith("the last of the scans was dropped")) == (b"\x02" if useless else b"\x01", useless), client.text
    assert f"scans dropped: 1 {reason}" in client.text
    good = client.send([[1.0, 1.0, 0.0]])
    client.wait(lambda: good in client.tokens, "tokens after a bad cloud")
    assert bad not in client.tokens
    # Warnings are rate-limited, so the second empty one may be silent.
    client.wait(lambda: re.search(warning, log.read_text()) or reason != "invalid", "warning")


def test_one_warning_for_a_stream_of_bad_clouds(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with node_process("stream", log, *FAST_DIAGNOSTICS):
        client = NodeClient("stream")
        client.connect()
        for _ in range(5):
            before = client.count("dropped_invalid")
            client.send([[1.0, 2.0]], names="xy")
            client.wait(lambda before=before: client.count("dropped_invalid") > before, "bad cloud counted")
        client.destroy_node()
    assert log.read_text().count("missing z") == 1


def test_a_fault_of_the_gpu_costs_one_scan_and_the_model_is_opened_again(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with node_process("gpu_fault", log, *FAST_DIAGNOSTICS):
        client = NodeClient("gpu_fault")
        client.connect()
        client.send([[1.0, 1.0, 0.0]] * 14)
        client.wait(lambda: client.count("dropped_failed") == 1, "the scan that failed")
        stamp = client.send([[1.0, 1.0, 0.0]])
        client.wait(lambda: stamp in client.tokens, "tokens after the fault")
        assert client.count("dropped_failed") == 1
        client.destroy_node()
    assert "fake fault" in log.read_text() and "opening the model again" in log.read_text()


def test_tokens_do_not_wait_for_what_is_rendered_of_them(graph: None, tmp_path: Path) -> None:
    with node_process("early", tmp_path / "log.txt", *FAST_DIAGNOSTICS, render_ms=1_000.0):
        client = NodeClient("early")
        client.connect()
        client.watch_renderings()
        client.send_until(lambda: client.depth, "depth images")
        stamp = client.send([[1.0, 1.0, 0.0]])
        client.wait(lambda: stamp in client.tokens, "tokens")
        tokens_s = time.monotonic()
        client.wait(lambda: stamp in client.depth, "depth")
        # Together they would come within milliseconds of each other; the rendering takes a second.
        assert time.monotonic() - tokens_s > 0.5
        client.destroy_node()


@pytest.mark.parametrize(("points", "reason", "opened"), [(15, "a cell of 15 points", 1), (16, "fake fault of the rendering", 2)])
def test_a_rendering_that_fails_costs_the_views_and_not_the_tokens(graph: None, tmp_path: Path, points: int, reason: str, opened: int) -> None:
    log = tmp_path / "log.txt"
    with node_process("blind", log, *FAST_DIAGNOSTICS):
        client = NodeClient("blind")
        client.connect()
        client.watch_renderings()
        client.send_until(lambda: client.depth, "depth images")
        stamp = client.send([[1.0, 1.0, 0.0]] * points)
        client.wait(lambda: stamp in client.tokens, "tokens of the scan whose views fail")
        client.wait(lambda: client.count("views_failed") == 1, "the failure in the diagnostics")
        assert client.level == b"\x02" and "tokens were published, but what is seen of them could not be rendered" in client.text
        assert client.count("dropped_failed") == 0
        client.send_until(lambda: max(client.depth) > stamp, "depth images after it")
        assert stamp not in client.depth
        client.destroy_node()
    assert reason in log.read_text() and log.read_text().count("model tiny-fake:") == opened


def test_a_gpu_that_fails_at_once_ends_the_node_instead_of_a_loop(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with node_process("gpu_dead", log, *FAST_DIAGNOSTICS) as process:
        client = NodeClient("gpu_dead")
        client.wait(lambda: client.info and client.clouds.get_subscription_count(), "the node")
        end = time.monotonic() + DEADLINE_S
        while process.poll() is None and time.monotonic() < end:
            client.send([[1.0, 1.0, 0.0]] * 14)
            time.sleep(0.2)
        client.destroy_node()
        assert process.poll() == 1
    assert "fake fault" in log.read_text()


def test_every_scan_of_a_burst_is_accounted_for(graph: None, tmp_path: Path) -> None:
    # The middleware keeps one by default: what came faster than the node's thread takes it would never reach the node.
    deep = ("-p", "qos_overrides./burst/tokenizer/input/points.subscription.depth:=20")
    with node_process("burst", tmp_path / "log.txt", "-p", "input_qos:=reliable", *deep, *FAST_DIAGNOSTICS, encode_ms=200):
        client = NodeClient("burst")
        client.connect()
        received, processed, replaced = (client.count(k) for k in ("received", "processed", "dropped_replaced"))
        for _ in range(12):
            newest = client.send([[1.0, 1.0, 0.0]])
            time.sleep(0.05)
        client.wait(lambda: newest in client.tokens, "the newest scan")
        client.wait(lambda: client.count("processed") + client.count("dropped_replaced") == client.count("received"), "quiet")
        client.destroy_node()
        assert client.count("received") == received + 12
        assert client.count("processed") < processed + 6, "a queue was worked off"
        assert client.count("dropped_replaced") == replaced + 12 - (client.count("processed") - processed)


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("encode_ms", [0.0, 1000.0], ids=["idle", "busy"])
def test_a_signal_ends_the_node_cleanly(graph: None, tmp_path: Path, with_signal: signal.Signals, encode_ms: float) -> None:
    log, namespace = tmp_path / "log.txt", f"{with_signal.name}_{encode_ms:.0f}"
    with node_process(namespace, log, *FAST_DIAGNOSTICS, encode_ms=encode_ms) as process:
        client = NodeClient(namespace)
        client.wait(lambda: client.info, "model info")
        client.wait(lambda: client.clouds.get_subscription_count(), "subscription")
        client.send_until(lambda: client.count("received") > 0, "a scan arrived")
        code = stop(process, with_signal)
        client.destroy_node()
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(("setting", "expected"), [
    ("depth.rows:=100000", "depth.rows out of range"),
    ("diagnostics.period_s:=0.0", "diagnostics.period_s out of range"),
    ("input_qos:=fast", "input_qos: expected one of auto, best_effort, reliable, got 'fast'"),
    ("depth.elevation_min_deg:=5.0", "elevation_min_deg < elevation_max_deg"),
    ("weights:=/nowhere/w.safetensors", "/nowhere/w.safetensors"),
    ("runner:=cuda", "runner: expected one of auto, torch, onnx, kernels, tensorrt, got 'cuda'"),
    ("cameras:=[front, depth]", "got 'depth'"),
    ("cameras:=[front, front]", "each once"),
    ("camera.pose_from:=odometry", "camera.pose_from: expected one of parameters, tf, got 'odometry'"),
    ("camera.fx:=0.0", "camera.fx out of range"),
    ("depth.sensor:=hdl999", "hdl999"),
])
def test_a_wrong_parameter_is_refused(graph: None, tmp_path: Path, setting: str, expected: str) -> None:
    log = tmp_path / "log.txt"
    with node_process("wrong", log, "-p", setting) as process:
        assert process.wait(DEADLINE_S) == 1
    assert expected in log.read_text()
    assert "Traceback" not in log.read_text()


def test_the_settings_file_names_every_parameter_with_its_default() -> None:
    text = (HERE.parent / "config" / "tokenizer.yaml").read_text()
    table = [*specs(TokenizerParameters), *specs(CameraParameters, "camera.")]
    flat: dict[str, object] = {}
    for key, value in yaml.safe_load(text)["/**"]["ros__parameters"].items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    assert flat == {spec.name: list(spec.default) if isinstance(spec.default, tuple) else spec.default for spec in table}
    assert all(type(flat[spec.name]) in (type(spec.default), list) for spec in table), "a whole number for a float is refused by ROS"
    assert all(spec.description for spec in table)
    unbounded = {spec.name for spec in table if not spec.choices and spec.high is None and not isinstance(spec.default, bool)}
    assert unbounded == {"weights", "engines", "input_topic", "cameras", "depth.sensor", "camera.frame_id"}, "a parameter without bounds"


def test_the_node_declares_every_parameter_with_its_description_and_range(client: NodeClient) -> None:
    names = [spec.name for spec in (*specs(TokenizerParameters), *specs(CameraParameters, "camera."))]
    own = {"use_sim_time", "start_type_description_service"}
    assert {name for name in client.parameter_names() if not name.startswith("qos_overrides.")} - own == set(names)
    for spec, told in zip((*specs(TokenizerParameters), *specs(CameraParameters, "camera.")), client.describe(names), strict=True):
        assert (told.name, told.description, told.read_only) == (spec.name, spec.description, spec.read_only)
        ranges = [*told.integer_range, *told.floating_point_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([(spec.low, spec.high)] if spec.low is not None else [])
