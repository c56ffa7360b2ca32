# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Small bags of known bytes, for the player and what starts it; written without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

FIRST_NS = 1_584_000_000_250_000_000
STORE = get_typestore(Stores.ROS2_HUMBLE)
CLOUD = "sensor_msgs/msg/PointCloud2"


def write_bag(path: Path, data: Sequence[bytes], topics: Sequence[str] = ("/roof/points",), step_ns: int = 100_000_000) -> Path:
    """Bag of clouds with a point of 22 bytes, as Velodyne's XYZIRT; recorded 7 s later than their stamps."""
    types = STORE.types
    fields = [types["sensor_msgs/msg/PointField"](n, o, d, 1)
              for n, o, d in (("x", 0, 7), ("y", 4, 7), ("z", 8, 7), ("intensity", 12, 7), ("ring", 16, 4), ("time", 18, 7))]
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic in topics:
            connection = writer.add_connection(topic, CLOUD, typestore=STORE)
            for i, chunk in enumerate(data):
                stamp = FIRST_NS + i * step_ns
                header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](*divmod(stamp, 10**9)), "roof")
                values = np.frombuffer(chunk, np.uint8)
                message = types[CLOUD](header, 1, len(chunk) // 22, fields, False, 22, len(chunk), values, True)
                writer.write(connection, stamp + 7 * 10**9, STORE.serialize_cdr(message, CLOUD))
    return path
