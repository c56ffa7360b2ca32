# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Environment that lets Fast DDS carry large clouds without loss; see config/fastdds_large_data.xml for the reason."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_FAST_DDS_2 = ("humble", "iron", "jazzy")
"""Distributions whose Fast DDS reads the old variable; newer ones warn about it."""


def profile_path() -> Path:
    """The transport profile: in a checkout under config/, installed under share/copilot4d_ros/config.

    Raises:
        FileNotFoundError: at none of the places; the package was copied without its data files.
    """
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [Path(sys.prefix)]
    places = [Path(__file__).parents[1] / "config"] + [p / "share" / "copilot4d_ros" / "config" for p in prefixes]
    for place in places:
        if (path := place / "fastdds_large_data.xml").is_file():
            return path
    raise FileNotFoundError(f"fastdds_large_data.xml: expected in one of {', '.join(map(str, places))}; install the package anew")


def large_data_environment() -> dict[str, str]:
    """Variables to set for every process that publishes or reads large clouds; values that are already set win."""
    names = ["FASTDDS_DEFAULT_PROFILES_FILE"]
    if os.environ.get("ROS_DISTRO", "") in _FAST_DDS_2:
        names.append("FASTRTPS_DEFAULT_PROFILES_FILE")
    return {name: os.environ.get(name, str(profile_path())) for name in names}
