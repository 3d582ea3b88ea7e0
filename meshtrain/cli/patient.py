"""A line to the master that outlasts its restarts: what only asks, asks again when it is back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from meshtrain.cli.context import Cli, Link
from meshtrain.cli.output import tell
from meshtrain.net.base import MasterAwayError, NotAdmittedError
from meshtrain.wire.messages import Answer, Done, FromPerson

RETRY_MIN_S = 0.25
RETRY_MAX_S = 4.0


class PatientLink:
    """Asks until there is an answer, once the master has answered at all.

    A first question that nobody answers fails as it does elsewhere: the address may
    be wrong. Later ones wait for as long as it takes, and say so once. Each try
    looks anew where the master is, since another start may listen elsewhere. Only
    for questions: what acts might be carried out twice.

    Args:
        say: takes what is told about the master.
    """

    def __init__(self, cli: Cli, say: Callable[[str], None] = tell) -> None:
        self._cli = cli
        self._say = say
        self._link: Link | None = None
        self._was_there = False

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The answer, however long the master is away.

        Raises MasterAwayError when it has never answered, NotAdmittedError when it
        doesn't admit our keys.
        """
        pause_s = RETRY_MIN_S
        told = False
        while True:
            try:
                answer = self._open().request(message, timeout_s)
            except NotAdmittedError:
                raise
            except MasterAwayError:
                if not self._was_there:
                    raise
                if not told:
                    self._say(
                        f"— the master at {self._cli.address} doesn't answer: waiting for it —"
                    )
                    told = True
                self.close()
                self._cli.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
                continue
            self._was_there = True
            if told:
                self._say("— the master is back —")
            return answer

    def _open(self) -> Link:
        if self._link is None:
            self._link = self._cli.link().__enter__()
        return self._link

    def close(self) -> None:
        """Let go of the line; harmless when done."""
        link, self._link = self._link, None
        if link is not None:
            link.__exit__(None, None, None)
