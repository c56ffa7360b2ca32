# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A subscriber to everything large that the node gives, run as a process so that it can be stopped.

`python stalled_subscriber.py /NAMESPACE/tokenizer`. Prints the stamp of every token grid in nanoseconds.
"""

from __future__ import annotations

import sys

import rclpy
from sensor_msgs.msg import Image, PointCloud2


def main(target: str) -> None:
    """Listen until the process is killed."""
    rclpy.init()
    node = rclpy.create_node("stalled")
    node.create_subscription(Image, f"{target}/tokens", lambda m: print(m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, flush=True), 100)
    node.create_subscription(Image, f"{target}/depth", lambda _: None, 100)
    node.create_subscription(PointCloud2, f"{target}/reconstruction", lambda _: None, 100)
    rclpy.spin(node)


if __name__ == "__main__":
    main(sys.argv[1])
