# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What every lifecycle node of the package shares: how it starts itself, how it ends, and that no wrong request ends it.

Unusual: rclpy before Kilted lets the error of a transition that is not there out of the service, and with it the node ends.
The state machine itself stays as it was, so the answer is simply no.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class ManagedNode(LifecycleNode, abc.ABC):
    """A lifecycle node whose `cleanup` and `shutdown` give everything back."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        service = self._service_change_state
        answer = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return answer(request, response)
            except RuntimeError as error:
                self.get_logger().error(f"transition {request.transition.id} refused in this state: {error}")
                response.success = False
                return response

        service.callback = guarded

    @abc.abstractmethod
    def release(self) -> bool:
        """Give everything back; whether the node's threads ended in time."""

    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Give everything back; it can be had again."""
        return TransitionCallbackReturn.SUCCESS if self.release() else TransitionCallbackReturn.ERROR

    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """As cleanup."""
        return self.on_cleanup(state)

    def succeeds(self, trigger: Callable[[], TransitionCallbackReturn]) -> bool:
        """Whether a transition that the node asks of itself succeeds; no when the context closes under it, which is an exit."""
        try:
            return bool(trigger() == TransitionCallbackReturn.SUCCESS)
        except RuntimeError:
            if self.context.ok():
                raise
            return False
