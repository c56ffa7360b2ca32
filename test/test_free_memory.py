# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What threads freed goes back to the system, and a node that was cleaned up holds no model."""

from __future__ import annotations

import threading
from pathlib import Path

from copilot4d_ros.free_memory import return_free_memory

PAGE_BYTES = 4096


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_what_another_thread_freed_below_what_it_kept_is_returned() -> None:
    kept = []

    def work() -> None:
        blocks = [b"x" * (64_000 + number % 2) for number in range(1600)]  # below glibc's threshold for blocks of their own
        kept.append(b"x" * len(blocks[0]))  # lies above them, so that freeing alone gives nothing back
        blocks.clear()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = resident_bytes()
    return_free_memory()
    assert before - resident_bytes() > 50_000_000
