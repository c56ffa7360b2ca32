# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Qualities of service of every topic, and what the middleware says of lost messages and of peers that do not match.

Unusual: overrides from parameters (`qos_overrides.*`) are written into the profile that is handed over, so a copy is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble keeps them here.
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks, UnsupportedEventTypeError

OUTPUT = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PLAYBACK = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)

_INPUT_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)
"""Reliability is for the parameter `input_qos`."""


def input_qos(name: str) -> QoSProfile:
    """Subscription of the newest message: `reliable`, or best effort for `auto` and `best_effort`."""
    reliable = name == "reliable"
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)


def publisher(node: Node, kind: Any, topic: str, profile: QoSProfile, mismatch: Callable[[str], None]) -> Any:
    """Publisher whose quality of service parameters may override.

    Args:
        mismatch: told the topic when a subscriber asks for more than is offered, so that nothing reaches it.
    """
    events = PublisherEventCallbacks(incompatible_qos=lambda event: mismatch(topic))
    return node.create_publisher(kind, topic, copy.copy(profile), event_callbacks=events,
                                 qos_overriding_options=QoSOverridingOptions.with_default_policies())


def subscription(node: Node, kind: Any, topic: str, receive: Callable[[Any], None], profile: QoSProfile, lost: Callable[[int], None],
                 mismatch: Callable[[str], None]) -> Any:
    """Subscription whose depth parameters may override.

    Args:
        lost: told how many more messages the middleware has lost, where it says so.
        mismatch: told the topic when a publisher offers less than is asked for, so that nothing comes from it.
    """
    def made(**events: Any) -> Any:
        callbacks = SubscriptionEventCallbacks(incompatible_qos=lambda event: mismatch(topic), **events)
        return node.create_subscription(kind, topic, receive, copy.copy(profile), event_callbacks=callbacks,
                                        qos_overriding_options=QoSOverridingOptions(_INPUT_POLICIES))

    try:
        return made(message_lost=lambda event: lost(int(event.total_count_change)))
    except UnsupportedEventTypeError:  # This middleware does not report what it loses.
        return made()
