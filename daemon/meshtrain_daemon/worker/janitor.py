"""Clears up after attempts, in a thread of its own.

A removal waits for the file system's journal, which the event loop must not.
The folders of jobs that left nothing are kept to be used again: ext4 looks at
every inode that was freed in the last seconds before it gives one out (its
`recently_deleted`), which took a third of both cores at 600 jobs a second.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from meshtrain_daemon.worker.attempt_folder import AttemptFolder

GATHER_S = 0.02
"""What comes within this time is cleared up in one go: waking a thread costs more than that."""
SPARES_MAX = 64


class Janitor:
    """Takes the folders of attempts that are over; `close` waits until all are gone."""

    def __init__(self, gather_s: float = GATHER_S) -> None:
        self._gather_s = gather_s
        self._folders: deque[AttemptFolder] = deque()
        self._spares: deque[AttemptFolder] = deque()
        self._thread = ThreadPoolExecutor(1, "janitor")
        self._asked = False

    def clear(self, folder: AttemptFolder) -> None:
        """Have a folder removed, or kept as a spare; returns at once."""
        self._folders.append(folder)
        if not self._asked:
            self._asked = True
            self._thread.submit(self._work)

    def spare(self) -> str | None:
        """The path of a folder that may be used again, if there is one."""
        try:
            return self._spares.popleft().path
        except IndexError:
            return None

    def close(self) -> None:
        """Remove all that is left, and end the thread."""
        self._thread.shutdown()
        for folder in (*self._folders, *self._spares):
            folder.remove()

    def _work(self) -> None:
        time.sleep(self._gather_s)
        # Whoever comes from here on asks anew, so that nobody is overlooked.
        self._asked = False
        while self._folders:
            folder = self._folders.popleft()
            if len(self._spares) < SPARES_MAX and folder.is_spare():
                self._spares.append(folder)
            else:
                folder.remove()
