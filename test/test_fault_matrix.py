# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What may go wrong between a driver and the node, row by row, on a real graph: the node stays up, says what it got, and goes on.

The rows of a GPU's faults are in test_node.py and test_tensorrt_runner.py, of engines in test_engine_file.py and test_engine_builder.py, of tokens in
test_detokenizer_node.py, of signals in test_node.py and test_lifecycle.py, of TF in test_views_node.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: pip install '.[ros]'")

from builtin_interfaces.msg import Time  # noqa: E402
from node_client import NodeClient  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import Image, PointCloud2, PointField  # noqa: E402
from test_node import FAST_DIAGNOSTICS, node_process  # noqa: E402

from copilot4d_ros import qos  # noqa: E402
from copilot4d_ros.messages import array_from_image, byte_array  # noqa: E402
from copilot4d_ros.own_graph import stop  # noqa: E402

WARN, ERROR, STALE = b"\x01", b"\x02", b"\x03"
POINTS = np.random.default_rng(5).uniform([-9.9, -9.9, -2.0], [9.9, 9.9, 2.0], (60, 3)).astype(np.float32)
"""Inside the region of the fake model; its token of a cell is the number of points in it."""
NUMBERS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shared node prints."""
    return tmp_path_factory.mktemp("node") / "log.txt"


@pytest.fixture(scope="module")
def client(graph: None, log: Path) -> Iterator[NodeClient]:
    """A client connected to one node for all tests that leave it as it was."""
    with node_process("faults", log, *FAST_DIAGNOSTICS, "-p", "input_qos:=reliable"):
        client = NodeClient("faults")
        client.connect()
        yield client
        client.destroy_node()


def field(name: str, offset: int, datatype: int = 7, count: int = 1) -> Any:
    """sensor_msgs/PointField; float32 unless said otherwise."""
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


def structured(fields: dict[str, tuple[str, int]], step: int, points: np.ndarray = POINTS, height: int = 1, row_step: int | None = None,
               big: bool = False, counts: dict[str, int] | None = None) -> Any:
    """Cloud of a layout, written by NumPy: name -> (type, offset) of each field; rows may be padded."""
    order = ">" if big else "<"
    width = len(points) // height
    dtype = np.dtype({"names": list(fields), "formats": [order + kind for kind, _ in fields.values()], "offsets": [at for _, at in fields.values()],
                      "itemsize": step})
    cloud = np.zeros((height, width), dtype=dtype)
    for axis, name in enumerate("xyz"):
        if name in fields:
            cloud[name] = points[:, axis].reshape(height, width)
    for name in set(fields) - set("xyz"):
        cloud[name] = np.arange(len(points)).reshape(height, width) % 100
    padded = row_step if row_step else width * step
    rows = np.zeros((height, padded), dtype=np.uint8)
    rows[:, :width * step] = np.frombuffer(cloud.tobytes(), dtype=np.uint8).reshape(height, width * step)
    message = PointCloud2(height=height, width=width, point_step=step, row_step=padded if row_step is None else row_step, is_bigendian=big)
    message.fields = [field(name, at, NUMBERS[kind], (counts or {}).get(name, 1)) for name, (kind, at) in fields.items()]
    message.data = byte_array(rows)
    return message


XYZ = {"x": ("f4", 0), "y": ("f4", 4), "z": ("f4", 8)}
LAYOUTS = {
    "step 16, float32 intensity": ({**XYZ, "intensity": ("f4", 12)}, 16, {}),
    "step 22, Velodyne XYZIRT": ({**XYZ, "intensity": ("f4", 12), "ring": ("u2", 16), "time": ("f4", 18)}, 22, {}),
    "step 26, Hesai": ({**XYZ, "intensity": ("f4", 12), "ring": ("u2", 16), "timestamp": ("f8", 18)}, 26, {}),
    "step 32, padded": ({**XYZ, "intensity": ("f4", 16)}, 32, {}),
    "step 48, Ouster": ({**XYZ, "intensity": ("f4", 16), "t": ("u4", 20), "reflectivity": ("u2", 24), "range": ("u4", 32)}, 48, {}),
    "float64": ({"x": ("f8", 0), "y": ("f8", 8), "z": ("f8", 16)}, 24, {}),
    "fields out of order": ({"z": ("f4", 1), "intensity": ("u1", 0), "x": ("f4", 9), "y": ("f4", 5)}, 13, {}),
    "no intensity": (XYZ, 12, {}),
    "big-endian": ({**XYZ, "intensity": ("f4", 12)}, 16, {"big": True}),
    "organised": ({**XYZ, "intensity": ("f4", 12)}, 16, {"height": 6}),
    "organised, rows padded": ({**XYZ, "intensity": ("u2", 12)}, 14, {"height": 6, "row_step": 160}),
    "row_step 0": ({**XYZ, "intensity": ("f4", 12)}, 16, {"row_step": 0}),
    "count 0 for 1": (XYZ, 12, {"counts": {"x": 0}}),
    **{f"intensity as {kind}": ({**XYZ, "intensity": (kind, 12)}, 20, {}) for kind in NUMBERS},
    **{f"intensity called {name}": ({**XYZ, name: ("f4", 12)}, 16, {}) for name in ("i", "reflectivity", "signal")},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_points_in_any_layout_give_the_same_tokens(client: NodeClient, name: str) -> None:
    fields, step, how = LAYOUTS[name]
    expected = np.zeros((16, 16), dtype=np.uint16)
    for x, y, _ in POINTS.astype(np.float64):
        expected[int((y + 10) // 1.25), int((x + 10) // 1.25)] += 1
    stamp = client.send_message(structured(fields, step, **how))
    client.wait(lambda: stamp in client.tokens, "tokens")
    np.testing.assert_array_equal(array_from_image(client.tokens[stamp]), expected)
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics")
    assert client.diagnostics["layout"].endswith(f"step {step}, " + ("big-endian" if how.get("big") else "little-endian"))


def test_what_is_odd_about_a_readable_cloud_is_said_once(client: NodeClient, log: Path) -> None:
    for name in ("big-endian", "row_step 0") * 2:
        fields, step, how = LAYOUTS[name]
        stamp = client.send_message(structured(fields, step, **how))
        client.wait(lambda stamp=stamp: stamp in client.tokens, "tokens")
    client.wait(lambda: "row_step is 0: read as width * point_step" in client.diagnostics.get("layout_notes", ""), "the notes")
    assert "is_bigendian is true" in client.diagnostics["layout_notes"]
    client.wait(lambda: "row_step is 0" in log.read_text(), "the notes in the log, which come after those in the diagnostics")
    assert log.read_text().count("is_bigendian is true") == log.read_text().count("row_step is 0") == 1


def broken(**changes: Any) -> Any:
    message = structured({**XYZ, "intensity": ("f4", 12)}, 16)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


BROKEN = {
    "x missing": (lambda: structured({"y": ("f4", 0), "z": ("f4", 4)}, 8), "missing x"),
    "x an integer": (lambda: structured({"x": ("i4", 0), "y": ("f4", 4), "z": ("f4", 8)}, 12), "field x: expected float32"),
    "x an array": (lambda: broken(fields=[field("x", 0, 7, 3), field("y", 4), field("z", 8)]), "field x: expected a count of 1, got 3"),
    "y twice": (lambda: broken(fields=[field("x", 0), field("y", 4), field("z", 8), field("y", 12)]), "field y: expected it once"),
    "z beyond the point": (lambda: broken(fields=[field("x", 0), field("y", 4), field("z", 14)]), "field z: bytes 14 to 18 lie beyond point_step 16"),
    "an unknown type": (lambda: broken(fields=[field("x", 0, 99), field("y", 4), field("z", 8)]), "field x: expected a datatype of 1 to 8, got 99"),
    "data cut off": (lambda: broken(width=61, row_step=61 * 16), "expected 976 bytes of data"),
    "row_step too small": (lambda: broken(row_step=100), "row_step of at least width"),
    "point_step 0": (lambda: broken(point_step=0), "beyond point_step 0"),
    "4 G points": (lambda: broken(width=2**32 - 1, row_step=0), "bytes of data"),
    "sizes that overflow": (lambda: broken(height=2**32 - 1, width=2**32 - 1, row_step=0), "bytes of data"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_cloud_that_cannot_be_read_is_refused_by_name_before_memory_is_taken(client: NodeClient, name: str) -> None:
    make, expected = BROKEN[name]
    before = client.count("dropped_invalid")
    stamp = client.send_message(make())
    client.wait(lambda: client.count("dropped_invalid") == before + 1, "the cloud in the diagnostics")
    client.wait(lambda: client.level == ERROR and "dropped as invalid" in client.text, "the level")
    client.wait(lambda: expected in client.diagnostics.get("last_refusal", ""), "the reason")
    good = client.send(POINTS)
    client.wait(lambda: good in client.tokens, "tokens after a bad cloud")
    assert stamp not in client.tokens


def test_values_that_are_no_points_are_left_out_and_counted(client: NodeClient) -> None:
    useless = [[np.nan, 1, 1], [1, np.inf, 1], [1, 1, -np.inf], [0, 0, 0], [0, 0, -0.0]]
    stamp = client.send([[1.0, 1.0, 0.0], *useless, [1e30, 0, 0], [1e-40, 5.0, 0.0]])
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics of the scan")
    # A far outlier is a point, but not in the region; a denormal is a number like any other.
    assert [client.diagnostics[key] for key in ("points", "points_in_region", "points_dropped")] == ["3", "2", "5"]


def test_an_empty_cloud_is_dropped_or_encoded_as_asked(client: NodeClient) -> None:
    for points in ([], [[np.nan] * 3], [[500.0, 0.0, 0.0]]):
        assert client.set_parameter("on_empty", "encode").successful
        stamp = client.send(points)
        client.wait(lambda stamp=stamp: stamp in client.tokens, "tokens of empty space")
        assert not array_from_image(client.tokens[stamp]).any()
        assert client.set_parameter("on_empty", "skip").successful
        key = "dropped_outside" if points and np.isfinite(points[0][0]) else "dropped_empty"
        before = client.count(key)
        stamp = client.send(points)
        client.wait(lambda key=key, before=before: client.count(key) == before + 1, key)
        assert stamp not in client.tokens
    client.wait(lambda: client.level == WARN, "a warning, no error")


def test_near_returns_are_left_out_when_asked(client: NodeClient) -> None:
    assert client.set_parameter("min_range_m", 1.5).successful
    stamp = client.send([[1.0, 1.0, 0.0], [-1.49, 0.0, 0.0], [1.51, 0.0, 0.0], [0.9, 0.9, 0.9]])  # 1.41, 1.49, 1.51, 1.56 m
    client.wait(lambda: client.diagnostics.get("last_stamp_ns") == str(stamp), "diagnostics of the scan")
    assert [client.diagnostics[key] for key in ("points", "points_dropped")] == ["2", "2"]
    assert client.set_parameter("min_range_m", 0.0).successful


def test_two_million_points_are_thinned_evenly_and_always_the_same(client: NodeClient) -> None:
    assert client.set_parameter("max_points", 1000).successful
    # 2,000,000 points on a line along x: each of the 16 columns of cells holds an eighth of what remains, whatever was left out.
    x = np.linspace(-9.999, 9.999, 2_000_000, dtype=np.float32)
    points = np.stack([x, np.full_like(x, 0.1), np.zeros_like(x)], axis=1)
    stamps = []
    for _ in range(2):
        stamps.append(client.send(points))
        client.wait(lambda: stamps[-1] in client.tokens, "tokens", seconds=30.0)
    tokens, again = (array_from_image(client.tokens[stamp]) for stamp in stamps)
    assert (tokens[8] >= 62).all() and tokens.sum() == tokens[8].sum()  # 1000 / 16 = 62.5
    np.testing.assert_array_equal(again, tokens)
    client.wait(lambda: client.diagnostics.get("points_thinned") == "1999000" and client.level == WARN and "max_points" in client.text, "a warning")
    assert client.set_parameter("max_points", 1_000_000).successful
    assert not client.set_parameter("max_points", 0).successful


def test_stamps_that_repeat_or_go_back_are_processed_and_flagged(client: NodeClient) -> None:
    client.wait(lambda: "stamps" not in client.text, "quiet")
    jumps, odd = client.count("time_jumps"), client.count("stamps_odd")
    newest = client.send(POINTS)
    client.wait(lambda: newest in client.tokens, "tokens")
    for stamp in (newest, newest - 500_000_000, 0):
        client.tokens.pop(stamp, None)
        client.send_message(structured(XYZ, 12), stamp)
        client.wait(lambda stamp=stamp: stamp in client.tokens, "tokens of an odd stamp")
    # Repeated and half a second back are odd; zero is decades back.
    client.wait(lambda: (client.count("stamps_odd"), client.count("time_jumps")) == (odd + 2, jumps + 1), "the counts")
    client.wait(lambda: client.level == WARN and "stamps" in client.text, "a warning")
    client.send(POINTS)


def test_a_clock_that_goes_back_is_counted_and_rates_start_over(graph: None, tmp_path: Path) -> None:
    with node_process("jump", tmp_path / "log.txt", *FAST_DIAGNOSTICS, "-p", "use_sim_time:=true") as process:
        client = NodeClient("jump")
        clock = client.create_publisher(Clock, "/clock", 10)

        def tick(second: int) -> str:
            """Diagnostics of that time, and the count of jumps; the node's clock may hear the first ticks late."""
            clock.publish(Clock(clock=Time(sec=second)))
            rclpy.spin_once(client, timeout_sec=0.05)
            return client.diagnostics.get("clock_jumps", "")

        client.connect()
        client.wait(lambda: tick(1_700_000_100) == "0" and client.stamp.sec == 1_700_000_100, "the time of /clock")
        client.send_until(lambda: client.diagnostics["input_rate_hz"] != "0.000", "a rate")
        client.wait(lambda: tick(1_700_000_050) == "1" and client.stamp.sec == 1_700_000_050, "a jump back")
        assert client.diagnostics["input_rate_hz"] == "0.000"
        stamp = client.send(POINTS)
        client.wait(lambda: stamp in client.tokens, "tokens after the jump")
        client.destroy_node()
        assert stop(process) == 0


def test_an_empty_frame_is_kept_and_warned_of(client: NodeClient) -> None:
    stamp = client.send(POINTS, frame="")
    client.wait(lambda: stamp in client.tokens, "tokens")
    assert client.tokens[stamp].header.frame_id == ""
    client.wait(lambda: client.level == WARN and "empty frame_id" in client.text, "a warning")
    client.send(POINTS)
    client.wait(lambda: "frame_id" not in client.text, "no warning any more")


def test_a_second_publisher_is_named(client: NodeClient) -> None:
    second = client.create_publisher(PointCloud2, f"{client.target}/input/points", qos.PLAYBACK)
    client.wait(lambda: client.level == WARN and "2 publishers" in client.text, "a warning")
    stamps = []
    for points, names in ((POINTS, "xyz"), (POINTS[:, ::-1], "zyx"), (POINTS, "xyz")):  # the layouts of two publishers in turn
        stamps.append(client.send(points, names=names))
        client.wait(lambda: stamps[-1] in client.tokens, "tokens")
    np.testing.assert_array_equal(*(array_from_image(client.tokens[stamp]) for stamp in stamps[:2]))
    client.destroy_publisher(second)
    client.wait(lambda: "2 publishers" not in client.text, "no warning any more")


def test_a_quality_of_service_that_does_not_match_is_told_with_its_remedy(graph: None, tmp_path: Path) -> None:
    with node_process("mismatch", tmp_path / "log.txt", *FAST_DIAGNOSTICS, "-p", "input_qos:=reliable"):
        client = NodeClient("mismatch")
        client.wait(lambda: client.info, "the node")
        client.destroy_publisher(client.clouds)
        best_effort = client.create_publisher(PointCloud2, f"{client.target}/input/points", qos.input_qos("best_effort"))
        client.wait(lambda: client.level == WARN and "set input_qos:=best_effort" in client.text, "the input's mismatch")
        latched = client.create_subscription(Image, f"{client.target}/tokens", lambda message: None, qos.LATCHED)
        client.wait(lambda: "a subscriber asks for more than is offered" in client.text, "the output's mismatch")
        assert client.count("qos_mismatches") == 2 and f"qos_overrides.{client.target}/tokens.publisher" in client.text
        client.destroy_subscription(latched)
        client.destroy_publisher(best_effort)
        client.destroy_node()


def test_quality_of_service_is_overridden_by_parameters(graph: None, tmp_path: Path) -> None:
    override = "qos_overrides./overridden/tokenizer/tokens.publisher.depth:=7"
    with node_process("overridden", tmp_path / "log.txt", *FAST_DIAGNOSTICS, "-p", override):
        client = NodeClient("overridden")
        client.connect()
        (tokens,) = client.get_publishers_info_by_topic(f"{client.target}/tokens")
        names = client.parameter_names()
        assert "qos_overrides./overridden/tokenizer/tokens.publisher.depth" in names
        assert "qos_overrides./overridden/tokenizer/depth.publisher.reliability" in names
        assert client.get_parameter_of("qos_overrides./overridden/tokenizer/tokens.publisher.depth") == 7
        assert tokens.qos_profile.reliability == qos.OUTPUT.reliability
        assert client.get_parameter_of("qos_overrides./overridden/tokenizer/depth.publisher.depth") == 2, "one override must not reach the others"
        client.destroy_node()
