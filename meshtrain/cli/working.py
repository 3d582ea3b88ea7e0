"""What a long command is at, shown on a terminal while it lasts: a bar, or a sign that it works.

It goes to stderr and leaves nothing behind. Where stderr is no terminal, nothing is
shown: the result alone goes to whoever reads it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY_S = 0.3
"""What is done by then is not worth a bar."""


class Step:
    """One thing that takes its time; may be told of from any thread."""

    def __init__(self, title: str, progress: Progress | None = None) -> None:
        self._title = title
        self._progress = progress
        self._task = None if progress is None else progress.add_task(title, total=None)

    def says(self, title: str, total_bytes: int | None = None) -> None:
        """What is done now, and how many bytes of it there are; the bar begins anew."""
        self._title = title
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(title, total=total_bytes or None)

    def advance(self, size_bytes: int) -> None:
        """So many more bytes are done."""
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, size_bytes)

    def reached(self, done_bytes: int, total_bytes: int) -> None:
        """So many bytes are done by now, of so many; 0 where that isn't known yet."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done_bytes, total=total_bytes or None)


@contextmanager
def working(title: str) -> Iterator[Step]:
    """Show that something is worked at, until it is done.

    Args:
        title: what it is, such as `sending data/pascal5i`.
    """
    if not shows_progress():
        yield Step(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Amount(DownloadColumn):
        """Bytes where there are any to count."""

        def render(self, task):  # type: ignore[no-untyped-def]
            return super().render(task) if task.total or task.completed else Text()

    class Speed(TransferSpeedColumn):
        """Nothing where no bytes have gone yet."""

        def render(self, task):  # type: ignore[no-untyped-def]
            return super().render(task) if task.finished_speed or task.speed else Text()

    class Time(TimeRemainingColumn):
        """What is left where that can be known, else what it has taken."""

        def render(self, task):  # type: ignore[no-untyped-def]
            if task.total is None:
                return TimeElapsedColumn().render(task)
            return super().render(task) + Text(" left")

    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        Amount(),
        Speed(),
        Time(),
        console=Console(stderr=True),
        transient=True,
    )
    step = Step(title, progress)
    begin = threading.Timer(DELAY_S, progress.start)
    begin.daemon = True
    begin.start()
    try:
        yield step
    finally:
        begin.cancel()
        begin.join()
        if progress.live.is_started:
            progress.stop()


def shows_progress() -> bool:
    """Whether stderr is a terminal that can draw in place."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
