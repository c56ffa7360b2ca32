# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A driver's stand-in for transport tests, run as a process: clouds of so many points at a rate, best effort.

`python cloud_publisher.py TOPIC POINTS COUNT RATE_HZ`: waits for a subscriber, publishes, waits until told to end on standard input. With a fifth
argument, `heard`, it first sends single points until a line on standard input says that they are heard: a publisher that has found a subscriber may
not have been found by it, and what it sends until then is nobody's loss. It prints how many these were; their stamps are 1, 2, ... nanoseconds.
"""

from __future__ import annotations

import select
import sys
import time

import numpy as np
import rclpy
from node_client import cloud
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2


def send_until_heard(publisher: Publisher[PointCloud2]) -> int:
    """Single points, until a line comes in; how many."""
    count = 0
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        count += 1
        publisher.publish(cloud([[1.0, 1.0, 0.0, 0.0]], count, names="xyzi"))
    sys.stdin.readline()
    return count


def main(topic: str, points: int, count: int, rate_hz: float, first_heard: bool) -> None:
    """Publish; the stamps are 1, 2, ... milliseconds."""
    rclpy.init()
    node = rclpy.create_node("driver")
    publisher = node.create_publisher(PointCloud2, topic, QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    # x, y, z and intensity: 16 bytes a point, as most drivers publish.
    message = cloud(np.random.default_rng(1).uniform(-9, 9, (points, 4)), 0, names="xyzi")
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    if first_heard:
        print(send_until_heard(publisher), flush=True)
        sys.stdin.readline()
    start_s = time.monotonic() + 0.5
    for index in range(count):
        time.sleep(max(0.0, start_s + index / rate_hz - time.monotonic()))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod((index + 1) * 1_000_000, 1_000_000_000)
        publisher.publish(message)
    print("published", flush=True)
    sys.stdin.readline()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:] == ["heard"])
