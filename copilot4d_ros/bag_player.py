# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node `bag_player`: replays the clouds of a ROS 1 or ROS 2 bag on a machine without `ros2 bag`.

What goes in: a bag. What comes out: its PointCloud2 messages, bytes and stamps as recorded, spaced as recorded.
A lifecycle node that starts itself unless `autostart` is false; `deactivate` pauses it. Unusual: it waits for a subscriber
before the first message and for the last message to arrive before it leaves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from rcl_interfaces.msg import FloatingPointRange, IntegerRange
from rclpy.duration import Duration
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from copilot4d_core.data.bag import BagScans, messages
from copilot4d_ros import qos
from copilot4d_ros.messages import cloud_from_record
from copilot4d_ros.node_process import run_node
from copilot4d_ros.play_thread import PlayThread
from copilot4d_ros.source_node import SourceNode

_CLOCK_PERIOD_S = 0.025
"""40 Hz, as `ros2 bag play --clock` does."""
_LOOK_EVERY_S = 0.02
_LAST_ARRIVAL_S = 5.0
_LINGER_S = 0.5
"""A best-effort subscriber acknowledges nothing, and the last cloud's shared memory goes with this process."""
_LONGEST_GAP_S = 10.0
"""A longer gap between two stamps is a cut in the recording; nobody waits for it."""


class PlayerSettings(NamedTuple):
    """What to play and how; see the descriptions where they are declared."""

    bag: Path
    topic: str
    output_topic: str
    rate: float
    loop: bool
    start_offset_s: float
    start_delay_s: float
    wait_for_subscriber_s: float
    max_messages: int
    publish_clock: bool


class BagPlayer(SourceNode):
    """Publishes the clouds of one topic of a bag."""

    def __init__(self) -> None:
        """Declare the parameters.

        Raises:
            rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("bag_player")
        self.settings = declare_parameters(self)

    def _open(self) -> list[Any]:
        settings = self.settings
        if settings.bag == Path():
            raise ValueError("bag: expected the path of a bag, got an empty text; pass --ros-args -p bag:=PATH")
        recorded = BagScans(settings.bag, settings.topic or None)
        self._topic = recorded.topic
        if next(messages(settings.bag, self._topic, settings.start_offset_s), None) is None:
            raise ValueError(f"start_offset_s: expected a time at which {settings.bag} still has clouds on {self._topic}, "
                             f"got {settings.start_offset_s:g}")
        self._clouds = self.create_publisher(PointCloud2, settings.output_topic or recorded.topic, qos.PLAYBACK)
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.PLAYBACK) if settings.publish_clock else None
        self.get_logger().info(f"{settings.bag}: {len(recorded)} clouds on {recorded.topic}, played on {self._clouds.topic_name}")
        return [self._clouds] + ([] if self._clock_topic is None else [self._clock_topic])

    def _play(self, thread: PlayThread) -> None:
        self._wait_for_subscriber(thread)
        thread.sleep(self.settings.start_delay_s)
        count = self._play_once(thread)
        while self.settings.loop:
            count += self._play_once(thread)
        self._wait_for_last_arrival(thread)
        self.get_logger().info(f"published {count} clouds")

    def _play_once(self, thread: PlayThread) -> int:
        settings = self.settings
        count, due_s = 0, thread.now_s()
        before_ns: int | None = None
        clouds = messages(settings.bag, self._topic, settings.start_offset_s)
        for entry in itertools.islice(clouds, settings.max_messages or None):
            now_ns = entry.stamp_ns or entry.record_ns
            cloud = cloud_from_record(entry.message)
            if before_ns is not None:
                due_s += min(max(now_ns - before_ns, 0) / 1e9, _LONGEST_GAP_S) / settings.rate
                self._run_clock(thread, due_s, before_ns)
            with thread.due(due_s):
                self._tick(now_ns)
                self._clouds.publish(cloud)
            count, before_ns = count + 1, now_ns
        return count

    def _wait_for_subscriber(self, thread: PlayThread) -> None:
        deadline_s = thread.now_s() + self.settings.wait_for_subscriber_s
        while self._clouds.get_subscription_count() == 0:
            if thread.now_s() > deadline_s:
                self.get_logger().warning(f"no subscriber on {self._clouds.topic_name} within "
                                          f"{self.settings.wait_for_subscriber_s:g} s; playing to nobody")
                return
            thread.sleep(_LOOK_EVERY_S)

    def _wait_for_last_arrival(self, thread: PlayThread) -> None:
        deadline_s = thread.now_s() + _LAST_ARRIVAL_S
        # In short waits, because one for all of the time could not be ended by a signal.
        while not self._clouds.wait_for_all_acked(Duration(seconds=_LOOK_EVERY_S)) and thread.now_s() < deadline_s:
            thread.sleep(0.0)
        thread.sleep(_LINGER_S)

    def _run_clock(self, thread: PlayThread, due_s: float, clock_ns: int) -> None:
        """Let the time on /clock run from one stamp towards the next."""
        started_s = thread.now_s()
        period_s = math.inf if self._clock_topic is None else _CLOCK_PERIOD_S
        for tick_s in itertools.takewhile(lambda s: s < due_s, itertools.count(started_s + period_s, period_s)):
            with thread.due(tick_s):
                self._tick(clock_ns + round((tick_s - started_s) * self.settings.rate * 1e9))

    def _tick(self, now_ns: int) -> None:
        if self._clock_topic is not None:
            seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
            self._clock_topic.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))


def declare_parameters(node: SourceNode) -> PlayerSettings:
    """Declare and read every parameter.

    Raises:
        rclpy.exceptions.ParameterException: a number is out of its range, or a value has another type.
    """

    def seconds(high: float) -> dict[str, Any]:
        return {"floating_point_range": [FloatingPointRange(from_value=0.0, to_value=high, step=0.0)]}

    return PlayerSettings(
        bag=Path(node.declared("bag", "", "Path of a ROS 1 bag or a ROS 2 bag (folder, .mcap or .db3).")).expanduser(),
        topic=node.declared("topic", "", "Recorded PointCloud2 topic; empty: the only one in the bag."),
        output_topic=node.declared("output_topic", "", "Topic to publish on; empty: the recorded name."),
        rate=node.declared("rate", 1.0, "Speed relative to the recording.",
                           floating_point_range=[FloatingPointRange(from_value=0.01, to_value=100.0, step=0.0)]),
        loop=node.declared("loop", False, "Start again at the end; stamps then jump back."),
        start_offset_s=node.declared("start_offset_s", 0.0, "Leave out what was recorded in the first seconds of the bag.", **seconds(1e6)),
        start_delay_s=node.declared("start_delay_s", 0.3, "Wait from the first subscriber to the first cloud.", **seconds(600.0)),
        wait_for_subscriber_s=node.declared("wait_for_subscriber_s", 60.0, "Longest wait for a subscriber.", **seconds(3600.0)),
        max_messages=node.declared("max_messages", 0, "Clouds to play in one pass; 0: all.",
                                   integer_range=[IntegerRange(from_value=0, to_value=2**31, step=1)]),
        publish_clock=node.declared("publish_clock", False, "Publish the stamps' time on /clock, for nodes with use_sim_time."),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Play a bag; leaves the process with 0, or 1 after a refusal that was printed."""
    run_node("bag_player", BagPlayer, args)


if __name__ == "__main__":
    main()
