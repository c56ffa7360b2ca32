# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A driver's stand-in for the benchmark, run as a process: clouds from memory at a rate, best effort, stamped as they are sent.

`python -m copilot4d_ros.benchmark_publisher TOPIC CLOUDS RATE_HZ`: CLOUDS is an .npz file of float32 arrays (N, 4). Each line on standard input
says how many clouds to publish; the answer is one line of JSON, the stamps in nanoseconds. It ends with standard input.
Unusual: what is published over and over is the same message object, so that this process takes as little of the machine as it can.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2, PointField

from copilot4d_ros.messages import byte_array

DRIVER_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
"""As most drivers publish."""
FIELDS = ("x", "y", "z", "intensity")


def cloud_message(values: np.ndarray[Any, Any]) -> Any:
    """sensor_msgs/PointCloud2 of (N, 4) float32: x, y, z in metres and intensity, 16 bytes a point."""
    fields = [PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1) for place, name in enumerate(FIELDS)]
    message = PointCloud2(height=1, width=len(values), fields=fields, is_bigendian=False, point_step=16, row_step=16 * len(values), is_dense=True)
    message.header.frame_id = "lidar"
    message.data = byte_array(values.astype("<f4", copy=False))
    return message


def publish(publisher: Any, clouds: list[Any], count: int, rate_hz: float) -> list[int]:
    """Publish so many clouds, the list over and over.

    Returns:
        Their stamps, nanoseconds of this machine's clock when each was handed over.
    """
    stamps_ns = []
    start_s = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start_s + number / rate_hz - time.monotonic()))
        message = clouds[number % len(clouds)]
        stamps_ns.append(time.time_ns())
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamps_ns[-1], 1_000_000_000)
        publisher.publish(message)
    return stamps_ns


def main(topic: str, file: str, rate_hz: float) -> None:
    """Serve the lines of standard input."""
    with np.load(file) as arrays:
        clouds = [cloud_message(arrays[name]) for name in arrays.files]
    rclpy.init()
    node = rclpy.create_node("benchmark_publisher")
    publisher = node.create_publisher(PointCloud2, topic, DRIVER_QOS)
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    for line in sys.stdin:
        print(json.dumps(publish(publisher, clouds, int(line), rate_hz)), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
