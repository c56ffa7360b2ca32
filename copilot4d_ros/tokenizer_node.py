"""The node `tokenizer`: every scan on `~/input/points` becomes a token grid, and on demand a depth image and a cloud.

Unusual: the subscription only leaves the message in a mailbox with one slot; one worker thread owns the model, takes
the newest scan, and publishes. A scan that gives no tokens is counted with its reason, never lost in silence.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.diagnostics import LOSS_ADVICE, diagnostics_message
from copilot4d_ros.frame_processor import DepthMode, Frame, FrameProcessor, RejectedCloudError
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, FrameStatistics, Snapshot
from copilot4d_ros.mailbox import Mailbox
from copilot4d_ros.messages import cloud_from_points, image_from_depth, image_from_tokens, stamp_ns
from copilot4d_ros.model_info import model_info
from copilot4d_ros.parameters import declare_parameters

OpenRunner = Callable[..., Runner]
"""As `open_runner`."""

_WARN_EVERY_S = 5.0
_LOSS_WARN_EVERY_S = 30.0
_WORKER_EXIT_S = 4.0
"""How long the exit waits for a scan in work; `ros2 launch` sends SIGTERM after 5 s."""


class TokenizerNode(Node):
    """Subscribes clouds, publishes tokens; `close` ends its worker."""

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """Declare, advertise, subscribe; the model loads in the worker thread.

        Raises:
            ValueError, rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("tokenizer")
        self._settings = declare_parameters(self)
        self._open_model = open_model
        self._statistics = FrameStatistics()
        self._mailbox: Mailbox[Any] = Mailbox()
        self._model_id: str | None = None
        self._reported: Snapshot | None = None
        self.failure: str | None = None
        self._tokens = self.create_publisher(Image, "~/tokens", qos.OUTPUT)
        self._depth = self.create_publisher(Image, "~/depth", qos.OUTPUT)
        self._reconstruction = self.create_publisher(PointCloud2, "~/reconstruction", qos.OUTPUT)
        self._model_info = self.create_publisher(String, "~/model_info", qos.LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        self._subscription = self._subscribe(qos.loss_callback(self._lost))
        # Wall time: with use_sim_time the node's clock stands still when the bag ends.
        self.create_timer(self._settings.diagnostics_period_s, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._worker = threading.Thread(target=self._work, name="tokenizer-worker", daemon=True)
        self._worker.start()

    def close(self) -> bool:
        """End the worker.

        Returns:
            Whether it ended in time; if not, it still uses the model.
        """
        self._mailbox.close()
        self._worker.join(_WORKER_EXIT_S)
        return not self._worker.is_alive()

    def _subscribe(self, events: Any) -> Any:
        settings = PointCloud2, "~/input/points", self._receive, qos.input_qos(self._settings.input_qos)
        try:
            return self.create_subscription(*settings, event_callbacks=events)
        except qos.UnsupportedEventTypeError:  # This middleware does not report what it loses.
            return self.create_subscription(*settings)

    def _receive(self, message: Any) -> None:
        self._statistics.received()
        if self._mailbox.put(message) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def _lost(self, total: int) -> None:
        self._statistics.lost_in_transport(total)
        self.get_logger().warning(f"{total} clouds lost on the way: {LOSS_ADVICE}", throttle_duration_sec=_LOSS_WARN_EVERY_S)

    def _report(self) -> None:
        now = self._statistics.snapshot()
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics_message(name, stamp, self._model_id, now, self._reported))
        self._reported = now

    def _work(self) -> None:
        try:
            while not self._run_model():
                self.get_logger().warning("the GPU failed; opening the model again")
        except Exception as error:
            if not self.context.ok():
                return  # The context closed under a publish call: an exit, not a fault.
            self.failure = str(error) if isinstance(error, (ValueError, OSError)) else traceback.format_exc()
            self.context.try_shutdown()

    def _run_model(self) -> bool:
        """Open the model and work until the mailbox closes; False after a fault of the GPU between two good scans.

        Raises:
            GpuError: the GPU failed before the first scan was done: opening again would fail again.
        """
        settings, before = self._settings, self._statistics.snapshot().processed
        with self._open_model(settings.weights, settings.runner, settings.int8, settings.engines, self.get_logger().info) as runner:
            processor = FrameProcessor(runner, settings.pattern)
            processor.warm_up()
            keep_compiled_kernels()
            self._announce(runner)
            try:
                for message in self._mailbox:
                    self._handle(processor, message)
            except GpuError:
                if self._statistics.snapshot().processed == before:
                    raise
                return False
        return True

    def _announce(self, runner: Runner) -> None:
        info = model_info(runner.config, runner.model_id, self._settings.pattern)
        self._model_info.publish(String(data=json.dumps(info)))
        self._model_id = runner.model_id
        rows, columns = info["grid"]
        self.get_logger().info(f"model {runner.model_id}: {rows} x {columns} tokens of {info['cell_size_m']} m; "
                               f"waiting for clouds on {self._subscription.topic_name}")

    def _handle(self, processor: FrameProcessor, message: Any) -> None:
        started_s = time.perf_counter()
        try:
            frame = processor.process(message, self._wanted_mode())
        except RejectedCloudError as error:
            self._statistics.dropped(error.reason)
            self.get_logger().warning(f"cloud dropped: {error}", throttle_duration_sec=_WARN_EVERY_S)
        except Exception as error:
            self._statistics.dropped(DropReason.FAILED)
            if isinstance(error, GpuError):
                self.get_logger().error(str(error))
                raise
            self.get_logger().error(f"cloud dropped, the model failed on it: {traceback.format_exc()}",
                                    throttle_duration_sec=_WARN_EVERY_S)
        else:
            self._publish(frame, message.header)
            stage_ms = frame.stage_ms | {"total": (time.perf_counter() - started_s) * 1e3}
            self._statistics.processed(FrameRecord(stamp_ns(message.header), frame.points, frame.points_in_region,
                                                   frame.points_dropped, stage_ms))

    def _wanted_mode(self) -> DepthMode | None:
        watched = self._depth.get_subscription_count() + self._reconstruction.get_subscription_count()
        return DepthMode(self.get_parameter("depth.mode").value) if watched else None

    def _publish(self, frame: Frame, header: Any) -> None:
        self._tokens.publish(image_from_tokens(frame.tokens, header))
        if frame.depth_m is not None and self._depth.get_subscription_count():
            self._depth.publish(image_from_depth(frame.depth_m, header))
        if frame.points_m is not None and self._reconstruction.get_subscription_count():
            self._reconstruction.publish(cloud_from_points(frame.points_m, header))


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    # rclpy's own handler ends the spin; Python's would throw KeyboardInterrupt into whatever runs then.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init(args=None if args is None else list(args))
    try:
        node = TokenizerNode(open_model)
    except (ValueError, ParameterException) as error:
        rclpy.try_shutdown()
        sys.exit(f"tokenizer: {error}")
    try:
        rclpy.spin(node)
    except Exception:
        if rclpy.ok():
            raise
        # The context closed, perhaps under a publish call: an exit, not a fault.
    ended = node.close()
    if node.failure is not None:
        print(f"tokenizer: {node.failure}", file=sys.stderr)
    code = 0 if node.failure is None else 1
    if not ended:
        # A thread inside native code cannot be stopped, and tearing the interpreter down around it crashes.
        sys.stderr.flush()
        os._exit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)


if __name__ == "__main__":
    main()
