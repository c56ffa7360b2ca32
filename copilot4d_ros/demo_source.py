# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node `demo_source`: a simulated LiDAR that drives up and down a street without end; for a machine without a sensor.

What goes in: a seed. What comes out: PointCloud2 on `~/points` at an even rate, stamped by the node's clock.
A lifecycle node that starts itself unless `autostart` is false. Unusual: simulating a scan takes longer than a turn of the
sensor, so a stretch of street is simulated once and driven forwards and backwards: its first scans before the first cloud, the
rest while those are already played.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rcl_interfaces.msg import FloatingPointRange, IntegerRange
from sensor_msgs.msg import PointCloud2, PointField

from copilot4d_core.data.point_cloud2 import data_from_points
from copilot4d_core.data.scan import Scan
from copilot4d_core.data.simulator import FRAME_ID, SENSORS, simulate_drive
from copilot4d_ros import qos
from copilot4d_ros.messages import byte_array
from copilot4d_ros.node_process import run_node
from copilot4d_ros.play_thread import PlayThread
from copilot4d_ros.source_node import SourceNode

STRETCH_SCANS = 60
"""The whole stretch: 6 s of a drive at 10 Hz, about 120 MB of clouds of 64 beams."""
AHEAD_SCANS = 5
_LOOK_EVERY_S = 0.05
_WARN_EVERY_S = 5.0


class DemoSource(SourceNode):
    """Publishes a simulated drive."""

    def __init__(self) -> None:
        """Declare the parameters.

        Raises:
            ValueError: unknown sensor, or no frame.
            rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("demo_source")
        self._sensor = self.declared("sensor", "hdl64", f"Simulated sensor: {', '.join(SENSORS)}.")
        self._seed = self.declared("seed", 0, "The same seed gives the same street.",
                                   integer_range=[IntegerRange(from_value=0, to_value=2**31, step=1)])
        rate_hz = self.declared("rate_hz", 10.0, "Clouds per second.",
                                floating_point_range=[FloatingPointRange(from_value=0.1, to_value=100.0, step=0.0)])
        self._frame_id = self.declared("frame_id", FRAME_ID, "Frame of the clouds.")
        if self._sensor not in SENSORS:
            raise ValueError(f"sensor: expected one of {', '.join(SENSORS)}, got {self._sensor!r}")
        if not self._frame_id:
            raise ValueError("frame_id: expected a name, got an empty text")
        self._period_s = 1.0 / rate_hz
        self._simulation: PlayThread | None = None
        self._clouds: list[Any] = []

    def _open(self) -> list[Any]:
        self._publisher = self.create_publisher(PointCloud2, "~/points", qos.PLAYBACK)
        self._clouds = []
        self._simulation = PlayThread(self._simulate, self._simulated)
        self._simulation.resume()
        self.get_logger().info(f"street {self._seed} seen by {self._sensor}, on {self._publisher.topic_name}")
        return [self._publisher]

    def release(self) -> bool:
        """As for every source; ends the simulation, too."""
        ended = self._simulation is None or self._simulation.close()
        self._simulation = None
        return super().release() and ended

    def _simulate(self, thread: PlayThread) -> None:
        for scan in simulate_drive(self._seed, STRETCH_SCANS, self._sensor):
            thread.sleep(0.0)  # Here it ends when it is told to.
            self._clouds.append(cloud_from_scan(scan, self._frame_id))

    def _simulated(self, error: Exception | None) -> None:
        if error is not None:
            self._ended(error)

    def _play(self, thread: PlayThread) -> None:
        while len(self._clouds) < AHEAD_SCANS:
            thread.sleep(_LOOK_EVERY_S)
        position, step, late, due_s = 0, 1, 0, thread.now_s()
        while True:
            with thread.due(due_s):
                behind_s = thread.now_s() - due_s
                self._publish(self._clouds[position])
            if behind_s > self._period_s / 2:
                late += 1
                self.get_logger().warning(f"{late} scans were late, the last one by {behind_s * 1e3:.0f} ms; "
                                          "the machine is busy: lower rate_hz, or a sensor with fewer beams", throttle_duration_sec=_WARN_EVERY_S)
            position, step = next_place(position, step, len(self._clouds))
            due_s = max(due_s, thread.now_s() - self._period_s) + self._period_s

    def _publish(self, cloud: Any) -> None:
        cloud.header.stamp = self.get_clock().now().to_msg()
        self._publisher.publish(cloud)


def next_place(position: int, step: int, count: int) -> tuple[int, int]:
    """The neighbour of a scan in a drive up and down: its position and the direction of the step to it, 1 or -1.

    Args:
        position, step: the scan, and the direction of the step that led there.
        count: scans that there are, at least 2; may have grown since the last step.
    """
    if not 0 <= position + step < count:
        step = -step
    return position + step, step


def cloud_from_scan(scan: Scan, frame_id: str) -> Any:
    """A scan as a message without a stamp.

    Returns:
        sensor_msgs/PointCloud2 with x, y, z and intensity, 16 bytes a point.
    """
    fields, data = data_from_points(scan.points_m, scan.intensity)
    step, width = 4 * len(fields), len(scan.points_m)
    cloud = PointCloud2(height=1, width=width, is_bigendian=False, point_step=step, row_step=step * width, is_dense=True)
    cloud.fields = [PointField(name=f.name, offset=f.offset, datatype=f.datatype, count=f.count) for f in fields]
    cloud.header.frame_id = frame_id
    cloud.data = byte_array(np.frombuffer(data, dtype=np.uint8))
    return cloud


def main(args: Sequence[str] | None = None) -> None:
    """Run the sensor until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    run_node("demo_source", DemoSource, args)


if __name__ == "__main__":
    main()
