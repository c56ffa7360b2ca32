# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The real node `detokenizer` in its own process on a real ROS graph, with a stand-in for the model."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from detokenizer_client import BEST_EFFORT, VOLATILE, DetokenizerClient, detokenizer_process, info_text, token_image  # noqa: E402
from fake_runner import MODEL_ID, FakeRunner  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from copilot4d_core.config import preset  # noqa: E402
from copilot4d_core.deploy.token_stream import tokens_to_bytes  # noqa: E402
from copilot4d_ros import qos  # noqa: E402
from copilot4d_ros.messages import compressed_tokens, stamp_ns  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402
from copilot4d_ros.token_messages import RefusedTokensError, check_origin, origin_from_json, tokens_from_image  # noqa: E402

DEADLINE_S = 60.0
FIRST_SCAN_S = 90.0
"""The first start on a machine compiles the kernels."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shared node prints."""
    return tmp_path_factory.mktemp("node") / "log.txt"


@pytest.fixture(scope="module")
def client(graph: None, log: Path) -> Iterator[DetokenizerClient]:
    """A client connected to one node, which has the record of its own model, for all tests that leave it so."""
    with detokenizer_process("shared", log, "-p", "depth.rows:=8", "-p", "depth.columns:=16"):
        client = DetokenizerClient("shared")
        client.tell_info(info_text())
        client.connect()
        yield client
        client.destroy_node()


def test_the_header_comes_back_whole_with_the_depth_of_these_tokens(client: DetokenizerClient) -> None:
    stamp = client.send(code=41)
    assert client.depth_of(stamp) == 42.0
    depth = client.depth[stamp]
    assert (depth.header.frame_id, depth.encoding, depth.height, depth.width, depth.step) == ("roof/lidar", "32FC1", 8, 16, 64)
    client.wait(lambda: stamp in client.reconstruction, "reconstruction")
    cloud = client.reconstruction[stamp]
    assert (cloud.header.frame_id, cloud.height, cloud.width, cloud.is_dense) == ("roof/lidar", 8, 16, False)
    points_m = np.frombuffer(cloud.data, dtype="<f4").reshape(8, 16, 3)
    np.testing.assert_allclose(np.linalg.norm(points_m, axis=2), 42.0, rtol=1e-6)
    # Row 0 is the highest beam (2 degrees) and column 8 of 16 looks along +x.
    np.testing.assert_allclose(points_m[0, 8], [42 * np.cos(np.deg2rad(2)), 0, 42 * np.sin(np.deg2rad(2))], atol=1e-4)


def test_the_virtual_camera_is_rendered_here_too(client: DetokenizerClient) -> None:
    images: dict[int, Any] = {}
    subscription = client.create_subscription(Image, f"{client.target}/camera/depth", lambda m: images.setdefault(stamp_ns(m.header), m), 10)
    deadline = time.monotonic() + DEADLINE_S
    while not images and time.monotonic() < deadline:  # the node may see the subscription later than this process
        stamp = client.send(code=41)
        client.wait(lambda stamp=stamp: stamp in client.depth, "the frame")
        rclpy.spin_once(client, timeout_sec=0.2)
    client.destroy_subscription(subscription)
    image = next(iter(images.values()))
    depth_m = np.frombuffer(image.data, dtype="<f4").reshape(image.height, image.width)
    assert (image.header.frame_id, depth_m.shape) == ("detokenizer_camera_optical", (240, 320))
    # The fake model meets something at 42 m on every ray; the image holds the part of it along the axis.
    x, y = (0 - 159.5) / 160, (0 - 119.5) / 160
    assert depth_m[0, 0] == pytest.approx(42 / np.sqrt(1 + x * x + y * y), abs=1e-4)
    assert depth_m[119, 159] == pytest.approx(42, abs=1e-3)


@pytest.mark.parametrize("changes", [
    {"is_bigendian": 1},
    {"step": 40},
], ids=["big-endian", "padded rows"])
def test_every_layout_that_can_be_read_is_read(client: DetokenizerClient, changes: dict[str, int]) -> None:
    tokens = np.zeros((16, 16), dtype=np.uint16)
    tokens[0, 1], tokens[1, 0] = 20, 13
    wide = np.full((16, 20 if "step" in changes else 16), 65535, dtype=np.uint16)
    wide[:, :16] = tokens.byteswap() if "is_bigendian" in changes else tokens
    assert client.depth_of(client.send_grid(wide, width=16, **changes)) == 21.0


@pytest.mark.parametrize("changes", [
    {"encoding": "mono16"},
    {"encoding": "32FC1"},
    {"width": 15},
    {"height": 8},
    {"height": 2**31, "width": 2**31},
    {"step": 30},
    {"step": 64},
    {"data": b"\0" * 511},
], ids=lambda changes: " ".join(f"{k} {v if k != 'data' else 'short'}" for k, v in changes.items()))
def test_a_layout_that_cannot_be_read_is_counted_and_the_next_grid_works(client: DetokenizerClient, changes: dict[str, Any]) -> None:
    client.refused("invalid", lambda: client.send(code=3, **changes))
    assert client.depth_of(client.send(code=4)) == 5.0


def test_a_token_beyond_the_codebook_is_refused(client: DetokenizerClient) -> None:
    # 64 codes: 63 is the last. Byte-swapped tokens that do not say so are mostly such tokens: 1 becomes 256.
    assert client.depth_of(client.send(code=63)) == 64.0
    client.refused("invalid", lambda: client.send(code=64))
    client.refused("invalid", lambda: client.send(code=1, is_bigendian=1))


def compressed(client: DetokenizerClient, code: int, model_id: str = MODEL_ID, **changes: Any) -> Any:
    """Compressed tokens with a code in row 0, column 1, and a new stamp."""
    tokens = np.zeros((16, 16), dtype=np.uint16)
    tokens[0, 1] = code
    message = compressed_tokens(tokens_to_bytes(tokens, model_id, preset("tiny")), model_id, token_image(tokens, client.new_stamp()).header)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_compressed_tokens_name_their_model_themselves(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("compressed", log) as process:
        client = DetokenizerClient("compressed")
        publisher = client.create_publisher(CompressedImage, f"{client.target}/input/tokens/compressed", BEST_EFFORT)

        def send(message: Any) -> int:
            publisher.publish(message)
            return stamp_ns(message.header)

        def sent() -> bool:
            send(compressed(client, 1))
            rclpy.spin_once(client, timeout_sec=0.2)
            return bool(client.depth and client.reconstruction)

        client.wait(sent, "first renderings, without any model_info")
        client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(client.last_stamp), "quiet")
        assert client.depth_of(send(compressed(client, 41))) == 42.0
        client.refused_of(publisher, "other_model", lambda: send(compressed(client, 1, "tiny-other")))
        client.wait(lambda: "weights of tiny-other" in client.diagnostics["last_refusal"], "the model's name")
        cut, altered = compressed(client, 1), compressed(client, 1)
        cut.data = cut.data[:-1]
        altered.data[-3] ^= 1
        for broken in (cut, altered, compressed(client, 1, data=b""), compressed(client, 1, format="jpeg")):
            client.refused_of(publisher, "invalid", lambda broken=broken: send(broken))
        assert client.depth_of(send(compressed(client, 7))) == 8.0
        client.destroy_node()
        assert stop(process) == 0
    assert "Traceback" not in log.read_text()


def test_a_grid_with_cells_that_are_not_valid_is_refused_whole(client: DetokenizerClient) -> None:
    tokens = np.ones((16, 16), dtype=np.uint16)
    tokens[2, 5] = tokens[9, 9] = 65535
    texts: list[str] = []
    client.refused("invalid_cells", lambda: client.send_grid(tokens))
    texts.append(client.text)
    assert client.depth_of(client.send(code=1)) == 2.0
    assert "2 of 256 are 65535 (not valid), the first in row 2, column 5" in texts[0]


def test_nothing_is_rendered_while_nobody_looks_but_tokens_are_judged(graph: None, tmp_path: Path) -> None:
    with detokenizer_process("unseen", tmp_path / "log.txt"):
        client = DetokenizerClient("unseen", watch=False)
        client.tell_info(info_text())
        client.wait(lambda: client.tokens.get_subscription_count(), "the node")
        client.send()
        client.wait(lambda: client.count("not_watched") == 1, "tokens that nobody looks at")
        client.refused("invalid", lambda: client.send(code=64))
        assert client.count("processed") == 0 and "decode_ms" not in client.diagnostics
        client.watch()
        client.connect()
        assert (client.diagnostics["decode_ms"], client.diagnostics["render_ms"]) == ("4.000", "5.000")
        client.destroy_node()


def test_tokens_of_another_model_are_refused_by_name_until_their_own_come(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("other", log):
        client = DetokenizerClient("other")
        client.tell_info(info_text("mini-0123456789ab"))
        client.refused("other_model", client.send)
        for text in (client.text, log.read_text()):
            assert "model mini-0123456789ab made the tokens, the weights of tiny-fake are loaded" in text
            assert "parameter weights set to those of mini-0123456789ab" in text
        assert (client.level, client.diagnostics["tokens_model_id"]) == (b"\x01", "mini-0123456789ab")
        # The publisher starts again with the model that is loaded here, and then with the other one.
        own = client.tell_info(info_text())
        client.connect()
        own.publish(String(data=info_text("mini-0123456789ab")))
        client.wait(lambda: client.diagnostics["tokens_model_id"] == "mini-0123456789ab", "the new record")
        client.refused("other_model", client.send)
        client.destroy_node()


def test_one_warning_for_a_stream_of_foreign_tokens(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("stream", log):
        client = DetokenizerClient("stream")
        client.tell_info(info_text("mini-0123456789ab"))
        for _ in range(5):
            client.refused("other_model", client.send)
        client.destroy_node()
    assert log.read_text().count("tokens refused") == 1


@pytest.mark.parametrize("latched", [True, False])
def test_tokens_wait_for_a_record_that_comes_late(graph: None, tmp_path: Path, latched: bool) -> None:
    log, namespace = tmp_path / "log.txt", f"late_{'latched' if latched else 'volatile'}"
    with detokenizer_process(namespace, log):
        client = DetokenizerClient(namespace)
        client.refused("no_model_info", client.send)
        assert "no model_info has arrived" in client.text and "tiny-fake are loaded" in client.text
        publisher = client.tell_info(info_text(), latched)
        client.connect()
        # The same record again, as a bag in a loop brings it, changes nothing.
        publisher.publish(String(data=info_text()))
        assert client.depth_of(client.send(code=7)) == 8.0
        client.destroy_node()
    assert log.read_text().count("the tokens are those of model tiny-fake") == 1
    assert "incompatible QoS" not in log.read_text(), "a false alarm"


def test_a_latched_record_reaches_a_node_that_starts_after_it(graph: None, tmp_path: Path) -> None:
    client = DetokenizerClient("after")
    record = client.create_publisher(String, f"{client.target}/input/model_info", qos.LATCHED)
    record.publish(String(data=info_text()))
    with detokenizer_process("after", tmp_path / "log.txt"):
        client.connect()
    client.destroy_node()


def test_a_volatile_record_is_heard_while_the_model_loads(graph: None, tmp_path: Path) -> None:
    with detokenizer_process("loading", tmp_path / "log.txt", open_ms=3000.0):
        client = DetokenizerClient("loading")
        client.tell_info(info_text(), latched=False, until_heard=False)
        assert client.tokens.get_subscription_count() == 0, "too late: the model is there already"
        client.connect()
        client.destroy_node()


@pytest.mark.parametrize(("text", "reason", "expected"), [
    ("tiny", "no_model_info", "expected a JSON record"),
    ("[" * 100_000, "no_model_info", "expected a JSON record"),
    ('["tiny-fake"]', "no_model_info", "with the key model_id"),
    (json.dumps({"model_id": 3}), "no_model_info", "with the key model_id"),
    (json.dumps({"model_id": ""}), "no_model_info", "with the key model_id"),
    (json.dumps({"model_id": MODEL_ID}), "other_model", "expected schema_version 1 of model tiny-fake, got None"),
    (info_text(codebook_size=32), "other_model", "expected codebook_size 64 of model tiny-fake, got 32"),
    (info_text(grid=[8, 32]), "other_model", r"expected grid [16, 16] of model tiny-fake, got [8, 32]"),
    (info_text(region_min_m=[-10.0, -10.0, -3.0]), "other_model", "expected region_min_m"),
    (info_text(invalid_token=0), "other_model", "expected invalid_token 65535"),
], ids=["no JSON", "deep", "list", "number", "empty", "bare", "codebook", "grid", "region", "invalid token"])
def test_a_record_that_does_not_fit_is_refused(text: str, reason: str, expected: str) -> None:
    with pytest.raises(RefusedTokensError) as caught:
        check_origin(origin_from_json(text), FakeRunner())
    assert caught.value.reason.value == reason and expected in str(caught.value)


def test_a_damaged_record_takes_the_trust_back(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("damaged", log):
        client = DetokenizerClient("damaged")
        record = client.tell_info(info_text())
        client.connect()
        record.publish(String(data=info_text()[:100]))
        client.wait(lambda: client.diagnostics["tokens_model_id"] == "", "the damaged record")
        client.refused("no_model_info", client.send)
        client.destroy_node()
    assert "expected a JSON record" in log.read_text()


def test_a_refusal_without_a_graph_says_where_the_token_is_wrong() -> None:
    runner, tokens = FakeRunner(), np.zeros((16, 16), dtype=np.uint16)
    np.testing.assert_array_equal(tokens_from_image(token_image(tokens, 1), runner), tokens)
    check_origin(origin_from_json(info_text()), runner)
    with pytest.raises(RefusedTokensError, match="expected a 16UC1 image of 16 rows and 16 columns for model tiny-fake, got 'mono16' of 16 rows"):
        tokens_from_image(token_image(tokens, 1, encoding="mono16"), runner)


@pytest.mark.parametrize("setting", ["auto", "best_effort", "reliable"])
def test_best_effort_tokens_are_heard_unless_reliable_was_asked_for(graph: None, tmp_path: Path, setting: str) -> None:
    log, namespace = tmp_path / "log.txt", f"effort_{setting}"
    with detokenizer_process(namespace, log, "-p", f"input_qos:={setting}"):
        client = DetokenizerClient(namespace, tokens_qos=BEST_EFFORT)
        client.tell_info(info_text())
        if setting == "reliable":
            client.wait(lambda: "a publisher offers less than is asked for" in log.read_text(), "a warning")
            client.wait(lambda: client.count("qos_mismatches") == 1 and client.level == b"\x01", "the mismatch in the diagnostics")
            assert client.tokens.get_subscription_count() == 0
        else:
            client.connect()
            assert "a publisher offers less" not in log.read_text() and client.count("qos_mismatches") == 0, "a false alarm"
        client.destroy_node()


def test_auto_is_reliable_towards_a_reliable_publisher(client: DetokenizerClient) -> None:
    (taken,) = client.get_subscriptions_info_by_topic(client.tokens.topic_name)
    assert taken.qos_profile.reliability == VOLATILE.reliability


def test_a_fault_of_the_model_costs_one_grid(client: DetokenizerClient, log: Path) -> None:
    client.refused("failed", lambda: client.send(first=13))
    assert client.depth_of(client.send(code=2)) == 3.0
    assert "the model failed on them" in log.read_text() and "fake model: code 13" in log.read_text()


def test_a_fault_of_the_gpu_costs_one_grid_and_the_model_is_opened_again(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("gpu_fault", log):
        client = DetokenizerClient("gpu_fault")
        client.tell_info(info_text())
        client.connect()
        client.refused("failed", lambda: client.send(first=14))
        assert client.depth_of(client.send(code=2)) == 3.0
        client.destroy_node()
    assert "opening the model again" in log.read_text()


def test_every_grid_of_a_burst_is_accounted_for(graph: None, tmp_path: Path) -> None:
    # The middleware keeps one by default: what came faster than the node's thread takes it would never reach the node.
    deep = ("-p", "qos_overrides./burst/detokenizer/input/tokens.subscription.depth:=20")
    with detokenizer_process("burst", tmp_path / "log.txt", *deep, decode_ms=200):
        client = DetokenizerClient("burst", tokens_qos=qos.PLAYBACK)
        client.tell_info(info_text())
        client.connect()
        received, processed, replaced = (client.count(k) for k in ("received", "processed", "dropped_replaced"))
        for _ in range(12):
            newest = client.send(code=5)
            time.sleep(0.03)
        assert client.depth_of(newest) == 6.0
        client.wait(client.is_settled, "quiet")
        assert client.count("received") == received + 12
        assert client.count("processed") < processed + 6, "a queue was worked off"
        assert client.count("dropped_replaced") == replaced + 12 - (client.count("processed") - processed)
        client.destroy_node()


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("decode_ms", [0.0, 1000.0], ids=["idle", "busy"])
def test_a_signal_ends_the_node_cleanly(graph: None, tmp_path: Path, with_signal: signal.Signals, decode_ms: float) -> None:
    log, namespace = tmp_path / "log.txt", f"{with_signal.name}_{decode_ms:.0f}"
    with detokenizer_process(namespace, log, decode_ms=decode_ms) as process:
        client = DetokenizerClient(namespace)
        client.tell_info(info_text())
        client.connect()
        client.send()
        client.wait(lambda: client.count("received") > client.count("processed") or not decode_ms, "a grid in work")
        assert stop(process, with_signal) == 0
        client.destroy_node()
    assert "Traceback" not in log.read_text()


def test_the_depth_is_that_of_the_mode(graph: None, tmp_path: Path) -> None:
    with detokenizer_process("mode", tmp_path / "log.txt", "-p", "depth.mode:=strongest"):
        client = DetokenizerClient("mode")
        client.tell_info(info_text())
        client.connect()
        assert client.depth_of(client.send(code=9)) == 210.0
        client.destroy_node()


@pytest.mark.parametrize(("setting", "expected"), [
    ("depth.rows:=100000", "depth.rows out of range"),
    ("input_qos:=fast", "input_qos: expected one of auto, best_effort, reliable, got 'fast'"),
    ("weights:=/nowhere/w.safetensors", "/nowhere/w.safetensors"),
])
def test_a_wrong_parameter_is_refused(graph: None, tmp_path: Path, setting: str, expected: str) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("wrong", log, "-p", setting, module="copilot4d_ros.detokenizer_node") as process:
        assert process.wait(FIRST_SCAN_S) == 1
    assert expected in log.read_text()
    assert "Traceback" not in log.read_text()


def test_build_only_ends_after_the_model_is_warm(graph: None, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with detokenizer_process("build", log, "-p", "build_only:=true") as process:
        assert process.wait(DEADLINE_S) == 0
    assert "model tiny-fake" in log.read_text() and "waiting for messages" not in log.read_text()
