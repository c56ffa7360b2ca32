"""The node `detokenizer`: token grids on `~/input/tokens`, received or replayed, become depth images and clouds.

A lifecycle node that starts itself unless `autostart` is false. Unusual: it decodes nothing before `~/input/model_info` has
named the loaded model as the one that made the tokens. The record is heard on two subscriptions: a latched one gets what was
published before, but only from a latched publisher; a player that replays it volatile is heard by the other. A grid that is
not decoded is counted with its reason, never lost in silence.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.diagnostics import LOSS_ADVICE, NodeState, key_values
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, Snapshot
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.model_node import ModelNode, OpenRunner, run_model_node
from copilot4d_ros.token_messages import UNKNOWN_ORIGIN, RefusedTokensError, TokenRefusal, check_origin, origin_from_json, tokens_from_image
from copilot4d_ros.view_topics import ViewTopics
from copilot4d_ros.views import Views

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble keeps it here.
    from rclpy.qos_event import SubscriptionEventCallbacks

_VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_WARN_EVERY_S = 5.0
_LOSS_WARN_EVERY_S = 30.0
_FOLLOW_EVERY_S = 0.2
"""How soon the subscription takes the reliability of a new publisher."""
_OF_CLOUDS = ("dropped_empty", "dropped_outside", "points", "points_in_region", "points_dropped")
"""Keys of the tokenizer's diagnostics that mean nothing here."""


class DetokenizerNode(ModelNode):
    """Tokens and the record of their model in; depth and points out, while somebody subscribes."""

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """Also listen to the record of the tokens, in every state; see `ModelNode`."""
        self._refused = dict.fromkeys(TokenRefusal, 0)
        self._not_watched = 0
        self._refusal_text = ""
        self._origin, self._info_text = UNKNOWN_ORIGIN, ""
        self._reliability = ""
        self._lost_before = 0
        self._reported: tuple[Snapshot | None, dict[TokenRefusal, int]] = None, dict(self._refused)
        super().__init__("detokenizer", open_model)
        # A record that is replayed volatile while the model loads must not be missed. The latched subscription hears no volatile
        # publisher; a warning about that would be false, because the other one does.
        self.create_subscription(String, "~/input/model_info", self._receive_info, _VOLATILE)
        self.create_subscription(String, "~/input/model_info", self._receive_info, qos.LATCHED,
                                 event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self.create_timer(_FOLLOW_EVERY_S, self._follow_publishers, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _advertise(self) -> list[Any]:
        self._views = ViewTopics(self, self.settings)
        return self._views.publishers

    def _subscribe(self) -> Any:
        self._reliability, self._lost_before = self._fitting_reliability(), self._statistics.snapshot().lost_in_transport
        settings = Image, "~/input/tokens", self._receive, qos.input_qos(self._reliability)
        # With auto a publisher that does not match is followed, so the default warning would be false.
        events = SubscriptionEventCallbacks(message_lost=lambda event: self._lost(int(event.total_count)),
                                            use_default_callbacks=self.settings.input_qos != "auto")
        try:
            return self.create_subscription(*settings, event_callbacks=events)
        except qos.UnsupportedEventTypeError:  # This middleware does not report what it loses.
            return self.create_subscription(*settings)

    def _fitting_reliability(self) -> str:
        """As the parameter says; with `auto` reliable, unless a publisher is best effort, which a reliable subscription never hears."""
        if self.settings.input_qos != "auto":
            return self.settings.input_qos
        offered = (p.qos_profile.reliability for p in self.get_publishers_info_by_topic("~/input/tokens"))
        return "best_effort" if ReliabilityPolicy.BEST_EFFORT in offered else "reliable"

    def _follow_publishers(self) -> None:
        if self._subscription is None:
            return
        if self._fitting_reliability() != self._reliability:
            self._unsubscribe()
            self._subscription = self._subscribe()
            self.get_logger().info(f"tokens are taken {self._reliability} now, as their publisher offers them")

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

    def _prepare(self, runner: Runner) -> Callable[[Any], None]:
        views, (rows, columns) = Views(runner, self.settings.pattern, self.settings.camera), Grid(runner.config).tokens_HW
        views.warm_up(np.zeros((rows, columns), dtype=np.uint16))
        keep_compiled_kernels()
        self._model_id = runner.model_id
        self.get_logger().info(f"model {runner.model_id}: decodes {rows} x {columns} tokens of its own")
        return lambda message: self._handle(runner, views, message)

    def _handle(self, runner: Runner, views: Views, message: Any) -> None:
        started_s = time.perf_counter()
        wanted = self._views.wanted()
        try:
            check_origin(self._origin, runner)
            tokens = tokens_from_image(message, runner)
            unpack_ms = (time.perf_counter() - started_s) * 1e3
            if not (wanted.turn or wanted.camera):
                self._not_watched += 1
                return
            rendered, stage_ms = views.render(tokens, wanted)
        except RefusedTokensError as error:
            self._refuse(error)
        except Exception as error:
            self._statistics.dropped(DropReason.FAILED)
            if isinstance(error, GpuError):
                self.get_logger().error(str(error))
                raise
            self.get_logger().error(f"tokens dropped, the model failed on them: {traceback.format_exc()}", throttle_duration_sec=_WARN_EVERY_S)
        else:
            self._views.publish(rendered, message.header)
            stage_ms |= {"unpack": unpack_ms, "total": (time.perf_counter() - started_s) * 1e3}
            self._statistics.processed(FrameRecord(stamp_ns(message.header), 0, 0, 0, stage_ms))

    def _refuse(self, error: RefusedTokensError) -> None:
        self._refusal_text = str(error)
        self._refused[error.reason] += 1
        self.get_logger().warning(f"tokens refused: {error}", throttle_duration_sec=_WARN_EVERY_S)


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    run_model_node("detokenizer", lambda: DetokenizerNode(open_model), args)


if __name__ == "__main__":
    main()
