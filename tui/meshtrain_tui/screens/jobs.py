"""The jobs: all of them, of one sweep, or on one node, in pages that the master makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from textual.binding import Binding, BindingType

from meshtrain.core.changes import JobRow
from meshtrain.core.job import JobState
from meshtrain.core.pages import PageQuery
from meshtrain_tui.feed import Picture
from meshtrain_tui.job_states import state_words
from meshtrain_tui.screens.confirm import AskPriority
from meshtrain_tui.screens.list_screen import ListScreen
from meshtrain_tui.steering.action import cancel, command_of, prioritise, retry, typed_name
from meshtrain_tui.widgets.columns import Column
from meshtrain_tui.words import clock, duration, tail

GROUPS: tuple[tuple[str, tuple[JobState, ...]], ...] = (
    ("all", ()),
    ("running", (JobState.ASSIGNED, JobState.RUNNING, JobState.COLLECTING)),
    ("waiting", (JobState.WAITING,)),
    ("failed", (JobState.FAILED,)),
    ("succeeded", (JobState.SUCCEEDED,)),
    ("cancelled", (JobState.CANCELLED,)),
)
METRICS_SHOWN_MAX = 3


def took_s(row: JobRow, now_wall_s: float) -> float | None:
    """How long a job ran, or has run; None before it does."""
    if row.started_wall_s is None or row.state is JobState.WAITING:
        return None
    end = row.ended_wall_s if row.state.is_terminal else now_wall_s
    return None if end is None else max(0.0, end - row.started_wall_s)


def _time(row: JobRow, picture: Picture) -> str:
    seconds = took_s(row, picture.wall_s)
    return "" if seconds is None else duration(seconds)


def detail(row: JobRow, picture: Picture) -> str:
    """Why it failed or waits; of one that succeeded, its metrics."""
    if row.state is JobState.SUCCEEDED:
        first = list(row.metrics.items())[:METRICS_SHOWN_MAX]
        return "  ".join(f"{name} {value:.4g}" for name, value in first)
    return " ".join((row.failure or row.reason).split())


COLUMNS = (
    Column("name", "JOB", 20, lambda row, picture: row.name, flexible=True, cut=tail),
    Column("state", "STATE", 11, lambda row, picture: state_words(row.state)),
    Column("node", "NODE", 8, lambda row, picture: row.node_id or "", rank=1),
    Column("took", "TIME", 10, _time, right=True, rank=1),
    Column("retries", "RUN", 4, lambda row, picture: str(row.retries + 1), right=True, rank=4),
    Column("priority", "PRIO", 5, lambda row, picture: str(row.priority), right=True, rank=5),
    Column(
        "submitted",
        "CAME",
        8,
        lambda row, picture: clock(row.submitted_wall_s) if row.submitted_wall_s else "",
        rank=6,
        wide=True,
    ),
    Column("reason", "DETAIL", 16, detail, flexible=True, rank=2),
)


class Jobs(ListScreen):
    """What runs, waits, and has ended."""

    TITLE_WORDS = "Jobs"
    HELP = (
        "Every job, the newest sweep first. Marked jobs (space) are cancelled, retried and "
        "given a priority together. A job that is assigned fetches what it needs; one that "
        "is collecting has ended well, and its result is on the way to the master."
    )
    CHANGES = frozenset({"cancel", "retry", "priority"})
    KIND = "jobs"
    COLUMNS = COLUMNS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel", "cancel", id="jobs.cancel"),
        Binding("r", "retry", "retry", id="jobs.retry"),
        Binding("p", "priority", "priority", id="jobs.priority"),
        Binding("f", "group", "state", id="jobs.state"),
        Binding("o", "folder", "results", id="jobs.results"),
    ]

    def __init__(self, base: PageQuery | None = None, words: str = "") -> None:
        super().__init__()
        self._base = base or PageQuery(self.KIND)
        self._words = words
        self._group = 0

    @classmethod
    def of_sweep(cls, sweep_id: str) -> Jobs:
        """Only those of one sweep."""
        return cls(PageQuery(cls.KIND, sweep=sweep_id), sweep_id)

    @classmethod
    def on_node(cls, node_id: str) -> Jobs:
        """Only those that run on one node."""
        states = tuple(str(state) for state in GROUPS[1][1])
        words = rf"\b{_literal(node_id)}\b"
        return cls(PageQuery(cls.KIND, filter=words, states=states), node_id)

    def crumb(self) -> str:
        if not self._words:
            return self.TITLE_WORDS
        picture = self.desk.picture
        sweep = picture.view.sweeps.get(self._words) if picture else None
        return f"{sweep.name if sweep else self._words}"

    def columns(self) -> Sequence[Column]:
        if not self._base.sweep:
            return self.COLUMNS
        # Of one sweep: its name stands in the breadcrumbs already.
        first, *others = self.COLUMNS
        return (replace(first, cell=lambda row, picture: row.name.partition("/")[2]), *others)

    def row_id(self, row: JobRow) -> str:
        return row.job_id

    def empty(self, picture: Picture) -> str:
        folder = picture.link.inbox or "the master's inbox"
        return f"No jobs yet: drop a file into {folder}, or `meshtrain submit FILE`"

    def note(self, picture: Picture) -> str:
        group = GROUPS[self._group][0]
        told = super().note(picture)
        return f"{group} · {told}" if self._group else told

    def open_row(self, row: JobRow) -> None:
        self.desk.open("job", row.job_id)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return super().check_action(action, parameters)

    def rows_command(self, rows: Sequence[Any]) -> str:
        picture = self.desk.picture
        if self.table.marked and picture is not None:
            return command_of("jobs", *(typed_name(row, picture.view) for row in rows))
        query = self.table.query_now
        words = ["jobs", *([query.sweep] if query.sweep else [])]
        for state in query.states:
            words += ["--state", state]
        return command_of(*words)

    # --- keys --------------------------------------------------------------------------------

    def action_group(self) -> None:
        """Only those that run, only those that wait, and so on."""
        self._group = (self._group + 1) % len(GROUPS)
        states = tuple(str(state) for state in GROUPS[self._group][1])
        self.table.restart(msgspec.structs.replace(self.table.query_now, states=states))
        self.show_crumbs()

    def action_cancel(self) -> None:
        picture = self.desk.picture
        if picture is None or not (rows := self._rows()):
            return
        action = cancel(rows, picture.view)
        if action is None:
            self.desk.say("Nothing to cancel: all of it has ended.")
        else:
            self.desk.steer(action)

    def action_retry(self) -> None:
        picture = self.desk.picture
        if picture is None or not (rows := self._rows()):
            return
        action = retry(rows, picture.view)
        if action is None:
            self.desk.say("Nothing to retry: only what failed or was cancelled is run again.")
        else:
            self.desk.steer(action)

    def action_priority(self) -> None:
        picture = self.desk.picture
        if picture is None or not (rows := self._rows()):
            return
        view = picture.view

        def take(priority: int | None) -> None:
            if priority is None:
                return
            action = prioritise(rows, priority, view)
            if action is None:
                self.desk.say(
                    "Only jobs that have not ended have a priority; a base has that of its jobs."
                )
            else:
                self.desk.steer(action)

        what = rows[0].name if len(rows) == 1 else f"{len(rows):,} jobs"
        self.app.push_screen(AskPriority(f"Priority of {what}", rows[0].priority), take)

    async def action_folder(self) -> None:
        rows = self._rows()
        sweep_id = self.table.query_now.sweep or (rows[0].sweep_id if rows else None)
        if sweep_id:
            await self.desk.open_results(sweep_id)
        else:
            self.desk.say("A base belongs to no sweep, and has no result folder.")

    def _rows(self) -> list[JobRow]:
        return [row for row in self.chosen() if isinstance(row, JobRow)]


def _literal(text: str) -> str:
    """A node's name within a regular expression: its dots stand for themselves."""
    return text.replace(".", r"\.")
