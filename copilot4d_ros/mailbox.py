# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A mailbox with one slot: whoever is slow gets the newest message and never a queue of old ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One slot between threads; iterating waits for the next item and ends when the mailbox is closed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> T | None:
        """Leave an item for the reader.

        Returns:
            The older item that nobody had read and that is lost now, or None.
        Raises:
            RuntimeError: the mailbox is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("mailbox: closed, no item can be left any more")
            replaced, self._item = self._item, item
            self._changed.notify()
            return replaced

    def close(self) -> None:
        """End the reader's loop; an item that was not read yet is given up."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._item is not None)
                if self._closed or self._item is None:
                    return
                item, self._item = self._item, None
            yield item
