"""Long lists in pages: a filter, an order and a piece of them, the same for a live mesh and a
recorded one.

The master answers from lists that it keeps in order (core/listing.py); `page_of`
here tells what the answer is, in the plain way, and answers where there are few
rows, as in a recording.

A column is sorted by its value; rows without one come last both ways, and rows
that are alike keep the natural order, which is turned round with the rest when
it is descending.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from meshtrain.core.changes import BaseRow, JobRow, NodeRow, Note, TransferRow
from meshtrain.core.job import BaseState, JobState
from meshtrain.core.row_filter import pattern_of
from meshtrain.errors import UserError

WORDS_CHARS_MAX = 400
"""Of a row, that a filter looks at: enough for a name and how it failed."""
PAGE_ROWS_MAX = 1000

Row = JobRow | NodeRow | BaseRow | Note | TransferRow
SortKey = str | float
"""What a column is sorted by; all values of one column are of one type."""


class PageQuery(msgspec.Struct, frozen=True):
    """Which rows of a list are wanted."""

    kind: str
    """jobs, nodes, bases, events or transfers."""
    filter: str = ""
    """A regular expression, case-insensitive, over the row's words; "!" in front inverts. ^ and $
    are the ends of each word, where a name is one."""
    sort: str = ""
    """A column's name, see `COLUMNS`, or of jobs also `metrics.NAME`; "" is the natural order:
    newest first, nodes by name."""
    descending: bool = False
    offset: int = 0
    limit: int = 100
    sweep: str = ""
    """Only of the sweep with this id (jobs)."""
    states: tuple[str, ...] = ()
    """Only in these states (jobs)."""


class Page(msgspec.Struct, frozen=True):
    rows: tuple[Row, ...]
    total: int
    """All of the kind."""
    matched: int
    """That the filter, the sweep and the states let through."""


class Rows(Protocol):
    """Where rows are taken from: a MeshView is one. In the order in which they came."""

    @property
    def jobs(self) -> Mapping[str, JobRow]: ...
    @property
    def nodes(self) -> Mapping[str, NodeRow]: ...
    @property
    def bases(self) -> Mapping[str, BaseRow]: ...
    @property
    def notes(self) -> Sequence[Note]: ...
    @property
    def transfers(self) -> Sequence[TransferRow]: ...


def page_of(rows: Rows, query: PageQuery) -> Page:
    """The page that `query` asks for.

    Raises UserError for a kind, a column or a state that isn't one, for a filter that
    is no regular expression, and for a negative offset or limit.
    """
    check(query)
    lets_through = selection(query)
    there = in_natural_order(rows, query.kind)
    matched = in_order([row for row in there if lets_through(row)], query)
    limit = min(query.limit, PAGE_ROWS_MAX)
    page = tuple(matched[query.offset : query.offset + limit])
    return Page(page, total=len(there), matched=len(matched))


def in_order(matched: list[Row], query: PageQuery) -> list[Row]:
    """Rows that stand in the natural order, in the order that is asked for."""
    if not query.sort:
        return matched[::-1] if query.descending else matched
    key_of = column(query.kind, query.sort)
    keyed: list[tuple[SortKey, int]] = []
    without: list[Row] = []
    for position, row in enumerate(matched):
        key = key_of(row)
        if key is None:
            without.append(row)
        else:
            keyed.append((key, position))
    keyed.sort(reverse=query.descending)
    return [matched[position] for _, position in keyed] + without


def in_natural_order(rows: Rows, kind: str) -> list[Row]:
    """Newest first; nodes by name."""
    there: dict[str, Iterable[Row]] = {
        "jobs": rows.jobs.values(),
        "nodes": rows.nodes.values(),
        "bases": rows.bases.values(),
        "events": rows.notes,
        "transfers": rows.transfers,
    }
    keyed = [(natural_key(kind, row, place), row) for place, row in enumerate(there[kind])]
    return [row for _, row in sorted(keyed, key=lambda each: each[0])]


def natural_key(kind: str, row: Any, position: int) -> tuple[Any, ...]:
    """What the natural order goes by; no two rows of a kind have the same.

    Args:
        position: how many of its kind came before it.
    """
    if kind == "jobs":
        # The newest submission first, and each in the order of its file.
        return (-row.submitted_wall_s, position)
    if kind == "nodes":
        return (in_words(row.node_id), position)
    return (-position,)


# --- what a query may ask ----------------------------------------------------------


def check(query: PageQuery) -> None:
    """Raises UserError, with the mend, for what no page can answer."""
    if query.kind not in COLUMNS:
        raise UserError(f"no list is called {query.kind[:80]!r}: there are {', '.join(COLUMNS)}")
    if query.offset < 0 or query.limit < 0:
        raise UserError("an offset and a limit are 0 or more")
    for state in query.states:
        if state not in JOB_STATES:
            raise UserError(f"no job state is called {state[:80]!r}: {', '.join(JOB_STATES)}")
    if (query.states or query.sweep) and query.kind != "jobs":
        raise UserError(f"only jobs are asked for by sweep or state, not {query.kind}")
    if query.sort:
        column(query.kind, query.sort)


def selection(query: PageQuery) -> Callable[[Row], bool]:
    """Tells of a row whether the query's sweep, states and filter let it through.

    Raises UserError for a filter that is no regular expression.
    """
    states, sweep = frozenset(query.states), query.sweep
    inverted = query.filter.startswith("!")
    searched = pattern_of(query.filter)
    words_of = WORDS[query.kind]

    def lets_through(row: Row) -> bool:
        if isinstance(row, JobRow):
            if sweep and row.sweep_id != sweep:
                return False
            if states and row.state not in states:
                return False
        return searched is None or (searched.search(words_of(row)) is None) == inverted

    return lets_through


# --- the words of a row -------------------------------------------------------------


def _lines(words: Iterable[str]) -> str:
    return "\n".join(filter(None, words))[:WORDS_CHARS_MAX]


def _job_words(row: Any) -> str:
    told = (
        row.name,
        row.state,
        row.node_id or "",
        row.job_id,
        row.kind,
        row.recipe_hash or "",
        row.reason,
        row.failure,
    )
    return _lines(told)


def standing(row: NodeRow) -> str:
    """How a node stands, in a word."""
    if not row.connected:
        return "away"
    if row.drained:
        return "drained"
    return "ready" if row.accepting else "full"


def _node_words(row: Any) -> str:
    told = (row.node_id, standing(row), row.note, row.version, *row.gpus)
    return _lines(told)


def _base_words(row: Any) -> str:
    told = (row.label, row.state, row.node_id or "", row.recipe_hash, row.artifact_id or "")
    return _lines((*told, *row.holders))


def _note_words(row: Any) -> str:
    text: str = row.text
    return text[:WORDS_CHARS_MAX]


def _transfer_words(row: Any) -> str:
    told = (row.label, row.to_node, *row.bytes_by_node, row.artifact_id)
    return _lines(told)


WORDS: Mapping[str, Callable[[Row], str]] = MappingProxyType(
    {
        "jobs": _job_words,
        "nodes": _node_words,
        "bases": _base_words,
        "events": _note_words,
        "transfers": _transfer_words,
    }
)


# --- columns -----------------------------------------------------------------------

NUMBER = re.compile(r"(?<![\d.])\d+")


def in_words(text: str) -> str:
    """Text as people sort it: gpu2 before gpu10, capitals like small letters."""
    return ",".join(map(_piece_in_words, text.split(",")))


@lru_cache(maxsize=20_000)
def _piece_in_words(text: str) -> str:
    # The names of a sweep's jobs are made of the same few pairs again and again.
    return NUMBER.sub(lambda found: found[0].zfill(12), text).casefold()


JOB_STATES: Mapping[str, int] = MappingProxyType(
    {str(state): rank for rank, state in enumerate(JobState)}
)
BASE_STATES: Mapping[str, int] = MappingProxyType(
    {str(state): rank for rank, state in enumerate(BaseState)}
)


def _took_s(row: Any) -> float | None:
    """How long a job ran."""
    if row.started_wall_s is None or row.ended_wall_s is None:
        return None
    took_s: float = max(0.0, row.ended_wall_s - row.started_wall_s)
    return took_s


def _most(row: Any, figure: str) -> float | None:
    """The highest of a node's GPUs."""
    told = () if row.use is None else (getattr(gpu, figure) for gpu in row.use.gpus)
    return max((value for value in told if value is not None), default=None)


_Key = Callable[[Any], SortKey | None]

COLUMNS: Mapping[str, Mapping[str, _Key]] = MappingProxyType(
    {
        "jobs": {
            "name": lambda row: in_words(row.name),
            "state": lambda row: JOB_STATES[row.state],
            "kind": lambda row: str(row.kind),
            "sweep": lambda row: row.sweep_id,
            "node": lambda row: None if row.node_id is None else in_words(row.node_id),
            "base": lambda row: row.recipe_hash,
            "retries": lambda row: row.retries,
            "priority": lambda row: row.priority,
            "submitted": lambda row: row.submitted_wall_s,
            "started": lambda row: row.started_wall_s,
            "ended": lambda row: row.ended_wall_s,
            "took": _took_s,
            "failure": lambda row: row.failure or None,
            "reason": lambda row: row.reason or None,
        },
        "nodes": {
            "name": lambda row: in_words(row.node_id),
            "standing": lambda row: standing(row),
            "gpus": lambda row: len(row.gpus),
            "gpus_used": lambda row: len(row.gpus_used),
            "cpus": lambda row: row.cpu_slots,
            "cpus_used": lambda row: row.cpus_used,
            "memory": lambda row: row.memory_bytes,
            "holds": lambda row: row.holds,
            "cache": lambda row: row.cache_used_bytes,
            "disk_free": lambda row: row.disk_free_bytes,
            "cpu_use": lambda row: None if row.use is None else row.use.cpu,
            "memory_used": lambda row: None if row.use is None else row.use.memory_used_bytes,
            "gpu_use": lambda row: _most(row, "used"),
            "gpu_memory_used": lambda row: _most(row, "memory_used_bytes"),
            "temperature": lambda row: _most(row, "temperature_c"),
            "version": lambda row: row.version or None,
            "note": lambda row: row.note or None,
        },
        "bases": {
            "name": lambda row: in_words(row.label),
            "hash": lambda row: row.recipe_hash,
            "state": lambda row: BASE_STATES[row.state],
            "size": lambda row: row.size_bytes,
            "node": lambda row: None if row.node_id is None else in_words(row.node_id),
            "holders": lambda row: len(row.holders),
            "waiting": lambda row: row.waiting,
            "took": lambda row: row.trained_s,
        },
        "events": {
            "time": lambda row: row.wall_s,
            "text": lambda row: in_words(row.text),
        },
        "transfers": {
            "to": lambda row: in_words(row.to_node),
            "what": lambda row: in_words(row.label or row.artifact_id),
            "size": lambda row: sum(row.bytes_by_node.values()),
            "took": lambda row: row.duration_s,
            "rate": lambda row: (
                sum(row.bytes_by_node.values()) / row.duration_s if row.duration_s > 0 else None
            ),
            "reused": lambda row: row.bytes_reused,
        },
    }
)
METRIC_PREFIX = "metrics."


def column(kind: str, name: str) -> _Key:
    """The function that gives a row's value in a column; None for a row without one.

    Raises UserError for a column that the kind doesn't have.
    """
    if kind == "jobs" and name.startswith(METRIC_PREFIX):
        metric = name.removeprefix(METRIC_PREFIX)

        def key_of(row: Any) -> SortKey | None:
            value: float | None = row.metrics.get(metric)
            return None if value is None or math.isnan(value) else value

        return key_of
    known = COLUMNS[kind].get(name)
    if known is None:
        raise UserError(
            f"{kind} have no column {name[:80]!r}: sort by {', '.join(COLUMNS[kind])}"
            + (f" or {METRIC_PREFIX}NAME" if kind == "jobs" else "")
        )
    return known


def column_names(kind: str, rows: Iterable[Row] = ()) -> list[str]:
    """The columns of a kind, and of jobs the metrics that `rows` have."""
    jobs = (row for row in rows if kind == "jobs" and isinstance(row, JobRow))
    metrics = {name for row in jobs for name in row.metrics}
    return [*COLUMNS[kind], *(METRIC_PREFIX + name for name in sorted(metrics))]
