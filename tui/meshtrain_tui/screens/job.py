"""The screen of one job."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from meshtrain.clock import wall_now_s
from meshtrain.core.changes import JobRow
from meshtrain.core.job import JobState
from meshtrain.core.why import Why
from meshtrain.core.why_lines import why_lines
from meshtrain_tui.asking import row_of
from meshtrain_tui.feed import Picture
from meshtrain_tui.screens.confirm import AskPriority
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.steering.action import (
    Action,
    cancel,
    command_of,
    prioritise,
    retry,
    typed_name,
)
from meshtrain_tui.widgets.job_body import JobBody
from meshtrain_tui.words import duration, near_clock

WHY_TIMEOUT_S = 30.0
"""The master plays the queue through: of a very long one that takes some seconds."""


class Job(MeshScreen):
    """One job: its log, its curves, its attempts, its parameters, and why it waits."""

    TITLE_WORDS = "Job"
    HELP = (
        "The log follows its end until you move up; f follows again. / searches for a regular "
        "expression, n and N go on; without capital letters it finds both. @ jumps: to a time "
        "(14:02, -10m), to a line (1200) or to a share (50%). v marks from where y copies, to "
        "the terminal's clipboard, over SSH too. A progress bar is one line: its last state. "
        "Of a gang the ranks are one log, by when their lines came. [ and ] change the attempt."
    )
    CHANGES = frozenset({"cancel", "retry", "priority"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "cancel", "cancel", id="job.cancel"),
        Binding("r", "retry", "retry", id="job.retry"),
        Binding("p", "priority", "priority", id="job.priority"),
    ]

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self._job_id = job_id

    def compose_body(self) -> ComposeResult:
        yield JobBody(
            self._job_id, row_of(self.desk.ask), explain=self._why, wall_now_s=self._wall_now_s
        )

    def _wall_now_s(self) -> float:
        """The time that the screens show."""
        picture = self.desk.picture
        return wall_now_s() if picture is None else picture.wall_s

    async def _why(self, job_id: str, width: int) -> list[str]:
        """The lines of `meshtrain why`. Raises MeshtrainError when they can't be had."""
        ask = row_of(partial(self.desk.ask, timeout_s=WHY_TIMEOUT_S))
        told = msgspec.convert(await ask("why", (job_id,)), Why)

        def at(wall_s: float) -> str:
            return near_clock(wall_s, told.now_wall_s)

        return why_lines(told, clock=at, duration=duration, width=width)

    def crumb(self) -> str:
        row = self._row()
        return self._job_id if row is None else row.name

    def note(self, picture: Picture) -> str:
        row = self._row()
        return "" if row is None else str(row.state)

    def command_line(self) -> str:
        row, picture = self._row(), self.desk.picture
        name = self._job_id
        if row is not None and picture is not None:
            name = typed_name(row, picture.view)
        words = ["logs", name]
        body = self.query_one(JobBody)
        if body.tab == "curves":
            words.append("--metrics")
        if body.attempt_number is not None and body.is_earlier_attempt:
            words += ["--attempt", str(body.attempt_number)]
        if body.tab != "facts":
            return command_of(*words)
        waits = row is not None and row.state is JobState.WAITING
        return command_of("why" if waits else "jobs", name)

    def _row(self) -> JobRow | None:
        """The job as the lists have it."""
        body = self.query(JobBody)
        row = body.first().row if body else None
        return None if row is None else msgspec.convert({**row, "type": "job"}, JobRow)

    # --- keys --------------------------------------------------------------------------------

    def action_cancel(self) -> None:
        row, picture = self._row(), self.desk.picture
        if row is not None and picture is not None:
            self._steer(cancel([row], picture.view), "Nothing to cancel: it has ended.")

    def action_retry(self) -> None:
        row, picture = self._row(), self.desk.picture
        if row is not None and picture is not None:
            words = "Nothing to retry: only what failed or was cancelled is run again."
            self._steer(retry([row], picture.view), words)

    def action_priority(self) -> None:
        row, picture = self._row(), self.desk.picture
        if row is None or picture is None:
            return
        view = picture.view

        def take(priority: int | None) -> None:
            if priority is not None:
                words = (
                    "Only jobs that have not ended have a priority; a base has that of its jobs."
                )
                self._steer(prioritise([row], priority, view), words)

        self.app.push_screen(AskPriority(f"Priority of {row.name}", row.priority), take)

    def _steer(self, action: Action | None, otherwise: str) -> None:
        if action is None:
            self.desk.say(otherwise)
        else:
            self.desk.steer(action)
