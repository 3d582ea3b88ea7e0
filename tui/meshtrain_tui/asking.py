"""Asks the master for the rows that a screen of one thing shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from meshtrain.errors import ProtocolError, UserError
from meshtrain.ids import new_id
from meshtrain.wire.messages import Answer, Query
from meshtrain_tui.log.stream import Ask


def row_of(send: Callable[[Query], Awaitable[object]]) -> Ask:
    """Asks queries whose answer is one row.

    Args:
        send: hands a query to the master, and gives its answer; it raises MeshtrainError.
    """

    async def ask(
        what: str, names: tuple[str, ...], *, offset: int = 0, limit: int = 1
    ) -> dict[str, Any]:
        answer = await send(Query(new_id("request"), what, names, offset=offset, limit=limit))
        if not isinstance(answer, Answer):
            raise ProtocolError(
                f"the master answered the query {what} with {type(answer).__name__}: "
                "see that both sides run the same version"
            )
        if answer.error:
            raise UserError(answer.error)
        row = answer.rows[0] if answer.rows else None
        if not isinstance(row, dict):
            raise ProtocolError(
                f"the master's answer to the query {what} is empty: "
                "see that both sides run the same version"
            )
        return row

    return ask
