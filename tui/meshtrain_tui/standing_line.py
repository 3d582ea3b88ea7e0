"""Asks one master many questions over one link: opening one for each costs more than the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

from meshtrain.errors import MeshtrainError, UserError
from meshtrain.wire.messages import Answer, Done, FromPerson, Query

TIMEOUT_S = 5.0


class Client(Protocol):
    """What a MasterClient does here."""

    def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The answer to a message."""

    def close(self) -> None:
        """Let go of the link."""


class StandingLine:
    """A link that is opened at the first question, and anew after one that had no answer.

    Questions wait for one another, but for those that may take longer than others; what
    changes something waits for nobody. All are asked in threads, so that the screen never
    waits.

    Args:
        open_client: opens a link, such as a MasterClient; called in that thread.
        timeout_s: patience with one question.
    """

    def __init__(self, open_client: Callable[[], Client], *, timeout_s: float = TIMEOUT_S) -> None:
        self._open_client = open_client
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ask the master")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The answer to one message, within `timeout_s` seconds.

        Raises MasterAwayError when none comes, UserError with the master's words when
        it says no, ProtocolError when it makes no sense.
        """
        long = timeout_s is not None and timeout_s > self._timeout_s
        if long or not isinstance(message, Query):
            # What may take long has a link of its own: nobody is to wait behind it. So has what
            # changes something: behind questions that nobody answers it would be done at last
            # when somebody believes that it was not.
            patience_s = timeout_s or self._timeout_s
            answer = await asyncio.to_thread(self._ask_apart, message, patience_s)
        else:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._thread, self._ask, message, timeout_s)
        if answer.error:
            raise UserError(answer.error)
        return answer

    def close(self) -> None:
        """End the thread once it has asked what was begun; then let go of the link."""
        self._thread.submit(self._hang_up)
        self._thread.shutdown(wait=False)

    def _ask(self, message: FromPerson, timeout_s: float | None) -> Done | Answer:
        if self._client is None:
            self._client = self._open_client()
        try:
            return self._client.request(message, timeout_s or self._timeout_s)
        except MeshtrainError:
            # A late answer must not be taken for that to the next question.
            self._hang_up()
            raise

    def _ask_apart(self, message: FromPerson, timeout_s: float) -> Done | Answer:
        client = self._open_client()
        try:
            return client.request(message, timeout_s)
        finally:
            client.close()

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
