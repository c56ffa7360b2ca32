# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a lifecycle manager does, for the tests of every lifecycle node: asks for transitions and reads the state."""

from __future__ import annotations

import time
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

DEADLINE_S = 60.0
ASK_AGAIN_S = 2.0


class Manager:
    """Manager of the node `target`, asking through a node of ours."""

    def __init__(self, node: Any, target: str) -> None:
        self.node = node
        self._change = node.create_client(ChangeState, f"{target}/change_state")
        self._get = node.create_client(GetState, f"{target}/get_state")
        assert self._change.wait_for_service(DEADLINE_S) and self._get.wait_for_service(DEADLINE_S)
        # A server that has not found our readers yet drops its answer. The state may be asked for twice; when it comes, the reader of the other
        # service is known, too, for readers are made known in the order in which they were made.
        deadline = time.monotonic() + DEADLINE_S
        while not self._answer(self._get, GetState.Request(), ASK_AGAIN_S):
            assert time.monotonic() < deadline, f"{self._get.srv_name}: no answer within {DEADLINE_S} s"

    def __call__(self, transition: int) -> bool:
        answer = self._ask(self._change, ChangeState.Request(transition=Transition(id=transition)))
        return bool(answer.success)

    def state(self) -> str:
        return str(self._ask(self._get, GetState.Request()).current_state.label)

    def _ask(self, service: Any, request: Any) -> Any:
        answer = self._answer(service, request, DEADLINE_S)
        assert answer, f"{service.srv_name}: no answer within {DEADLINE_S} s"
        return answer

    def _answer(self, service: Any, request: Any, seconds: float) -> Any:
        """The answer, or None if it does not come in time."""
        future = service.call_async(request)
        deadline = time.monotonic() + seconds
        while not future.done() and time.monotonic() < deadline:
            rclpy.spin_once(self.node, timeout_sec=0.05)
        return future.result() if future.done() else None
