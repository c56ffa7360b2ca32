# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Stand-in for tf2_ros, which is part of a ROS installation and not on PyPI: the same names and arguments, transforms from a file.

`SIMULATED_TF2` names a JSON file: {frame: [x, y, z, qx, qy, qz, qw]}, each in the frame `lidar_top`; it is read at every look-up.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from geometry_msgs.msg import Quaternion, TransformStamped, Vector3


class TransformException(Exception):  # noqa: N818  # the name that tf2_ros has
    """As tf2_ros's own."""


class Buffer:
    """As `tf2_ros.Buffer`, as far as the node uses it."""

    def __init__(self, cache_time: Any = None, node: Any = None) -> None:
        self.cleared = 0

    def clear(self) -> None:
        """Forget what was heard; the file is no such thing."""
        self.cleared += 1

    def lookup_transform(self, target_frame: str, source_frame: str, time: Any, timeout: Any = None) -> TransformStamped:
        """Transform of points in `source_frame` to `target_frame`."""
        known = json.loads(Path(os.environ["SIMULATED_TF2"]).read_text())
        if target_frame != "lidar_top" or source_frame not in known:
            raise TransformException(f'"{source_frame}" passed to lookupTransform argument source_frame does not exist.')
        x, y, z, *q = known[source_frame]
        stamped = TransformStamped(child_frame_id=source_frame)
        stamped.header.frame_id = target_frame
        stamped.transform.translation = Vector3(x=x, y=y, z=z)
        stamped.transform.rotation = Quaternion(**dict(zip("xyzw", q, strict=True)))
        return stamped


class TransformListener:
    """As `tf2_ros.TransformListener`: subscribes to /tf, and fills nothing."""

    def __init__(self, buffer: Buffer, node: Any) -> None:
        self.node = node
        self.subscription = node.create_subscription(TransformStamped, "/tf", lambda message: None, 10)

    def unregister(self) -> None:
        """End the subscription."""
        self.node.destroy_subscription(self.subscription)
