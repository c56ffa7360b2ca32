# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The node `detokenizer`: token grids, received or replayed, become depth images and clouds.

A lifecycle node that starts itself unless `autostart` is false. Grids come as images on `~/input/tokens`, or compressed on
`~/input/tokens/compressed`. Unusual: it decodes no image before `~/input/model_info` has named the loaded model as the one that
made the tokens; compressed grids name it themselves. The record is heard on two subscriptions: a latched one gets what was
published before, but only from a latched publisher; a player that replays it volatile is heard by the other. A grid that is
not decoded is counted with its reason, never lost in silence.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from copilot4d_core.deploy.gpu_session import GpuError
from copilot4d_core.deploy.open_runner import open_runner
from copilot4d_core.deploy.runner import Runner, TokenArray
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.launch import keep_compiled_kernels
from copilot4d_ros import qos
from copilot4d_ros.frame_statistics import DropReason, FrameRecord, Snapshot
from copilot4d_ros.health import Finding, Kind
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.model_node import WARN_EVERY_S, ModelNode, OpenRunner
from copilot4d_ros.node_process import run_node
from copilot4d_ros.parameters import DetokenizerParameters
from copilot4d_ros.token_messages import (
    UNKNOWN_ORIGIN,
    RefusedTokensError,
    TokenRefusal,
    check_origin,
    origin_from_json,
    tokens_from_compressed,
    tokens_from_image,
)
from copilot4d_ros.view_topics import ViewTopics
from copilot4d_ros.views import Views

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble keeps it here.
    from rclpy.qos_event import SubscriptionEventCallbacks

INPUTS = {"~/input/tokens": Image, "~/input/tokens/compressed": CompressedImage}
_FOLLOW_EVERY_S = 0.2
"""How soon the subscription takes the reliability of a new publisher."""


class DetokenizerNode(ModelNode[DetokenizerParameters]):
    """Tokens and the record of their model in; depth and points out, while somebody subscribes."""

    INPUT = "tokens"

    def __init__(self, open_model: OpenRunner = open_runner) -> None:
        """Also listen to the record of the tokens, in every state; see `ModelNode`."""
        self._refused = dict.fromkeys(TokenRefusal, 0)
        self._not_watched = 0
        self._refusal_text = ""
        self._origin, self._info_text = UNKNOWN_ORIGIN, ""
        self._reliability: dict[str, str] = {}
        self._refused_reported = dict(self._refused)
        super().__init__("detokenizer", DetokenizerParameters, open_model)
        # A record that is replayed volatile while the model loads must not be missed. The latched subscription hears no volatile
        # publisher; a warning about that would be false, because the other one does.
        self.create_subscription(String, "~/input/model_info", self._receive_info, qos.VOLATILE)
        self.create_subscription(String, "~/input/model_info", self._receive_info, qos.LATCHED,
                                 event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))
        self.create_timer(_FOLLOW_EVERY_S, self._follow_publishers, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _advertise(self) -> list[Any]:
        return []

    def _subscribe(self) -> list[Any]:
        self._reliability = {topic: self._fitting_reliability(topic) for topic in INPUTS}
        return [qos.subscription(self, kind, topic, self._receive, qos.input_qos(self._reliability[topic]), self._lost, self._mismatch)
                for topic, kind in INPUTS.items()]

    def _mismatch(self, topic: str) -> None:
        # With auto a publisher that does not match is followed, so a warning would be false.
        if self.parameters.input_qos != "auto":
            self._reporter.input_mismatch(topic)

    def _fitting_reliability(self, topic: str) -> str:
        """As the parameter says; with `auto` reliable, unless a publisher is best effort, which a reliable subscription never hears."""
        if self.parameters.input_qos != "auto":
            return self.parameters.input_qos
        offered = (p.qos_profile.reliability for p in self.get_publishers_info_by_topic(topic))
        return "best_effort" if ReliabilityPolicy.BEST_EFFORT in offered else "reliable"

    def _follow_publishers(self) -> None:
        if self._inputs and {topic: self._fitting_reliability(topic) for topic in INPUTS} != self._reliability:
            self._unsubscribe()
            self._inputs = self._subscribe()
            self.get_logger().info(f"tokens are taken as their publishers offer them: {self._reliability}")

    def _receive_info(self, message: Any) -> None:
        if message.data == self._info_text:
            return  # A latched publisher is heard on both subscriptions.
        self._info_text, self._origin = message.data, origin_from_json(message.data)
        if self._origin.model_id:
            self.get_logger().info(f"the tokens are those of model {self._origin.model_id}")
        else:
            self.get_logger().warning(self._origin.obstacle)

    def _values(self) -> dict[str, str]:
        values = {f"dropped_{reason.value}": str(count) for reason, count in self._refused.items()}
        return values | {"not_watched": str(self._not_watched), "tokens_model_id": self._origin.model_id, "last_refusal": self._refusal_text}

    def _findings(self, now: Snapshot) -> list[Finding]:
        refused, before = dict(self._refused), self._refused_reported
        self._refused_reported = refused
        if refused == before:
            return []
        return [Finding("refused", DiagnosticStatus.WARN, f"tokens refused: {self._refusal_text}", Kind.EVENT)]

    def _prepare(self, runner: Runner, topics: ViewTopics) -> Callable[[Any], None]:
        views, (rows, columns) = Views(runner, self.parameters.depth.pattern), Grid(runner.config).tokens_HW
        views.warm_up(np.zeros((rows, columns), dtype=np.uint16))
        keep_compiled_kernels()
        self._model_id, self._runner_text = runner.model_id, runner.backend
        self.get_logger().info(f"model {runner.model_id}: decodes {rows} x {columns} tokens of its own")
        return lambda message: self._handle(runner, views, topics, message)

    def _handle(self, runner: Runner, views: Views, topics: ViewTopics, message: Any) -> None:
        started_s = time.perf_counter()
        wanted = topics.wanted(message.header.frame_id)
        try:
            tokens = self._tokens(message, runner)
            unpack_ms = (time.perf_counter() - started_s) * 1e3
            if wanted.nothing:
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
            self.get_logger().error(f"tokens dropped, the model failed on them: {traceback.format_exc()}", throttle_duration_sec=WARN_EVERY_S)
        else:
            topics.publish(rendered, wanted, message.header)
            stage_ms |= {"unpack": unpack_ms, "total": (time.perf_counter() - started_s) * 1e3}
            self._statistics.processed(FrameRecord(stamp_ns(message.header), 0, 0, 0, 0, stage_ms))

    def _tokens(self, message: Any, runner: Runner) -> TokenArray:
        if isinstance(message, CompressedImage):
            return tokens_from_compressed(message, runner)  # the bytes themselves say which model made them
        check_origin(self._origin, runner)
        return tokens_from_image(message, runner)

    def _refuse(self, error: RefusedTokensError) -> None:
        self._refusal_text = str(error)
        self._refused[error.reason] += 1
        self.get_logger().warning(f"tokens refused: {error}", throttle_duration_sec=WARN_EVERY_S)


def main(args: Sequence[str] | None = None, open_model: OpenRunner = open_runner) -> None:
    """Run the node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    run_node("detokenizer", lambda: DetokenizerNode(open_model), args)


if __name__ == "__main__":
    main()
