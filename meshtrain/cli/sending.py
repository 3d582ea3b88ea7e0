"""How an upload goes on, as a bar: first all is hashed, then what the other side lacks is sent."""

from __future__ import annotations

from meshtrain.cli.working import Step


class Sending:
    """Takes the steps of an upload to a bar; an artifacts.upload.UploadSteps.

    Args:
        step: the bar.
        what: what is sent, as the bar calls it.
        size_bytes: of all of it, where that is known.
    """

    def __init__(self, step: Step, what: str, size_bytes: int | None = None) -> None:
        self._step = step
        self._what = what
        step.says(f"hashing {what}", size_bytes)

    def hashed(self, size_bytes: int) -> None:
        self._step.advance(size_bytes)

    def lacks(self, size_bytes: int) -> None:
        self._step.says(f"sending {self._what}", size_bytes)

    def sent(self, size_bytes: int) -> None:
        self._step.advance(size_bytes)
