"""The read-only JSON API: the rows that commands get, over HTTP, in pages.

    GET /api/v1/sweeps   /api/v1/jobs   /api/v1/nodes   /api/v1/bases   /api/v1/events
    GET /api/v1/jobs/NAME                  all of one job
    GET /api/v1/results/SWEEP              a page of a sweep's cells
    GET /api/v1/openapi.json               what all this looks like

Nothing here changes anything. An answer shows what is on the master's disk, as
the answers to commands do. A filter is looked at in slices, so that what it
costs is spread between decisions; a filter is words, not a pattern, since a
pattern can take for ever and stands still meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from meshtrain.artifacts.answers import refuse
from meshtrain.core.changes import JobRow, Note
from meshtrain.core.job import JobState
from meshtrain.core.rows import job_row
from meshtrain.core.state import MeshState
from meshtrain.errors import NotFoundError, UserError
from meshtrain.spec.problems import hint, shown
from meshtrain.wire.messages import Answer, Query
from meshtrain_daemon.master.api_description import API_PATH, MergeRule, Results, described
from meshtrain_daemon.master.hidden_values import without_secrets
from meshtrain_daemon.master.queries import answer, job_ids_of
from meshtrain_daemon.master.surroundings import Surroundings

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
FILTER_CHARS_MAX: Final = 200
SLICE_ROWS: Final = 200
"""Rows that are looked at before decisions have their turn again."""
AT_ONCE_MAX: Final = 8
"""Answers that are made at a time; more are told to come again."""
PARAMETERS: Final = ("offset", "limit", "filter")
JOB_PARAMETERS: Final = (*PARAMETERS, "sweep", "state")

Afterwards = Callable[[Callable[[], None]], None]


class Api:
    """Answers the API's requests.

    Args:
        state: the scheduler's, only read.
        surroundings: what answers need beside it.
        afterwards: has something called when all that was posted is on the disk.
        notes: the lines for people that are kept, oldest first.
    """

    def __init__(
        self,
        *,
        state: MeshState,
        surroundings: Surroundings,
        afterwards: Afterwards,
        notes: Callable[[], Sequence[Note]],
    ) -> None:
        self._state = state
        self._surroundings = surroundings
        self._afterwards = afterwards
        self._notes = notes
        self._at_once = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answers one request to a path of the API."""
        if self._at_once >= AT_ONCE_MAX:
            return refuse(503, "too many questions at a time. Ask again", {"Retry-After": "1"})
        self._at_once += 1
        try:
            return _json(await self._told(request.path.removeprefix(API_PATH), request.query))
        except NotFoundError as error:
            return refuse(404, str(error))
        except UserError as error:
            return refuse(400, str(error))
        finally:
            self._at_once -= 1

    async def _told(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        if path == "/openapi.json":
            return described(self._surroundings.version)
        kind, _, name = path.removeprefix("/").partition("/")
        if not name:
            if kind not in _LISTS:
                raise NotFoundError(
                    f"nothing is served at {shown(API_PATH + path)}{hint(kind, _LISTS) or ';'} "
                    f"see {API_PATH}/openapi.json"
                )
            return await self._list(kind, asked)
        if kind == "jobs":
            _known(asked, ())
            (row,) = (await self._query("job", (name,), 0, 1)).rows
            return without_secrets(row)
        if kind == "results":
            return await self._results(name, asked)
        raise NotFoundError(
            f"of {kind[:40]} only lists are served. Filter one: {API_PATH}/{kind[:40]}?filter=…"
        )

    # --- lists -------------------------------------------------------------------------------

    async def _list(self, kind: str, asked: Mapping[str, str]) -> dict[str, Any]:
        _known(asked, JOB_PARAMETERS if kind == "jobs" else PARAMETERS)
        offset, limit = _number(asked, "offset", 0), _number(asked, "limit", LIMIT_DEFAULT)
        wanted = _selection(asked)
        limit = min(limit, LIMIT_MAX)
        names = (asked["sweep"],) if asked.get("sweep") else ()
        if kind == "events":
            told = [msgspec.to_builtins(note) for note in reversed(self._notes())]
            rows = [_without_type(row) for row in told]
            total = len(rows)
            matched = [row for row in rows if wanted is None or wanted.takes(row)]
            return _page(matched[offset : offset + limit], total, len(matched), offset)
        if kind == "jobs" and wanted is not None:
            return await self._filtered_jobs(names, offset, limit, wanted)
        if wanted is None:
            page = await self._query(kind, names, offset, limit)
            return _page(page.rows, page.total, page.total, offset)
        return await self._filtered(kind, names, offset, limit, wanted)

    async def _filtered_jobs(
        self,
        names: tuple[str, ...],
        offset: int,
        limit: int,
        wanted: _Selection,
    ) -> dict[str, Any]:
        """As `_filtered`, for many rows: only those that are answered are made whole."""
        await self._due()
        state, matched = self._state, 0
        job_ids = job_ids_of(state, names)
        kept: list[dict[str, Any]] = []
        for start in range(0, len(job_ids), SLICE_ROWS):
            for job_id in job_ids[start : start + SLICE_ROWS]:
                row = job_row(state, state.jobs[job_id])
                if wanted.takes_text(row.state, _texts(row)):
                    if offset <= matched < offset + limit:
                        kept.append(_without_type(msgspec.to_builtins(row)))
                    matched += 1
            await asyncio.sleep(0)
        return _page(kept, len(job_ids), matched, offset)

    async def _filtered(
        self,
        kind: str,
        names: tuple[str, ...],
        offset: int,
        limit: int,
        wanted: _Selection,
    ) -> dict[str, Any]:
        kept: list[dict[str, Any]] = []
        matched = looked_at = total = 0
        while True:
            part = await self._query(kind, names, looked_at, SLICE_ROWS)
            total = part.total
            for row in part.rows:
                if wanted.takes(row):
                    if offset <= matched < offset + limit:
                        kept.append(row)
                    matched += 1
            looked_at += len(part.rows)
            if not part.rows or looked_at >= total:
                return _page(kept, total, matched, offset)
            await asyncio.sleep(0)

    async def _results(self, name: str, asked: Mapping[str, str]) -> dict[str, Any]:
        _known(asked, ("offset", "limit"))
        offset, limit = _number(asked, "offset", 0), _number(asked, "limit", LIMIT_DEFAULT)
        page = await self._query("results", (name,), offset, max(1, min(limit, LIMIT_MAX)))
        (row,) = about = page.rows
        if offset:
            # What is the same for all pages may be told with the first one alone.
            about = (await self._query("results", (name,), 0, 1)).rows
        told_once = about[0]
        # What is described and no more: a job file's text, and who is told, may hold secrets.
        told = {field: told_once.get(field) for field in Results.__struct_fields__}
        rule = {field: told_once["results"].get(field) for field in MergeRule.__struct_fields__}
        paged = {"cells": row["cells"][:limit], "offset": offset, "total": page.total}
        return {**told, "results": rule, **paged}

    async def _query(self, what: str, names: tuple[str, ...], offset: int, limit: int) -> Answer:
        """The answer that a command gets."""
        await self._due()
        made = answer(self._state, Query("", what, names, offset, limit), self._surroundings)
        if made.error:
            raise (NotFoundError if names else UserError)(made.error)
        return made

    async def _due(self) -> None:
        """Returns when what an answer may show is on the disk."""
        is_due: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def due() -> None:
            if not is_due.done():
                is_due.set_result(None)

        self._afterwards(due)
        await is_due


_LISTS: Final = ("sweeps", "jobs", "nodes", "bases", "events")


# --- what is asked ------------------------------------------------------------------------


def _known(asked: Mapping[str, str], parameters: Sequence[str]) -> None:
    for name in asked:
        if name not in parameters:
            known = f"it takes {', '.join(parameters)}" if parameters else "it takes none"
            raise UserError(f"{shown(name)} is no parameter of this list: {known}")


def _number(asked: Mapping[str, str], name: str, otherwise: int) -> int:
    text = asked.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UserError(f"{name}={shown(text)}: write a whole number, 0 or more")
    return int(text)


class _Selection(NamedTuple):
    """Which rows are wanted."""

    states: frozenset[str]
    words: list[str]
    inverted: bool

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is wanted."""
        return self.takes_text(
            row.get("state", ""),
            " ".join(value for value in row.values() if isinstance(value, str)),
        )

    def takes_text(self, state: str, text: str) -> bool:
        """Whether a row of such a state and such texts is wanted."""
        if self.states and state not in self.states:
            return False
        if not self.words:
            return True
        text = text.casefold()
        return all(word in text for word in self.words) != self.inverted


def _selection(asked: Mapping[str, str]) -> _Selection | None:
    """What is asked for; None where that is all."""
    states = frozenset(word for word in asked.get("state", "").split(",") if word)
    for state in sorted(states):
        if state not in _STATES:
            known = ", ".join(_STATES)
            raise UserError(f"no job state is called {shown(state)}: there are {known}")
    text = asked.get("filter", "")
    if len(text) > FILTER_CHARS_MAX:
        raise UserError(f"a filter has at most {FILTER_CHARS_MAX} characters, not {len(text)}")
    words = text.removeprefix("!").casefold().split()
    return _Selection(states, words, text.startswith("!")) if states or words else None


def _texts(row: JobRow) -> str:
    """All that a job's row says in words."""
    return " ".join(
        (
            *(row.job_id, row.name, row.kind, row.state, row.sweep_id or "", row.node_id or ""),
            *(row.recipe_hash or "", row.failure, row.reason),
        )
    )


_STATES: Final = MappingProxyType({str(state): state for state in JobState})


# --- what is answered ---------------------------------------------------------------------


def _page(rows: list[Any], total: int, matched: int, offset: int) -> dict[str, Any]:
    return {"rows": rows, "total": total, "matched": matched, "offset": offset}


def _without_type(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "type"}


def _json(told: dict[str, Any]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(told),
        content_type="application/json",
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
