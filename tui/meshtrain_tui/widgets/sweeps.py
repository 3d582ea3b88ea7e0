"""The sweeps: how far each is, and how long it will take."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.message import Message

from meshtrain.core.changes import SweepRow
from meshtrain.core.job import JobState
from meshtrain.core.tally import SweepTally
from meshtrain.core.view import MeshView
from meshtrain.ids import short
from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.widgets.table import CURSOR_SIGN
from meshtrain_tui.words import bar, duration, head, plural

END_WIDTH = 12
COUNT_WIDTH = 7
BAR_WIDTH_MIN = 6
BAR_WIDTH_MAX = 24


class SweepsPanel(Panel, can_focus=True):
    """The open sweeps first, then those that ended, the latest first; the arrows choose one."""

    HEADING = "Sweeps"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False, id="sweeps.up"),
        Binding("down,j", "move(1)", "down", show=False, id="sweeps.down"),
        Binding("enter", "open", "its jobs", id="sweeps.open"),
    ]

    class Opened(Message):
        """A sweep's jobs are wanted."""

        def __init__(self, sweep_id: str) -> None:
            super().__init__()
            self.sweep_id = sweep_id

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._chosen_id = ""
        self._shown: list[str] = []
        """The sweep that each line is of."""

    def chosen(self) -> SweepRow | None:
        """The sweep under the cursor, if there is any."""
        if self._picture is None or not self._picture.view.sweeps:
            return None
        sweeps = self._picture.view.sweeps
        return sweeps.get(self._chosen_id) or _in_order(self._picture.view)[0]

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "open":
            return self.chosen() is not None
        return super().check_action(action, parameters)

    def action_move(self, by: int) -> None:
        chosen = self.chosen()
        if chosen is None or self._picture is None:
            return
        every = [sweep.sweep_id for sweep in _in_order(self._picture.view)]
        place = every.index(chosen.sweep_id) + by
        self._chosen_id = every[max(0, min(place, len(every) - 1))]
        self.refresh()

    def action_open(self) -> None:
        chosen = self.chosen()
        if chosen is not None:
            self.post_message(self.Opened(chosen.sweep_id))

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None or at.y >= len(self._shown):
            return
        again = self._shown[at.y] == self._chosen_id and event.chain > 1
        self._chosen_id = self._shown[at.y]
        self.refresh()
        if again:
            self.action_open()

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        view = picture.view
        self._shown = []
        if not view.sweeps:
            if picture.link.heard_wall_s is None:
                return []
            folder = picture.link.inbox or "the master's inbox"
            return wrapped(
                f"No jobs yet: drop a file into {folder}, or `meshtrain submit FILE`",
                width,
                "$foreground-muted",
            )
        sweeps = _in_order(view)
        chosen = self.chosen()
        place = sweeps.index(chosen) if chosen in sweeps else 0
        room = height if len(sweeps) <= height else max(1, height - 1)
        top = max(0, min(place - room + 1, len(sweeps) - room))
        seen = sweeps[top : top + room]
        name_width = max(len(sweep.name) for sweep in seen)
        room_for_details = height - len(seen) if len(sweeps) <= height else 0
        details = [_detail(view, sweep) for sweep in seen]
        # Failures first: they are what somebody must act on.
        ranked = sorted(
            (index for index, detail in enumerate(details) if detail is not None),
            key=lambda index: not view.progress(seen[index].sweep_id).failures.total(),
        )
        told = set(ranked[:room_for_details])
        lines: list[Content] = []
        for index, sweep in enumerate(seen):
            here = self.has_focus and sweep is chosen
            main = _main(view, sweep, picture.wall_s, width - 2, name_width)
            line = Content(f"{CURSOR_SIGN if here else ' '} ").append(main)
            lines.append(line.stylize("bold") if here else line)
            self._shown.append(sweep.sweep_id)
            detail = details[index]
            if index in told and detail is not None:
                lines.append(detail)
                self._shown.append(sweep.sweep_id)
        if len(seen) < len(sweeps):
            more = plural(len(sweeps) - len(seen), "more sweep")
            lines.append(Content.styled(f"and {more}", "$foreground-muted"))
        return lines


def _in_order(view: MeshView) -> list[SweepRow]:
    newest = sorted(view.sweeps.values(), key=lambda sweep: -sweep.submitted_wall_s)
    still = [sweep for sweep in newest if _is_open(view, sweep)]
    return [*reversed(still), *(sweep for sweep in newest if not _is_open(view, sweep))]


def _is_open(view: MeshView, sweep: SweepRow) -> bool:
    return view.progress(sweep.sweep_id).ended < sweep.jobs


def _main(view: MeshView, sweep: SweepRow, wall_s: float, width: int, name_width: int) -> Content:
    tally = view.progress(sweep.sweep_id)
    end, style = _end(sweep, tally, wall_s)
    if not sweep.jobs:
        return Content.assemble(
            head(sweep.name, width - 24),
            (f"  only {plural(sweep.bases, 'base')}", "$foreground-muted"),
        )
    room = width - COUNT_WIDTH - END_WIDTH - 3
    bar_width = min(BAR_WIDTH_MAX, max(BAR_WIDTH_MIN, room - name_width))
    name_width = max(4, room - bar_width)
    share = tally.ended / sweep.jobs
    return Content.assemble(
        f"{head(sweep.name, name_width):<{name_width}} ",
        (bar(share, bar_width), "$text-error" if tally.failures.total() else "$text-success"),
        f" {f'{tally.ended}/{sweep.jobs}':>{COUNT_WIDTH}} ",
        (f"{end:>{END_WIDTH}}", style),
    )


def _end(sweep: SweepRow, tally: SweepTally, wall_s: float) -> tuple[str, str]:
    """The last word on a sweep's line: when it ends, or how it did."""
    if tally.ended >= sweep.jobs:
        # A sweep that was cancelled when all of it had ended is none that was stopped.
        if sweep.cancelled and tally.states[JobState.CANCELLED]:
            return "cancelled", "$foreground-muted"
        failed = tally.states[JobState.FAILED]
        return (f"{failed} failed", "$text-error") if failed else ("done", "$text-success")
    if sweep.cancelled:
        return "stopping", "$text-warning"
    if sweep.budget_spent and not tally.running:
        return "budget spent", "$text-warning"
    left_s = _left_s(sweep, tally, wall_s)
    if left_s is not None:
        return f"~{duration(left_s)} left" if left_s < 3600 else f"~{duration(left_s)}", ""
    return ("running" if tally.running else "waiting"), "$foreground-muted"


def _left_s(sweep: SweepRow, tally: SweepTally, wall_s: float) -> float | None:
    """The master's estimate; between two of those, as long as the jobs took so far."""
    if sweep.ends_wall_s is not None:
        return max(0.0, sweep.ends_wall_s - wall_s)
    return tally.left_s(sweep.jobs, wall_s)


def _detail(view: MeshView, sweep: SweepRow) -> Content | None:
    tally = view.progress(sweep.sweep_id)
    parts: list[Content] = []
    if failed := tally.states[JobState.FAILED]:
        why = ", ".join(name for name, _ in tally.failures.most_common(2) if name)
        parts.append(Content.styled(f"{failed} failed{f': {why}' if why else ''}", "$text-error"))
    if _is_open(view, sweep):
        if sweep.budget_spent and tally.running:
            parts.append(Content.styled("budget spent", "$text-warning"))
        if tally.running:
            parts.append(Content(f"{tally.running:,} running"))
        if assigned := tally.states[JobState.ASSIGNED]:
            parts.append(Content(f"{assigned:,} getting ready"))
        if collecting := tally.states[JobState.COLLECTING]:
            parts.append(Content(f"{collecting:,} sending results"))
        parts.extend(Content(text) for text in _waiting(view, tally))
    if not parts:
        return None
    return Content("    ").append(Content(" · ").join(parts))


def _waiting(view: MeshView, tally: SweepTally) -> list[str]:
    """How many jobs wait for a base that is not there yet, and how many for a slot."""
    awaited = {}
    for recipe_hash, count in tally.waiting_for.items():
        base = view.bases.get(recipe_hash)
        if count and base is not None and base.artifact_id is None:
            awaited[recipe_hash] = count
    for_slots = tally.states[JobState.WAITING] - sum(awaited.values())
    words = []
    if len(awaited) == 1:
        recipe_hash, count = next(iter(awaited.items()))
        words.append(f"{count} wait for base {short(recipe_hash)}")
    elif awaited:
        words.append(f"{sum(awaited.values())} wait for {len(awaited)} bases")
    if for_slots:
        words.append(f"{for_slots:,} waiting")
    return words
