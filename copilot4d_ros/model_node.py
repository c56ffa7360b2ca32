"""What both nodes with a model are: a lifecycle node that starts itself, and how its process begins and ends.

What goes in: what a node advertises, subscribes and does with a message. What comes out: the states, one worker, an exit code.
Unusual: `configure` blocks while the model loads, so the node reports on /diagnostics from inside that wait.
"""

from __future__ import annotations

import abc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]  # the only place that all distributions have
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from copilot4d_core.deploy.runner import Runner
from copilot4d_ros import qos
from copilot4d_ros.diagnostics import NodeState
from copilot4d_ros.frame_statistics import DropReason, FrameStatistics
from copilot4d_ros.model_worker import ModelWorker
from copilot4d_ros.parameters import declare_parameters

OpenRunner = Callable[..., Runner]
"""As `open_runner`."""

_LOOK_EVERY_S = 0.05
"""How soon a wait for the model sees that the node is to end."""


class ModelNode(LifecycleNode, abc.ABC):
    """`configure` loads the model, warms it up and advertises; `activate` subscribes; `cleanup` gives the model back."""

    def __init__(self, name: str, open_model: OpenRunner) -> None:
        """Declare the parameters and report on /diagnostics, in every state.

        Raises:
            ValueError, rclpy.exceptions.ParameterException: a parameter has a value that is not allowed.
        """
        super().__init__(name)
        self.settings = declare_parameters(self)
        self.failure: str | None = None
        self._open_model = open_model
        self._statistics = FrameStatistics()
        self._worker: ModelWorker[Any] | None = None
        self._advertised: list[Any] = []
        self._subscription: Any = None
        self._model_id: str | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        # Wall time: with use_sim_time the node's clock stands still when the bag ends.
        self.create_timer(self.settings.diagnostics_period_s, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @abc.abstractmethod
    def _advertise(self) -> list[Any]:
        """Make the publishers of the outputs, and return all of them."""

    @abc.abstractmethod
    def _subscribe(self) -> Any:
        """Make the subscription of the input."""

    @abc.abstractmethod
    def _prepare(self, runner: Runner) -> Callable[[Any], None]:
        """Warm a fresh runner up; returns what handles a message with it. Runs in the worker."""

    @abc.abstractmethod
    def _report(self) -> None:
        """Publish on /diagnostics."""

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model and warm it up; fails with the reason in the log and in `failure`."""
        settings, log = self.settings, self.get_logger()
        self._advertised = self._advertise()
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
        """Subscribe; from here on every message becomes an output or a count."""
        self._subscription = self._subscribe()
        self.get_logger().info(f"waiting for messages on {self._subscription.topic_name}")
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
        self._worker = None
        for publisher in self._advertised:
            self.destroy_publisher(publisher)
        self._advertised = []
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

    def _receive(self, message: Any) -> None:
        self._statistics.received()
        if self._worker is not None and self._worker.put(message) is not None:
            self._statistics.dropped(DropReason.REPLACED)

    def _state(self) -> NodeState:
        if self._subscription is not None:
            return NodeState.RUNNING
        if self._worker is not None:
            return NodeState.INACTIVE if self._model_id else NodeState.LOADING
        return NodeState.UNCONFIGURED


def run_model_node(name: str, make: Callable[[], ModelNode], args: Sequence[str] | None) -> None:
    """Run a node until SIGINT or SIGTERM; leaves the process with 0, or 1 after a refusal that was printed."""
    # rclpy's own handler ends the spin; Python's would throw KeyboardInterrupt into whatever runs then.
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init(args=None if args is None else list(args))
    try:
        node = make()
    except (ValueError, ParameterException) as error:
        rclpy.try_shutdown()
        sys.exit(f"{name}: {error}")
    if _start(node):
        try:
            rclpy.spin(node)
        except Exception:
            if rclpy.ok():
                raise
            # The context closed, perhaps under a publish call: an exit, not a fault.
    ended = node.release()
    if node.failure:
        print(f"{name}: {node.failure}", file=sys.stderr)
    code = 1 if node.failure else 0
    if not ended:
        # A thread inside native code cannot be stopped, and tearing the interpreter down around it crashes.
        sys.stderr.flush()
        os._exit(code)
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)


def _start(node: ModelNode) -> bool:
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
