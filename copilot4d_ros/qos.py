"""Qualities of service of every topic, and the middleware's report of lost messages where it gives one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble keeps them here.
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

__all__ = ["LATCHED", "OUTPUT", "PLAYBACK", "UnsupportedEventTypeError", "input_qos", "loss_callback"]

OUTPUT = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PLAYBACK = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


def input_qos(name: str) -> QoSProfile:
    """Subscription of the newest cloud: `reliable`, or best effort for `auto` and `best_effort`."""
    reliable = name == "reliable"
    return QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)


def loss_callback(report_total: Callable[[int], None]) -> Any:
    """Event callbacks that pass on how many messages the middleware has lost in all."""
    return SubscriptionEventCallbacks(message_lost=lambda event: report_total(int(event.total_count)))
