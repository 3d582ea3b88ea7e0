"""Talks to the master as commands do, in a thread, so that the screen never waits."""

from __future__ import annotations

import asyncio

from meshtrain.errors import UserError
from meshtrain.net.curve import ClientSecurity
from meshtrain.net.zmq_client import MasterClient
from meshtrain.wire.messages import Answer, Done, FromPerson

TIMEOUT_S = 5.0


class MasterLine:
    """Asks one master.

    Args:
        address: HOST:PORT of its control socket.
        security: the keys of the person who asks.
    """

    def __init__(self, address: str, security: ClientSecurity | None = None) -> None:
        self._address = address
        self._security = security

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The answer to one message, within `timeout_s` seconds (5 when None).

        Raises MasterAwayError when none comes, UserError with the master's words when
        it says no, ProtocolError when it makes no sense.
        """
        answer = await asyncio.to_thread(self._ask, message, timeout_s or TIMEOUT_S)
        if answer.error:
            raise UserError(answer.error)
        return answer

    def _ask(self, message: FromPerson, timeout_s: float) -> Done | Answer:
        with MasterClient(self._address, timeout_s, security=self._security) as client:
            return client.request(message)
