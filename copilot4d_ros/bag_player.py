"""The node `bag_player`: replays the clouds of a ROS 1 or ROS 2 bag on a machine without `ros2 bag`.

What goes in: a bag. What comes out: its PointCloud2 messages, bytes and stamps as recorded, spaced as recorded.
Unusual: it waits for a subscriber before the first message and for the last message to arrive before it leaves.
"""

from __future__ import annotations

import itertools
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rclpy
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import PointCloud2

from copilot4d_core.data.bag import BagScans, messages
from copilot4d_ros import qos
from copilot4d_ros.messages import cloud_from_record

_CLOCK_PERIOD_S = 0.025
"""40 Hz, as `ros2 bag play --clock` does."""
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
    start_delay_s: float
    wait_for_subscriber_s: float
    max_messages: int
    publish_clock: bool


class BagPlayer(Node):
    """Publishes the clouds of one topic of a bag."""

    def __init__(self) -> None:
        """Declare the parameters and look at the bag.

        Raises:
            ValueError: no bag, or not one topic to play.
            rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("bag_player")
        self.settings = declare_parameters(self)
        recorded = BagScans(self.settings.bag, self.settings.topic or None)
        self.topic = recorded.topic
        self._clouds = self.create_publisher(PointCloud2, self.settings.output_topic or recorded.topic, qos.PLAYBACK)
        self._clock_topic = self.create_publisher(Clock, "/clock", qos.PLAYBACK) if self.settings.publish_clock else None
        self.get_logger().info(f"{self.settings.bag}: {len(recorded)} clouds on {recorded.topic}, "
                               f"played on {self._clouds.topic_name}")

    def play(self) -> int:
        """Play until the end of the bag, or until the context is shut down.

        Returns:
            Number of clouds published.
        Raises:
            ValueError: a damaged message.
        """
        self._wait_for_subscriber()
        self._sleep_until(time.monotonic() + self.settings.start_delay_s, None)
        count = self._play_once()
        while self.settings.loop and self.context.ok():
            count += self._play_once()
        if self.context.ok():
            self._clouds.wait_for_all_acked(Duration(seconds=_LAST_ARRIVAL_S))
            self._sleep_until(time.monotonic() + _LINGER_S, None)
        return count

    def _play_once(self) -> int:
        count = 0
        due_s = time.monotonic()
        before_ns: int | None = None
        for entry in itertools.islice(messages(self.settings.bag, self.topic), self.settings.max_messages or None):
            now_ns = entry.stamp_ns or entry.record_ns
            cloud = cloud_from_record(entry.message)
            if before_ns is not None:
                due_s += min(max(now_ns - before_ns, 0) / 1e9, _LONGEST_GAP_S) / self.settings.rate
            self._sleep_until(due_s, before_ns)
            if not self.context.ok():
                break
            self._tick(now_ns)
            self._clouds.publish(cloud)
            count, before_ns = count + 1, now_ns
        return count

    def _wait_for_subscriber(self) -> None:
        deadline_s = time.monotonic() + self.settings.wait_for_subscriber_s
        while self.context.ok() and self._clouds.get_subscription_count() == 0:
            if time.monotonic() > deadline_s:
                self.get_logger().warning(f"no subscriber on {self._clouds.topic_name} within "
                                          f"{self.settings.wait_for_subscriber_s:g} s; playing to nobody")
                return
            time.sleep(0.02)

    def _sleep_until(self, due_s: float, clock_ns: int | None) -> None:
        started_s = time.monotonic()
        while self.context.ok() and (left_s := due_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _CLOCK_PERIOD_S))
            if clock_ns is not None and time.monotonic() < due_s:
                self._tick(clock_ns + round((time.monotonic() - started_s) * self.settings.rate * 1e9))

    def _tick(self, now_ns: int) -> None:
        if self._clock_topic is not None and self.context.ok():
            seconds, nanoseconds = divmod(now_ns, 1_000_000_000)
            self._clock_topic.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))


def declare_parameters(node: Node) -> PlayerSettings:
    """Declare and read every parameter.

    Raises:
        ValueError: no bag is named.
        rclpy.exceptions.ParameterException: a number is out of its range, or a value has another type.
    """

    def declared(name: str, default: Any, description: str, **bounds: Any) -> Any:
        return node.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True, **bounds)).value

    def seconds(high: float) -> dict[str, Any]:
        return {"floating_point_range": [FloatingPointRange(from_value=0.0, to_value=high, step=0.0)]}

    settings = PlayerSettings(
        bag=Path(declared("bag", "", "Path of a ROS 1 bag or a ROS 2 bag (folder, .mcap or .db3).")).expanduser(),
        topic=declared("topic", "", "Recorded PointCloud2 topic; empty: the only one in the bag."),
        output_topic=declared("output_topic", "", "Topic to publish on; empty: the recorded name."),
        rate=declared("rate", 1.0, "Speed relative to the recording.",
                      floating_point_range=[FloatingPointRange(from_value=0.01, to_value=100.0, step=0.0)]),
        loop=declared("loop", False, "Start again at the end; stamps then jump back."),
        start_delay_s=declared("start_delay_s", 0.3, "Wait from the first subscriber to the first cloud.", **seconds(600.0)),
        wait_for_subscriber_s=declared("wait_for_subscriber_s", 60.0, "Longest wait for a subscriber.", **seconds(3600.0)),
        max_messages=declared("max_messages", 0, "Clouds to play in one pass; 0: all.",
                              integer_range=[IntegerRange(from_value=0, to_value=2**31, step=1)]),
        publish_clock=declared("publish_clock", False, "Publish the stamps' time on /clock, for nodes with use_sim_time."),
    )
    if settings.bag == Path():
        raise ValueError("bag: expected the path of a bag, got an empty text; pass --ros-args -p bag:=PATH")
    return settings


def main(args: Sequence[str] | None = None) -> None:
    """Play a bag; leaves the process with 0, or 1 after a refusal that was printed."""
    # rclpy's own handler closes the context, which ends the loop; Python's would throw KeyboardInterrupt anywhere.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init(args=None if args is None else list(args))
    code = 0
    try:
        player = BagPlayer()
        player.get_logger().info(f"published {player.play()} clouds")
        player.destroy_node()
    except (ValueError, OSError, ParameterException) as error:
        print(f"bag_player: {error}", file=sys.stderr)
        code = 1
    except Exception:
        if rclpy.ok():
            raise
        # The context closed under a publish call: an exit, not a fault.
    rclpy.try_shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
