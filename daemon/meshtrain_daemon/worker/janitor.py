"""Removes attempts' folders in a thread of its own.

A removal waits for the file system's journal, which the event loop must not.
What comes within a moment is removed in one go: a thread's start and its fight
for the interpreter cost more than a removal.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from meshtrain_daemon.worker.attempt_folder import AttemptFolder

GATHER_S = 0.1


class Janitor:
    """Takes folders to be removed; `close` waits until all are."""

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._folders: deque[AttemptFolder] = deque()
        self._thread = ThreadPoolExecutor(1, "janitor")
        self._asked = False

    def remove(self, folder: AttemptFolder) -> None:
        """Have a folder removed soon; returns at once."""
        self._folders.append(folder)
        if not self._asked:
            self._asked = True
            self._thread.submit(self._clear)

    def close(self) -> None:
        """Remove what is left, and end the thread."""
        self._thread.shutdown()
        self._remove_all()

    def _clear(self) -> None:
        time.sleep(self._gather_s)
        # Whoever comes from here on asks anew, so that nobody is overlooked.
        self._asked = False
        self._remove_all()

    def _remove_all(self) -> None:
        while self._folders:
            self._folders.popleft().remove()
