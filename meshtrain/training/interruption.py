"""SIGTERM as a wish: the training sees it between two steps, and ends in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from meshtrain.errors import MeshtrainError


class Interrupted(MeshtrainError):  # noqa: N818
    """Raised when a training was asked to end before it was done; it can go on elsewhere."""


class Interruption:
    """Whether the training was asked to end."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """Asks; the training ends after the step that it is in."""
        self.asked = True


@contextmanager
def noting_sigterm() -> Iterator[Interruption]:
    """Notes SIGTERM for as long as it lasts, instead of dying of it.

    Only a process's main thread can; elsewhere SIGTERM keeps its effect.
    """
    noted = Interruption()

    def note(number: int, frame: FrameType | None) -> None:
        noted.ask()

    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    former = signal.signal(signal.SIGTERM, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGTERM, former)
