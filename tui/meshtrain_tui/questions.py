"""What is asked of a master beside its feed: whole answers, however many pages they have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from meshtrain.errors import ProtocolError, UserError
from meshtrain.ids import new_id
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.recording import Answered

PAGE_ROWS = 1000
PAGE_CELLS = 5000
ROWS_MAX = 200_000
"""Of one answer, all its pages together."""
RESULTS = "results"
"""The query whose one row has cells, and pages of those."""

Ask = Callable[[FromPerson], Awaitable[Done | Answer]]
"""Gives the answer to a message. Raises MeshtrainError when there is none, or it says no."""


async def whole_answer(ask: Ask, what: str, names: Sequence[str] = ()) -> Answered:
    """The answer to one of the master's queries, with all its pages.

    Raises what `ask` does, and UserError when it has more rows than a screen takes.
    """
    rows: list[Any] = []
    asked = tuple(names)
    count = 0
    while True:
        limit = PAGE_CELLS if what == RESULTS else PAGE_ROWS
        answer = await ask(Query(new_id("query"), what, asked, count, limit))
        if answer.error:
            raise UserError(answer.error)
        if not isinstance(answer, Answer):
            raise ProtocolError(f"the master answered the question {what} as if it were an act")
        came = len(answer.rows)
        if what == RESULTS and answer.rows:
            row = answer.rows[0]
            came = len(row["cells"])
            # A name may come to mean a newer sweep between two pages.
            asked = (row["sweep_id"],)
            if rows:
                rows[0] = {**rows[0], "cells": [*rows[0]["cells"], *row["cells"]]}
            else:
                rows.append(row)
        else:
            rows += answer.rows
        count += came
        if not came or count >= answer.total:
            return Answered(what, tuple(names), rows, answer.total)
        if count >= ROWS_MAX:
            raise UserError(
                f"the answer to {what} has {answer.total:,} rows, and a screen takes "
                f"{ROWS_MAX:,}: use `meshtrain {what}`"
            )


def page_of_answer(answered: Answered, query: Query) -> Answer:
    """The page that `query` asks for, of an answer that is there in whole."""
    start, end = query.offset, query.offset + query.limit
    rows = answered.rows[start:end]
    if answered.what == RESULTS:
        rows = [{**row, "cells": row["cells"][start:end]} for row in answered.rows]
    return Answer(query.request_id, rows=rows, total=answered.total)
