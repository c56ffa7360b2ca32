# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The mailbox keeps the newest item and tells what it lost."""

from __future__ import annotations

import threading
import time

import pytest

from copilot4d_ros.mailbox import Mailbox


def test_the_newest_item_wins_and_the_lost_one_is_handed_back() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(i) for i in (1, 2, 3)] == [None, 1, 2]
    assert next(iter(mailbox)) == 3
    assert mailbox.put(4) is None


def test_closing_ends_a_waiting_reader_and_refuses_writers() -> None:
    mailbox: Mailbox[int] = Mailbox()
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(mailbox))
    reader.start()
    mailbox.close()
    reader.join(5.0)
    assert not reader.is_alive() and read == []
    with pytest.raises(RuntimeError, match="closed"):
        mailbox.put(1)


def test_every_item_is_either_read_or_handed_back() -> None:
    mailbox: Mailbox[int] = Mailbox()
    read: list[int] = []
    reader = threading.Thread(target=lambda: read.extend(iter(mailbox)))
    reader.start()
    replaced = [old for i in range(2000) if (old := mailbox.put(i)) is not None]
    deadline = time.monotonic() + 10.0
    while not (read and read[-1] == 1999):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mailbox.close()
    reader.join(5.0)
    assert sorted(read + replaced) == list(range(2000))
    assert read == sorted(read)
