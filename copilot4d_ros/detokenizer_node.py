"""The node `detokenizer`: token grids on `~/input/tokens`, received or replayed, become depth images and clouds.

A lifecycle node that starts itself unless `autostart` is false. Unusual: it decodes nothing before `~/input/model_info` has
named the loaded model as the one that made the tokens. The record is heard on two subscriptions: a latched one gets what was
published before, but only from a latched publisher; a player that replays it volatile is heard by the other. A grid that is
not decoded is counted with its reason, never lost in silence.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.grid import FloatArray, Grid
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.diagnostics import LOSS_ADVICE, NodeState, key_values
from copilot4d_ros.frame_processor import DepthMode
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, FrameStatistics, Snapshot
from copilot4d_ros.messages import cloud_from_points, image_from_depth, stamp_ns
from copilot4d_ros.model_worker import ModelWorker
from copilot4d_ros.parameters import declare_parameters
from copilot4d_ros.token_messages import UNKNOWN_ORIGIN, RefusedTokensError, TokenRefusal, check_origin, origin_from_json, tokens_from_image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble keeps it here.
    from rclpy.qos_event import SubscriptionEventCallbacks

OpenRunner = Callable[..., Runner]
"""As `open_runner`."""

_VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_WARN_EVERY_S = 5.0
_LOSS_WARN_EVERY_S = 30.0
_FOLLOW_EVERY_S = 0.2
"""How soon the subscription takes the reliability of a new publisher."""
_LOOK_EVERY_S = 0.05
"""How soon a wait for the model sees that the node is to end."""
_OF_CLOUDS = ("dropped_empty", "dropped_outside", "points", "points_in_region", "points_dropped")
"""Keys of the tokenizer's diagnostics that mean nothing here."""


class DetokenizerNode(LifecycleNode):
    """`configure` loads the model, warms it up and advertises; `activate` subscribes; `cleanup` gives the model back."""

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """Declare the parameters, listen to the record of the tokens, and report on /diagnostics, in every state.

        Raises:
            ValueError, rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__("detokenizer")
        self.settings = declare_parameters(self)
        self._open_model = open_model
        self._statistics = FrameStatistics()
        self._refused = dict.fromkeys(TokenRefusal, 0)
        self._not_watched = 0
        self._refusal_text = ""
        self._origin, self._info_text = UNKNOWN_ORIGIN, ""
        self._worker: ModelWorker[Any] | None = None
        self._subscription: Any = None
        self._reliability = ""
        self._lost_before = 0
        self._model_id: str | None = None
        self._reported: tuple[Snapshot | None, dict[TokenRefusal, int]] = None, dict(self._refused)
        self.failure: str | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        # A record that is replayed volatile while the model loads must not be missed. The latched subscription hears no volatile
        # publisher; a warning about that would be false, because the other one does.
        self.create_subscription(String, "~/input/model_info", self._receive_info, _VOLATILE)
        self.create_subscription(String, "~/input/model_info", self._receive_info, qos.LATCHED,
                                 event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        # Wall time: with use_sim_time the node's clock stands still when the bag ends.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self.settings.diagnostics_period_s, self._report, clock=steady)
        self.create_timer(_FOLLOW_EVERY_S, self._follow_publishers, clock=steady)

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails with the reason in the log and in `failure`."""
        settings, log = self.settings, self.get_logger()
        self._depth = self.create_publisher(Image, "~/depth", qos.OUTPUT)
        self._reconstruction = self.create_publisher(PointCloud2, "~/reconstruction", qos.OUTPUT)
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
        """Subscribe; from here on every token grid becomes a depth image or a count."""
        self._subscribe(self._fitting_reliability())
        self.get_logger().info(f"waiting for tokens on {self._subscription.topic_name}")
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
            for publisher in (self._depth, self._reconstruction):
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

    def _subscribe(self, reliability: str) -> None:
        settings = Image, "~/input/tokens", self._receive, qos.input_qos(reliability)
        self._reliability, self._lost_before = reliability, self._statistics.snapshot().lost_in_transport
        # With auto a publisher that does not match is followed, so the default warning would be false.
        events = SubscriptionEventCallbacks(message_lost=lambda event: self._lost(int(event.total_count)),
                                            use_default_callbacks=self.settings.input_qos != "auto")
        try:
            self._subscription = self.create_subscription(*settings, event_callbacks=events)
        except qos.UnsupportedEventTypeError:  # This middleware does not report what it loses.
            self._subscription = self.create_subscription(*settings)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None

    def _fitting_reliability(self) -> str:
        """As the parameter says; with `auto` reliable, unless a publisher is best effort, which a reliable subscription never hears."""
        if self.settings.input_qos != "auto":
            return self.settings.input_qos
        offered = (p.qos_profile.reliability for p in self.get_publishers_info_by_topic("~/input/tokens"))
        return "best_effort" if ReliabilityPolicy.BEST_EFFORT in offered else "reliable"

    def _follow_publishers(self) -> None:
        if self._subscription is None:
            return
        reliability = self._fitting_reliability()
        if reliability != self._reliability:
            self._unsubscribe()
            self._subscribe(reliability)
            self.get_logger().info(f"tokens are taken {reliability} now, as their publisher offers them")

    def _receive(self, message: Any) -> None:
        self._statistics.received()
        if self._worker is not None and self._worker.put(message) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def _receive_info(self, message: Any) -> None:
        if message.data == self._info_text:
            return  # A latched publisher is heard on both subscriptions.
        self._info_text, self._origin = message.data, origin_from_json(message.data)
        if self._origin.model_id:
            self.get_logger().info(f"the tokens are those of model {self._origin.model_id}")
        else:
            self.get_logger().warning(self._origin.obstacle)

    def _lost(self, total: int) -> None:
        total += self._lost_before
        self._statistics.lost_in_transport(total)
        self.get_logger().warning(f"{total} token grids lost on the way: {LOSS_ADVICE}", throttle_duration_sec=_LOSS_WARN_EVERY_S)

    def _report(self) -> None:
        now, refused, name = self._statistics.snapshot(), dict(self._refused), self.get_fully_qualified_name()
        values = {k: v for k, v in key_values(self._state(), self._model_id, now).items() if k not in _OF_CLOUDS}
        values |= {f"dropped_{reason.value}": str(count) for reason, count in refused.items()}
        values |= {"not_watched": str(self._not_watched), "tokens_model_id": self._origin.model_id}
        level, text = self._judged(now, refused)
        status = DiagnosticStatus(level=level, name=f"{name}: tokens", message=text, hardware_id=self._model_id or "",
                                  values=[KeyValue(key=key, value=value) for key, value in values.items()])
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
        self._reported = now, refused

    def _judged(self, now: Snapshot, refused: dict[TokenRefusal, int]) -> tuple[bytes, str]:
        state, (before, refused_before) = self._state(), self._reported
        if state is not NodeState.RUNNING:
            return DiagnosticStatus.OK, {NodeState.LOADING: "loading the model"}.get(state, f"{state.value}; a lifecycle manager starts it")
        if now.received == 0:
            return DiagnosticStatus.WARN, "no tokens have arrived yet; check the remapping of ~/input/tokens and the publisher"
        if refused != refused_before:
            return DiagnosticStatus.WARN, f"tokens refused: {self._refusal_text}"
        if now.dropped[DropReason.FAILED] > (before.dropped[DropReason.FAILED] if before else 0):
            return DiagnosticStatus.WARN, "the model failed on tokens; see the log"
        if now.lost_in_transport > (before.lost_in_transport if before else 0):
            return DiagnosticStatus.WARN, LOSS_ADVICE
        return DiagnosticStatus.OK, "running"

    def _state(self) -> NodeState:
        if self._subscription is not None:
            return NodeState.RUNNING
        if self._worker is not None:
            return NodeState.INACTIVE if self._model_id else NodeState.LOADING
        return NodeState.UNCONFIGURED

    def _prepare(self, runner: Runner) -> Callable[[Any], None]:
        rays, grid = self.settings.pattern.rays(np.zeros(3, dtype=np.float32)), Grid(runner.config)
        runner.decode(np.zeros(grid.tokens_HW, dtype=np.uint16), rays)
        keep_compiled_kernels()
        self._model_id = runner.model_id
        rows, columns = grid.tokens_HW
        self.get_logger().info(f"model {runner.model_id}: decodes {rows} x {columns} tokens of its own")
        return lambda message: self._handle(runner, rays, message)

    def _handle(self, runner: Runner, rays: Rays, message: Any) -> None:
        started_s = time.perf_counter()
        mode = self._wanted_mode()  # Fails when the context closes, which is an exit and no fault of the model.
        try:
            check_origin(self._origin, runner)
            tokens = tokens_from_image(message, runner)
            unpack_ms = (time.perf_counter() - started_s) * 1e3
            if mode is None:
                self._not_watched += 1
                return
            depth_m: FloatArray = getattr(runner.decode(tokens, rays), f"{mode.value}_m")
        except RefusedTokensError as error:
            self._refuse(error)
        except Exception as error:
            self._statistics.dropped(DropReason.FAILED)
            if isinstance(error, GpuError):
                self.get_logger().error(str(error))
                raise
            self.get_logger().error(f"tokens dropped, the model failed on them: {traceback.format_exc()}", throttle_duration_sec=_WARN_EVERY_S)
        else:
            self._publish(depth_m, rays, message.header)
            stage_ms: dict[str, float] = {stage: runner.stage_ms[stage] for stage in ("decode", "render") if stage in runner.stage_ms}
            stage_ms |= {"unpack": unpack_ms, "total": (time.perf_counter() - started_s) * 1e3}
            self._statistics.processed(FrameRecord(stamp_ns(message.header), 0, 0, 0, stage_ms))

    def _refuse(self, error: RefusedTokensError) -> None:
        self._refusal_text = str(error)
        self._refused[error.reason] += 1
        self.get_logger().warning(f"tokens refused: {error}", throttle_duration_sec=_WARN_EVERY_S)

    def _wanted_mode(self) -> DepthMode | None:
        watched = self._depth.get_subscription_count() + self._reconstruction.get_subscription_count()
        return DepthMode(self.get_parameter("depth.mode").value) if watched else None

    def _publish(self, depth_m: FloatArray, rays: Rays, header: Any) -> None:
        shape = self.settings.pattern.rows, self.settings.pattern.columns
        if self._depth.get_subscription_count():
            self._depth.publish(image_from_depth(depth_m.reshape(shape), header))
        if self._reconstruction.get_subscription_count():
            points_m = (rays.origins_m + rays.directions * depth_m[:, None]).astype(np.float32, copy=False)
            self._reconstruction.publish(cloud_from_points(points_m.reshape(*shape, 3), header))


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    # rclpy's own handler ends the spin; Python's would throw KeyboardInterrupt into whatever runs then.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init(args=None if args is None else list(args))
    try:
        node = DetokenizerNode(open_model)
    except (ValueError, ParameterException) as error:
        rclpy.try_shutdown()
        sys.exit(f"detokenizer: {error}")
    if _start(node):
        try:
            rclpy.spin(node)
        except Exception:
            if rclpy.ok():
                raise
            # The context closed, perhaps under a publish call: an exit, not a fault.
    ended = node.release()
    if node.failure:
        print(f"detokenizer: {node.failure}", file=sys.stderr)
    code = 1 if node.failure else 0
    if not ended:
        # A thread inside native code cannot be stopped, and tearing the interpreter down around it crashes.
        sys.stderr.flush()
        os._exit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)


def _start(node: DetokenizerNode) -> bool:
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
