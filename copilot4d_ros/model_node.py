# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What both nodes with a model are: a lifecycle node that starts itself.

What goes in: what a node advertises, subscribes and does with a message. What comes out: the states, and one worker.
Unusual: `configure` blocks while the model loads, so the node reports on /diagnostics from inside that wait.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from copilot4d_core.deploy.runner import Runner
from copilot4d_ros.diagnostics import NodeState
from copilot4d_ros.frame_statistics import DropReason, FrameStatistics, Snapshot
from copilot4d_ros.free_memory import return_free_memory
from copilot4d_ros.health import Finding
from copilot4d_ros.managed_node import ManagedNode
from copilot4d_ros.messages import stamp_ns
from copilot4d_ros.model_worker import CLEANUP_S, EXIT_S, ModelWorker
from copilot4d_ros.parameter_table import changed, declare
from copilot4d_ros.parameters import CameraParameters, ModelParameters
from copilot4d_ros.reporter import Reporter, silence
from copilot4d_ros.view_topics import ViewTopics

OpenRunner = Callable[..., Runner]
"""As `open_runner`."""
P = TypeVar("P", bound=ModelParameters)

WARN_EVERY_S = 5.0
_LOOK_EVERY_S = 0.05
"""How soon a wait for the model sees that the node is to end."""


class ModelNode(ManagedNode, Generic[P]):
    """`configure` loads the model, warms it up and advertises; `activate` subscribes; `cleanup` gives the model back."""

    INPUT: str
    """What arrives, in the plural: the name of the status on /diagnostics."""

    def __init__(self, name: str, kind: type[P], open_model: OpenRunner) -> None:
        """Declare the parameters and report on /diagnostics, in every state.

        Raises:
            ValueError, rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__(name)
        self.parameters = declare(self, kind)
        """Those that hold at the moment; replaced as a whole when one changes."""
        self.cameras = {name: declare(self, CameraParameters, f"{name}.") for name in self.parameters.cameras}
        self.add_on_set_parameters_callback(self._change)
        self.failure: str | None = None
        self._open_model = open_model
        self._statistics, self._reporter = FrameStatistics(), Reporter(self, self.INPUT)
        self._worker: ModelWorker[Any] | None = None
        self._left: list[ModelWorker[Any]] = []
        """Workers that had not ended in time when they were given up."""
        self._advertised: list[Any] = []
        self._views: ViewTopics | None = None
        self._inputs: list[Any] = []
        self._is_active = False
        self._model_id, self._runner_text = "", ""
        back = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jumps = self.get_clock().create_jump_callback(back, post_callback=lambda jump: self._statistics.clock_jumped_back())
        # Wall time: with use_sim_time the node's clock stands still when the bag ends.
        self.create_timer(self.parameters.diagnostics.period_s, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @abc.abstractmethod
    def _advertise(self) -> list[Any]:
        """Make the publishers that this node has beside the views, and return them."""

    @abc.abstractmethod
    def _subscribe(self) -> list[Any]:
        """Subscribe to the inputs, the one that silence is told of first; to none while it is not known which topic that is."""

    @abc.abstractmethod
    def _prepare(self, runner: Runner, views: ViewTopics) -> Callable[[Any], None]:
        """Warm a fresh runner up; returns what handles a message with it and publishes. Runs in the worker."""

    @abc.abstractmethod
    def _values(self) -> dict[str, str]:
        """What this node reports beside what both report."""

    @abc.abstractmethod
    def _findings(self, now: Snapshot) -> list[Finding]:
        """What this node finds wrong beside what both find, while it runs."""

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails with the reason in the log and in `failure`."""
        values, log = self.parameters, self.get_logger()
        self.failure = None
        try:
            self._views = ViewTopics(self, lambda: self.parameters, lambda: self.cameras, self._reporter.output_mismatch)
        except ValueError as error:
            return self._give_up(str(error))
        self._advertised = self._advertise()

        def opened() -> Runner:
            return self._open_model(values.model, values.runner, values.int8, values.engine_folder, log.info)

        views = self._views
        self._worker = ModelWorker(opened, lambda runner: self._prepare(runner, views), log.warning, self._fail)
        if self._wait_for_model(self._worker):
            return_free_memory()
            return TransitionCallbackReturn.SUCCESS
        return self._give_up(self._worker.failure)

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Subscribe; from here on every message becomes an output or a count."""
        self._is_active = True
        self._reporter.start_over()
        self._inputs = self._subscribe()
        for subscription in self._inputs:
            self.get_logger().info(f"waiting for messages on {subscription.topic_name}")
        return super().on_activate(state)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Unsubscribe; the model stays loaded."""
        self._is_active = False
        self._unsubscribe()
        return super().on_deactivate(state)

    def start(self) -> bool:
        """Start by itself where that is asked for; False after a failed start, and if only building was asked for."""
        if not (self.parameters.autostart or self.parameters.build_only):
            return True
        if not self.succeeds(self.trigger_configure):
            return False
        if self.parameters.build_only:
            self.get_logger().info("engines and kernels are built (build_only)")
            return False
        return self.succeeds(self.trigger_activate)

    def release(self) -> bool:
        """Unsubscribe, end the worker, withdraw the topics, give the model's memory back to the system.

        Returns:
            Whether the worker ended in time, and those of earlier calls by now; if not, one still uses a model.
        """
        self._is_active = False
        self._unsubscribe()
        if self._worker is not None and not self._worker.close(CLEANUP_S if self.context.ok() else EXIT_S):
            self._left.append(self._worker)
        self._worker = None
        for publisher in self._advertised:
            self.destroy_publisher(publisher)
        if self._views is not None:
            self._views.withdraw()
        self._advertised, self._views = [], None
        self._model_id, self._runner_text = "", ""
        self._left = [worker for worker in self._left if not worker.ended]
        return_free_memory()
        return not self._left

    def _give_up(self, reason: str) -> TransitionCallbackReturn:
        self.failure = reason
        if reason:
            self.get_logger().error(reason)
        self.release()
        return TransitionCallbackReturn.FAILURE

    def _wait_for_model(self, worker: ModelWorker[Any]) -> bool:
        """Whether the model is ready in the end; reports meanwhile, because nothing else of the node runs."""
        reported_s = time.monotonic()
        while not worker.settled.wait(_LOOK_EVERY_S):
            if not self.context.ok():
                return False
            if time.monotonic() - reported_s >= self.parameters.diagnostics.period_s:
                reported_s = time.monotonic()
                self._report()
        return not worker.failure

    def _fail(self, reason: str) -> None:
        """The worker ended by an error: so does the node."""
        if self.context.ok():  # Otherwise the context closed under a publish call: an exit, not a fault.
            self.failure = reason
            self.context.try_shutdown()

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def _receive(self, message: Any) -> None:
        self._statistics.received(stamp_ns(message.header), self.get_clock().now().nanoseconds)
        if self._worker is not None and self._worker.put(message) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def _change(self, changes: Sequence[Parameter[Any]]) -> Any:
        """Answer to a request to change parameters; ROS has checked types, ranges and who may change."""
        try:
            parameters = changed(self.parameters, changes)
            cameras = {name: changed(camera, changes, f"{name}.") for name, camera in self.cameras.items()}
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.parameters, self.cameras = parameters, cameras
        return SetParametersResult(successful=True)

    def _report(self) -> None:
        now, state = self._statistics.snapshot(), self._state()
        findings = None
        if state is NodeState.RUNNING:
            findings = self._silence(now) + self._findings(now)
        about = {"state": state.value, "model_id": self._model_id, "runner": self._runner_text}
        values = self._values() | {"camera_poses_missing": str(self._views.poses.missing if self._views else 0)}
        self._reporter.publish(about, now, self.parameters.diagnostics, values, findings)

    def _silence(self, now: Snapshot) -> list[Finding]:
        if not self._inputs:
            return []
        topic = self._inputs[0].topic_name
        publishers = sum(self.count_publishers(subscription.topic_name) for subscription in self._inputs)
        return silence(now, self.INPUT, topic, publishers, self._elsewhere(topic), self.parameters.diagnostics.stale_s)

    def _elsewhere(self, topic: str) -> str:
        """Where the input may be instead of a silent topic, as the end of a sentence."""
        return ""

    def _lost(self, more: int) -> None:
        self._statistics.lost_in_transport(more)
        self._reporter.tell_loss(more)

    def _state(self) -> NodeState:
        if self._is_active:
            return NodeState.RUNNING
        if self._worker is not None:
            return NodeState.INACTIVE if self._model_id else NodeState.LOADING
        return NodeState.UNCONFIGURED
