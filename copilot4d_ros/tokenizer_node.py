"""The node `tokenizer`: every scan on `~/input/points` becomes a token grid, and on demand a depth image and a cloud.

A lifecycle node that starts itself unless `autostart` is false. Unusual: the subscription only leaves the message in a
mailbox with one slot; one worker thread owns the model, takes the newest scan, and publishes. A scan that gives no tokens is
counted with its reason, never lost in silence.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header, String

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.debug_times import DebugTimes
from copilot4d_ros.diagnostics import LOSS_ADVICE, NodeState, diagnostics_message
from copilot4d_ros.frame_processor import DepthMode, Frame, FrameProcessor, RejectedCloudError, Wanted
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, FrameStatistics, Snapshot
from copilot4d_ros.messages import camera_info, cloud_from_points, image_from_depth, image_from_tokens, stamp_ns
from copilot4d_ros.model_info import model_info
from copilot4d_ros.model_worker import ModelWorker
from copilot4d_ros.parameters import declare_parameters

OpenRunner = Callable[..., Runner]
"""As `open_runner`."""

_WARN_EVERY_S = 5.0
_LOSS_WARN_EVERY_S = 30.0
_LOOK_EVERY_S = 0.05
"""How soon a wait for the model sees that the node is to end."""


class TokenizerNode(LifecycleNode):
    """`configure` loads the model, warms it up and advertises; `activate` subscribes; `cleanup` gives the model back."""

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """Declare the parameters and report on /diagnostics, in every state.

        Raises:
            ValueError, rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("tokenizer")
        self.settings = declare_parameters(self)
        self._open_model = open_model
        self._statistics = FrameStatistics()
        self._worker: ModelWorker[Any] | None = None
        self._subscription: Any = None
        self._model_id: str | None = None
        self._reported: Snapshot | None = None
        self.failure: str | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        # Wall time: with use_sim_time the node's clock stands still when the bag ends.
        self.create_timer(self.settings.diagnostics_period_s, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails with the reason in the log and in `failure`."""
        settings, log = self.settings, self.get_logger()
        self._tokens = self.create_publisher(Image, "~/tokens", qos.OUTPUT)
        self._depth = self.create_publisher(Image, "~/depth", qos.OUTPUT)
        self._reconstruction = self.create_publisher(PointCloud2, "~/reconstruction", qos.OUTPUT)
        self._camera_depth = self.create_publisher(Image, "~/camera/depth", qos.OUTPUT)
        self._camera_info = self.create_publisher(CameraInfo, "~/camera/camera_info", qos.OUTPUT)
        self._model_info = self.create_publisher(String, "~/model_info", qos.LATCHED)
        self._times = DebugTimes(self)
        self.failure = None
        self._worker = ModelWorker(
            lambda: self._open_model(settings.weights, settings.runner, settings.int8, settings.engines, log.info), self._prepare, log.warning,
            self._fail)
        if self._wait_for_model(self._worker):
            return TransitionCallbackReturn.SUCCESS
        self.failure = self._worker.failure
        if self.failure:
            log.error(self.failure)
        self.release()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Subscribe; from here on every scan becomes tokens or a count."""
        self._subscription = self._subscribe(qos.loss_callback(self._lost))
        self.get_logger().info(f"waiting for clouds on {self._subscription.topic_name}")
        return super().on_activate(state)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Unsubscribe; the model stays loaded."""
        self._unsubscribe()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Give the model and the topics back."""
        return TransitionCallbackReturn.SUCCESS if self.release() else TransitionCallbackReturn.ERROR

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """As deactivate and cleanup."""
        return self.on_cleanup(state)

    def release(self) -> bool:
        """Unsubscribe, end the worker, withdraw the topics.

        Returns:
            Whether the worker ended in time; if not, it still uses the model.
        """
        self._unsubscribe()
        ended = self._worker is None or self._worker.close()
        if self._worker is not None:
            self._worker = None
            for publisher in (self._tokens, self._depth, self._reconstruction, self._camera_depth, self._camera_info, self._model_info,
                              *self._times.publishers):
                self.destroy_publisher(publisher)
        self._model_id = None
        return ended

    def _wait_for_model(self, worker: ModelWorker[Any]) -> bool:
        """Whether the model is ready in the end; reports meanwhile, because nothing else of the node runs."""
        reported_s = time.monotonic()
        while not worker.settled.wait(_LOOK_EVERY_S):
            if not self.context.ok():
                return False
            if time.monotonic() - reported_s >= self.settings.diagnostics_period_s:
                reported_s = time.monotonic()
                self._report()
        return not worker.failure

    def _fail(self, reason: str) -> None:
        """The worker ended by an error: so does the node."""
        if self.context.ok():  # Otherwise the context closed under a publish call: an exit, not a fault.
            self.failure = reason
            self.context.try_shutdown()

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None

    def _subscribe(self, events: Any) -> Any:
        settings = PointCloud2, "~/input/points", self._receive, qos.input_qos(self.settings.input_qos)
        try:
            return self.create_subscription(*settings, event_callbacks=events)
        except qos.UnsupportedEventTypeError:  # This middleware does not report what it loses.
            return self.create_subscription(*settings)

    def _receive(self, message: Any) -> None:
        self._statistics.received()
        if self._worker is not None and self._worker.put(message) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def _lost(self, total: int) -> None:
        self._statistics.lost_in_transport(total)
        self.get_logger().warning(f"{total} clouds lost on the way: {LOSS_ADVICE}", throttle_duration_sec=_LOSS_WARN_EVERY_S)

    def _report(self) -> None:
        now = self._statistics.snapshot()
        stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics_message(name, stamp, self._state(), self._model_id, now, self._reported))
        self._reported = now

    def _state(self) -> NodeState:
        if self._subscription is not None:
            return NodeState.RUNNING
        if self._worker is not None:
            return NodeState.INACTIVE if self._model_id else NodeState.LOADING
        return NodeState.UNCONFIGURED

    def _prepare(self, runner: Runner) -> Callable[[Any], None]:
        processor = FrameProcessor(runner, self.settings.pattern, self.settings.camera)
        processor.warm_up()
        keep_compiled_kernels()
        self._announce(runner)
        return lambda message: self._handle(processor, message)

    def _announce(self, runner: Runner) -> None:
        info = model_info(runner.config, runner.model_id, self.settings.pattern)
        self._model_info.publish(String(data=json.dumps(info)))
        self._model_id = runner.model_id
        rows, columns = info["grid"]
        self.get_logger().info(f"model {runner.model_id}: {rows} x {columns} tokens of {info['cell_size_m']} m")

    def _handle(self, processor: FrameProcessor, message: Any) -> None:
        started_s = time.perf_counter()
        try:
            frame = processor.process(message, self._wanted())
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
            self._times.publish(stage_ms, message.header)
            self._statistics.processed(FrameRecord(stamp_ns(message.header), frame.points, frame.points_in_region,
                                                   frame.points_dropped, stage_ms))

    def _wanted(self) -> Wanted:
        turn = self._depth.get_subscription_count() + self._reconstruction.get_subscription_count() > 0
        return Wanted(DepthMode(self.get_parameter("depth.mode").value), turn, self._camera_depth.get_subscription_count() > 0)

    def _publish(self, frame: Frame, header: Any) -> None:
        self._tokens.publish(image_from_tokens(frame.tokens, header))
        if frame.depth_m is not None and self._depth.get_subscription_count():
            self._depth.publish(image_from_depth(frame.depth_m, header))
        if frame.points_m is not None and self._reconstruction.get_subscription_count():
            self._reconstruction.publish(cloud_from_points(frame.points_m, header))
        if frame.camera_depth_m is not None:
            camera_header = Header(stamp=header.stamp, frame_id=self.settings.camera_frame_id)
            self._camera_info.publish(camera_info(self.settings.camera, camera_header))
            self._camera_depth.publish(image_from_depth(frame.camera_depth_m, camera_header))


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
    if _start(node):
        try:
            rclpy.spin(node)
        except Exception:
            if rclpy.ok():
                raise
            # The context closed, perhaps under a publish call: an exit, not a fault.
    ended = node.release()
    if node.failure:
        print(f"tokenizer: {node.failure}", file=sys.stderr)
    code = 1 if node.failure else 0
    if not ended:
        # A thread inside native code cannot be stopped, and tearing the interpreter down around it crashes.
        sys.stderr.flush()
        os._exit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)


def _start(node: TokenizerNode) -> bool:
    """Whether there is something to spin for: not after a failed start, and not if only building was asked for."""
    settings = node.settings
    if not (settings.autostart or settings.build_only):
        return True
    if node.trigger_configure() != TransitionCallbackReturn.SUCCESS:
        return False
    if settings.build_only:
        node.get_logger().info("engines and kernels are built (build_only)")
        return False
    return bool(node.trigger_activate() == TransitionCallbackReturn.SUCCESS)


if __name__ == "__main__":
    main()
