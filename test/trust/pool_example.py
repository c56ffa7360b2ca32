# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A worker that answers, crashes or hangs as it is told, for the test of the pool."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from trust.pool import Task, serve


def handle(task: Task) -> dict[str, Any]:
    """Do as told."""
    if task["do"] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if task["do"] == "hang":
        time.sleep(60.0)
    return {"done": task["do"]}


if __name__ == "__main__":
    serve(handle)
