"""Jobs that wait for the test."""

from __future__ import annotations

from pathlib import Path


class Gate:
    """A file that a job waits for, so that the test says when the job goes on.

    Each start of the job adds a line to `starts`.
    """

    def __init__(self, folder: Path, name: str = "gate") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self._starts = folder / f"{name}.starts"

    @property
    def wait_command(self) -> str:
        """Shell words that note a start, and wait until the gate is open."""
        return f"echo $$ >> {self._starts}; while [ ! -e {self.path} ]; do sleep 0.05; done"

    @property
    def starts(self) -> int:
        """How often the job was started."""
        return len(self.pids)

    @property
    def pids(self) -> list[int]:
        """The process of each start."""
        try:
            return [int(line) for line in self._starts.read_text().split()]
        except FileNotFoundError:
            return []

    def open(self) -> None:
        self.path.touch()
