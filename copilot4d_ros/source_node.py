# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What both sources of clouds are: a lifecycle node that starts itself.

What goes in: what a source opens and how it plays. What comes out: the states, and one thread that plays.
Unusual: playing has a thread of its own, because reading a cloud takes tens of milliseconds and waiting for the next one
longer; in a timer of the node both would hold up its services.
"""

from __future__ import annotations

import abc
import traceback
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.lifecycle import TransitionCallbackReturn

from copilot4d_ros.managed_node import ManagedNode
from copilot4d_ros.play_thread import PlayThread


class SourceNode(ManagedNode):
    """`configure` opens and advertises; `activate` plays or goes on; `deactivate` pauses; `cleanup` closes."""

    def __init__(self, name: str) -> None:
        """Declare `autostart`; a source declares its other parameters."""
        super().__init__(name)
        self.autostart = bool(self.declared("autostart", True, "Configure and activate at the start; else wait for a lifecycle manager."))
        self.failure: str | None = None
        self._thread: PlayThread | None = None
        self._advertised: list[Any] = []

    @abc.abstractmethod
    def _open(self) -> list[Any]:
        """Open what is played and advertise it; returns the publishers.

        Raises:
            ValueError, OSError: it cannot be had.
        """

    @abc.abstractmethod
    def _play(self, thread: PlayThread) -> None:
        """Publish; runs in the thread, and ends the process when it returns."""

    def declared(self, name: str, default: Any, description: str, **bounds: Any) -> Any:
        """Declare a parameter that is fixed at the start.

        Returns:
            Its value.
        Raises:
            rclpy.exceptions.ParameterException: the value is out of its range or has another type.
        """
        return self.declare_parameter(name, default, ParameterDescriptor(description=description, read_only=True, **bounds)).value

    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Open and advertise; fails with the reason in the log and in `failure`."""
        self.failure = None
        try:
            self._advertised = self._open()
        except (ValueError, OSError) as error:
            self.failure = str(error)
            self.get_logger().error(self.failure)
            return TransitionCallbackReturn.FAILURE
        self._thread = PlayThread(self._play, self._ended)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Play from the start, or go on after a pause."""
        assert self._thread is not None
        self._thread.resume()
        return super().on_activate(state)

    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Pause; nothing is published any more when this returns."""
        assert self._thread is not None
        self._thread.pause()
        return super().on_deactivate(state)

    def start(self) -> bool:
        """Start by itself unless `autostart` is false; whether there is something to spin for."""
        return not self.autostart or (self.succeeds(self.trigger_configure) and self.succeeds(self.trigger_activate))

    def release(self) -> bool:
        """End the thread and withdraw the topics.

        Returns:
            Whether the thread ended in time.
        """
        ended = self._thread is None or self._thread.close()
        self._thread = None
        for publisher in self._advertised:
            self.destroy_publisher(publisher)
        self._advertised = []
        return ended

    def _ended(self, error: Exception | None) -> None:
        """The end of playing is that of the process."""
        if error is not None and self.context.ok():  # Otherwise the context closed under a publish call: an exit, not a fault.
            expected = isinstance(error, (ValueError, OSError))
            self.failure = str(error) if expected else "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.context.try_shutdown()
