"""All of one job: how it stands, and its log, its curves, its facts, of any of its attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import ContentSwitcher, Static
from textual.worker import Worker

from meshtrain.clock import wall_now_s
from meshtrain.core.job import JobState
from meshtrain.errors import MeshtrainError
from meshtrain.net.base import MasterAwayError
from meshtrain_tui.log.stream import Ask, LogStream
from meshtrain_tui.widgets.curves import Curves
from meshtrain_tui.widgets.job_facts import facts, nodes_of, ran_s, standing, why_words
from meshtrain_tui.widgets.log_pane import LogPane
from meshtrain_tui.widgets.log_view import LogView
from meshtrain_tui.words import clock, duration, tail

LOOK_EVERY_S = 1.0
EXPLAIN_EVERY_S = 20.0
"""Between two full explanations: the master plays the queue through for each."""
WIDE_FROM = 140
"""Columns from which on the facts stand beside the log."""
TABS = (("log", "l", "Log"), ("curves", "m", "Metrics"), ("facts", "a", "About"))


Explain = Callable[[str, int], Awaitable[list[str]]]
"""From a job's id and a width to lines; raises MeshtrainError."""


class JobBody(Vertical):
    """A job, live.

    Args:
        job_id: which.
        ask: asks the master.
        explain: says why a job waits, in lines of at most so many characters; what it
            says stands instead of the short reason. None: there is only that.
        look_every_s: seconds between two questions how it stands.
        wall_now_s: the time, as durations count.
    """

    DEFAULT_CSS = """
    JobBody {
        height: 1fr;
        & .job-head { height: auto; max-height: 4; padding: 0 1; }
        & .job-tabs { height: 1; padding: 0 1; background: $panel; }
        & .job-main { height: 1fr; }
        & ContentSwitcher { height: 1fr; width: 1fr; }
        & VerticalScroll { scrollbar-gutter: stable; }
        & .job-facts { padding: 0 1; }
        & .job-side { width: 48; border-left: solid $panel; padding: 0 1; display: none; }
        &.-wide.-log .job-side, &.-wide.-curves .job-side { display: block; }
    }
    """
    BINDINGS = [  # noqa: RUF012
        # The line of the tabs shows the first three.
        Binding("l", "show('log')", "log", show=False, id="job.log"),
        Binding("m", "show('curves')", "metrics", show=False, id="job.metrics"),
        Binding("a", "show('facts')", "about", show=False, id="job.about"),
        Binding(
            "left_square_bracket",
            "attempt(-1)",
            "attempt before",
            show=False,
            id="job.attempt_before",
        ),
        Binding(
            "right_square_bracket",
            "attempt(1)",
            "next attempt",
            show=False,
            id="job.attempt_after",
        ),
    ]

    def __init__(
        self,
        job_id: str,
        ask: Ask,
        *,
        explain: Explain | None = None,
        look_every_s: float = LOOK_EVERY_S,
        wall_now_s: Callable[[], float] = wall_now_s,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.job_id = job_id
        self._ask = ask
        self._explain = explain
        self._explained: list[str] = []
        self._explained_wall_s = 0.0
        self._explaining: Worker[None] | None = None
        self._look_every_s = look_every_s
        self._wall_now_s = wall_now_s
        self._row: Mapping[str, Any] | None = None
        self._heard_wall_s: float | None = None
        self._trouble = ""
        #: which attempt is shown, from 0; None: the last one, also when another begins
        self._chosen: int | None = None
        self._shown_attempt: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(classes="job-head")
        yield Static(classes="job-tabs")
        with Horizontal(classes="job-main"):
            with ContentSwitcher(initial="log"):
                yield LogPane(id="log", wall_now_s=self._wall_now_s)
                yield Curves(id="curves")
                with VerticalScroll(id="facts"):
                    yield Static(classes="job-facts")
            with VerticalScroll(classes="job-side"):
                yield Static(classes="job-facts-side")

    async def on_mount(self) -> None:
        self.add_class("-log")
        self.query_one(LogView).focus()
        self.set_interval(self._look_every_s, self.look)
        await self.look()

    def on_resize(self) -> None:
        self.set_class(self.size.width >= WIDE_FROM, "-wide")
        self.call_after_refresh(self._draw)

    @property
    def row(self) -> Mapping[str, Any] | None:
        """The job as the master told it last; None before that."""
        return self._row

    @property
    def tab(self) -> str:
        """What is in sight: log, curves or facts."""
        return self.query_one(ContentSwitcher).current or ""

    @property
    def is_earlier_attempt(self) -> bool:
        """Whether somebody looks at another attempt than the last one."""
        return self._chosen is not None

    @property
    def attempt_number(self) -> int | None:
        """The attempt that is shown, from 1; None where there is none yet."""
        attempts = self._row["attempts"] if self._row is not None else ()
        if not attempts:
            return None
        return len(attempts) if self._chosen is None else min(self._chosen + 1, len(attempts))

    async def look(self) -> None:
        """Ask how the job stands, and show it."""
        try:
            row = await self._ask("job", (self.job_id,))
        except MeshtrainError as error:
            self._trouble = str(error)
            if self._heard_wall_s is not None:
                since = f"stale since {clock(self._heard_wall_s)}"
                # Why nobody answers is told once, at the top.
                away = isinstance(error, MasterAwayError)
                self._trouble = since if away else f"{since}: {error}"
            self._draw()
            return
        self._row, self._trouble = row, ""
        self._heard_wall_s = self._wall_now_s()
        await self._show_attempt()
        self._draw()

    async def _show_attempt(self) -> None:
        """Show the streams of the attempt that is chosen, where they aren't those already."""
        row, number = self._row, self.attempt_number
        if row is None:
            return
        log, curves = self.query_one(LogPane), self.query_one(Curves)
        if number is None:
            words = f"It has not started: {why_words(row) or 'it is ' + row['state']}."
            log.tell_empty(words)
            curves.tell_empty(words)
            return
        attempt = row["attempts"][number - 1]
        attempt_id = attempt["attempt_id"]
        if attempt_id == self._shown_attempt:
            return
        if self._shown_attempt is not None and self._chosen is None:
            self.notify(f"attempt {number} begins")
        self._shown_attempt = attempt_id
        await log.show_streams(streams_of(self._ask, row["job_id"], attempt))
        metrics = LogStream(self._ask, row["job_id"], attempt_id, "metrics")
        await curves.show_stream(metrics)

    # --- keys --------------------------------------------------------------------------------

    async def action_show(self, tab: str) -> None:
        """Show the log, the curves or the facts."""
        self.query_one(ContentSwitcher).current = tab
        for name, _, _ in TABS:
            self.set_class(name == tab, f"-{name}")
        self.query_one({"log": "LogView", "curves": "CurveField"}.get(tab, "#facts")).focus()
        self._draw()
        self.call_after_refresh(self._draw)
        if tab == "curves":
            self.call_after_refresh(self.query_one(Curves).look)

    async def action_attempt(self, step: int) -> None:
        """Show the attempt before, or the one after."""
        number = self.attempt_number
        if self._row is None or number is None:
            return
        count = len(self._row["attempts"])
        wanted = min(max(number - 1 + step, 0), count - 1)
        if wanted == number - 1:
            self.notify("there is no attempt before" if step < 0 else "this is the last attempt")
            return
        # At the last one a new one is followed.
        self._chosen = None if wanted == count - 1 else wanted
        self._shown_attempt = None
        await self._show_attempt()
        self._draw()

    # --- drawing -----------------------------------------------------------------------------

    def _draw(self) -> None:
        if not self.is_mounted:
            return
        self.query_one(".job-head", Static).update(self._head())
        tabs = [
            Content.styled(f" {key} {title} ", "reverse" if name == self.tab else "")
            for name, key, title in TABS
        ]
        self.query_one(".job-tabs", Static).update(Content(" ").join(tabs))
        if self._row is None:
            return
        now_s = self._wall_now_s()
        for place, words in (("#facts", ".job-facts"), (".job-side", ".job-facts-side")):
            box = self.query_one(place)
            if box.is_on_screen:
                width = max(box.scrollable_content_region.width - 2, 20)
                self._explain_anew(width, now_s)
                lines = facts(self._row, now_s, width, self._explained)
                self.query_one(words, Static).update(Content("\n").join(lines))

    def _explain_anew(self, width: int, now_s: float) -> None:
        """Ask why it waits, where somebody sees that and the last answer is old."""
        row = self._row
        if row is None or self._explain is None:
            return
        if row["state"] != JobState.WAITING:
            self._explained, self._explained_wall_s = [], 0.0
            return
        running = self._explaining is not None and not self._explaining.is_finished
        if not running and now_s - self._explained_wall_s >= EXPLAIN_EVERY_S:
            self._explained_wall_s = now_s
            self._explaining = self.run_worker(self._ask_why(self._explain, width), group="why")

    async def _ask_why(self, explain: Explain, width: int) -> None:
        try:
            self._explained = await explain(self.job_id, width - 2)
        except MeshtrainError:
            # The short reason stands there; that the master is away is told at the top.
            self._explained = []
        self._draw()

    def _head(self) -> Content:
        lines: list[Content] = []
        width = max(self.size.width - 2, 20)
        row = self._row
        if row is not None:
            lines.append(self._main(row, width))
            why = why_words(row)
            if why:
                style = "$text-error" if row["state"] == "failed" else "$text-warning"
                lines += list(Content.styled(why, style).wrap(width))[:2]
        if self._trouble:
            text = Content.styled(f"○ {self._trouble}", "$text-warning")
            lines += list(text.wrap(width))[:2]
        return Content("\n").join(lines or [Content("Asking the master.")])

    def _main(self, row: Mapping[str, Any], width: int) -> Content:
        """`few_shot/fold=2   ▶ running on gpu2 GPU 0   attempt 2 of 2   12 min`."""
        words = [standing(row)]
        number = self.attempt_number
        if number is not None:
            attempt = row["attempts"][number - 1]
            words.append(Content(nodes_of(attempt)))
            if len(row["attempts"]) > 1:
                words.append(Content(f"attempt {number} of {len(row['attempts'])}"))
            took_s = ran_s(attempt, self._wall_now_s())
            if took_s is not None:
                words.append(Content(duration(took_s)))
        right = Content("  ").join(words)
        name = tail(row["name"], max(width - right.cell_length - 2, 12))
        return Content.assemble((name, "bold"), "  ", right)


def streams_of(ask: Ask, job_id: str, attempt: Mapping[str, Any]) -> list[LogStream]:
    """The logs of an attempt: one, or that of each rank of a gang, which are named log.1, log.2."""
    return [
        LogStream(ask, job_id, attempt["attempt_id"], "log" if rank == 0 else f"log.{rank}", rank)
        for rank in range(len(attempt["placements"]))
    ]
