# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Memory that nothing uses goes back to the system.

Unusual: glibc keeps what a thread freed for the next thread that gets the same arena, of which there are eight a core. A model is opened by a new
thread each time, so a node that is configured again and again would come to hold the peak of a start in every arena.
"""

from __future__ import annotations

import ctypes
import sys


def return_free_memory() -> None:
    """Give free pages of all arenas back; does nothing on systems other than Linux with glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
