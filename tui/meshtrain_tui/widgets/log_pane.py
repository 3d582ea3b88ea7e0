"""A log with what belongs to it: news, searches, jumps, and a line that says where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static
from textual.worker import Worker

from meshtrain.clock import wall_now_s
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.net.base import MasterAwayError
from meshtrain_tui.log.jump import JUMP_HELP, parse_jump
from meshtrain_tui.log.ranks import LogRanks, Place
from meshtrain_tui.log.search import PATTERN_CHARS_MAX, SearchPattern
from meshtrain_tui.log.stream import LogStream
from meshtrain_tui.widgets.log_view import LogView
from meshtrain_tui.words import clock, size

LOOK_EVERY_S = 0.5
"""Between two questions whether a log that is open has grown."""
COUNT_PAUSE_S = 0.005
"""Between two regions that are counted: whoever looks at the log goes first."""
SEARCHES_KEPT = 50
SEARCH, JUMP = "search", "jump"


class LogPane(Vertical):
    """The log of an attempt, or the logs of its ranks as one.

    Args:
        look_every_s: seconds between two questions whether it has grown.
        wall_now_s: the time, as it is told in words.
    """

    DEFAULT_CSS = """
    LogPane {
        height: 1fr;
        & .log-prompt { display: none; height: 1; border: none; padding: 0 1; }
        &.-asks .log-prompt { display: block; }
        & .log-status { height: 1; padding: 0 1; background: $panel; color: $foreground; }
        & .log-empty { height: 1fr; padding: 0 1; color: $foreground-muted; display: none; }
        &.-empty .log-empty { display: block; }
        &.-empty LogView { display: none; }
        &.-stale LogView { opacity: 45%; }
    }
    """
    BINDINGS = [  # noqa: RUF012
        Binding("slash", "ask('search')", "search", id="log.search"),
        Binding("n", "search(False)", "next", show=False, id="log.next"),
        Binding("N", "search(True)", "previous", show=False, id="log.previous"),
        Binding("at", "ask('jump')", "jump", id="log.jump"),
        Binding("up", "recall(-1)", show=False),
        Binding("down", "recall(1)", show=False),
        Binding("escape", "close", "back", show=False),
    ]

    def __init__(
        self,
        *,
        look_every_s: float = LOOK_EVERY_S,
        wall_now_s: Callable[[], float] = wall_now_s,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._look_every_s = look_every_s
        self._wall_now_s = wall_now_s
        self._ranks = LogRanks(())
        self._empty = ""
        self._asks = ""
        self._searches: list[str] = []
        self._recalled = 0
        #: how far a search is that goes on; None: none does
        self._searched: float | None = None
        self._said = ""
        self._heard_wall_s: float | None = None
        self._trouble = ""
        self._lines: int | None = None
        self._top_line: int | None = None
        self._searching: Worker[None] | None = None
        self._counting: Worker[None] | None = None

    def compose(self) -> ComposeResult:
        yield LogView(self._ranks)
        yield Static(classes="log-empty")
        yield Input(classes="log-prompt", compact=True, max_length=PATTERN_CHARS_MAX)
        yield Static(classes="log-status")

    @property
    def view(self) -> LogView:
        return self.query_one(LogView)

    def on_mount(self) -> None:
        self.set_interval(self._look_every_s, self.look)

    # --- which log, and its news -----------------------------------------------------------------

    async def show_streams(self, streams: Sequence[LogStream], empty: str = "") -> None:
        """Show these from now on; where there are none, `empty` says why."""
        for worker in (self._searching, self._counting):
            if worker is not None:
                worker.cancel()
        self._counting = self._searching = None
        self._searched = self._lines = self._top_line = self._heard_wall_s = None
        self._said = self._trouble = ""
        self._ranks = LogRanks(streams)
        self.view.show_ranks(self._ranks)
        self.tell_empty(empty)
        await self.look()

    def tell_empty(self, empty: str) -> None:
        """What stands there instead of a log that there isn't."""
        self._empty = empty
        self._show_status()

    async def look(self) -> None:
        """Ask whether the log has grown, and show it. An ended log is asked for no more."""
        ranks = self._ranks
        first = self._heard_wall_s is None
        if not ranks.documents or (ranks.ended and not first and not self._trouble):
            return
        try:
            changed = await ranks.refresh()
        except MeshtrainError as error:
            if ranks is self._ranks:
                self._tell_trouble(error)
            return
        if ranks is not self._ranks:
            return
        self._heard_wall_s = self._wall_now_s()
        self._trouble = ""
        if changed or first:
            await self.view.load()
            if self._counting is None or self._counting.is_finished:
                self._counting = self.run_worker(self._count(ranks), group="count")
        self._show_status()

    def _tell_trouble(self, error: MeshtrainError) -> None:
        self._trouble = str(error)
        if self._heard_wall_s is not None:
            since = f"stale since {clock(self._heard_wall_s)}"
            # Why nobody answers is told once, at the top.
            away = isinstance(error, MasterAwayError)
            self._trouble = since if away else f"{since}: {error}"
        self._show_status()

    async def _count(self, ranks: LogRanks) -> None:
        """Let the lines be counted, a region after the other, as long as there are more."""
        try:
            more = True
            while more:
                more = await ranks.count_next()
                await asyncio.sleep(COUNT_PAUSE_S)
            lines = await ranks.lines()
            top = await ranks.number_of(self.view.viewer.top)
        except MeshtrainError as error:
            self._tell_trouble(error)
            return
        if ranks is self._ranks:
            self._lines, self._top_line = lines, top
            self._show_status()

    @on(LogView.Shown)
    async def _window_moved(self) -> None:
        if self._lines is not None:
            try:
                self._lines = await self._ranks.lines() or self._lines
                self._top_line = await self._ranks.number_of(self.view.viewer.top)
            except MeshtrainError as error:
                self._tell_trouble(error)
                return
        self._show_status()

    @on(LogView.Failed)
    def _window_failed(self, message: LogView.Failed) -> None:
        if isinstance(message.error, UserError):
            self._said = str(message.error)
            self._show_status()
        else:
            self._tell_trouble(message.error)

    # --- searching and jumping -----------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "recall":
            return self._asks == SEARCH
        if action == "close":
            return bool(self._asks or self._searched is not None or self.view.viewer.pattern)
        return True

    def action_ask(self, what: str) -> None:
        """Open the line that takes a pattern, or a place."""
        self._asks = what
        prompt = self.query_one(Input)
        prompt.placeholder = "a regular expression" if what == SEARCH else JUMP_HELP
        prompt.value = ""
        self._recalled = len(self._searches)
        self.add_class("-asks")
        prompt.focus()

    def action_recall(self, step: int) -> None:
        """Bring back what was searched for before."""
        self._recalled = min(max(self._recalled + step, 0), len(self._searches))
        texts = [*self._searches, ""]
        prompt = self.query_one(Input)
        prompt.value = texts[self._recalled]
        prompt.cursor_position = len(prompt.value)

    def action_close(self) -> None:
        """Close the line, or end the search, or mark what was found no more."""
        if self._asks:
            self._close_prompt()
        elif self._searched is not None:
            self._stop_search()
            self._said = "search stopped"
        else:
            self.view.viewer.search_for(None)
            self._said = ""
            self.run_worker(self.view.load())
        self._show_status()

    def _close_prompt(self) -> None:
        self._asks = ""
        self.remove_class("-asks")
        self.view.focus()

    def _stop_search(self) -> None:
        if self._searching is not None:
            self._searching.cancel()
        self._searching = self._searched = None

    @on(Input.Submitted)
    async def _prompt_answered(self, event: Input.Submitted) -> None:
        event.stop()
        asked, text = self._asks, event.value
        self._close_prompt()
        try:
            if asked == JUMP and text.strip():
                jump = parse_jump(text, self._ranks.span_s)
                self._said = ""
                await self.view.move(lambda: self.view.viewer.jump(jump))
            elif asked == SEARCH and text:
                pattern = SearchPattern(text)
                self._searches = [*(old for old in self._searches if old != text), text]
                del self._searches[:-SEARCHES_KEPT]
                self.view.viewer.search_for(pattern)
                # Whoever looks at the end wants the last one.
                self.action_search(self.view.viewer.follows)
        except UserError as error:
            self._said = str(error)
        self._show_status()

    def action_search(self, back: bool) -> None:
        """Go to the next line that the pattern is found in, or to the one before."""
        if self.view.viewer.pattern is None:
            if self._searches:
                self.view.viewer.search_for(SearchPattern(self._searches[-1]))
            else:
                self.action_ask(SEARCH)
                return
        self._stop_search()
        self._searched = 0.0
        self._said = ""
        self._searching = self.run_worker(self._search(back), group="search")

    async def _search(self, back: bool) -> None:
        viewer, ranks = self.view.viewer, self._ranks
        pattern = viewer.pattern
        if pattern is None:
            return
        size_bytes = max(ranks.size_bytes, 1)

        def tell(at: int) -> None:
            share = at / size_bytes
            if self._searched is None or abs(share - self._searched) >= 0.01:
                self._searched = share
                self._show_status()

        try:
            begin: Place = await viewer.search_from(back=back)
            found = await ranks.find(pattern, begin, back=back, tell=tell)
        except MeshtrainError as error:
            self._searched = None
            self._tell_trouble(error)
            return
        self._searched = None
        if found is None:
            where, other = ("above", "n") if back else ("below", "N")
            self._said = f"“{pattern.text}” is not found {where}; {other} looks the other way"
            await self.view.load()
        else:
            await self.view.move(lambda: viewer.stand_at_found(found))
        self._show_status()

    # --- the line below --------------------------------------------------------------------------

    def _show_status(self) -> None:
        if not self.is_mounted:
            return
        nothing = self._ranks.size_bytes == 0
        self.set_class(nothing, "-empty")
        self.set_class(bool(self._trouble), "-stale")
        empty = self._empty or ("Nothing was printed." if self._ranks.ended else "Nothing yet.")
        self.query_one(".log-empty", Static).update(Content(empty))
        self.query_one(".log-status", Static).update(self._status())

    def _status(self) -> Content:
        viewer = self.view.viewer
        if self._trouble:
            return Content.styled(f"○ {self._trouble}", "$text-warning")
        if not self._ranks.documents:
            return Content("")
        how = "● following" if viewer.follows else "‖ paused"
        if self._ranks.ended:
            how = "■ ended"
        # What was asked for last comes first: a narrow screen cuts the rest.
        parts = [how, self._note(), self._place(), size(self._ranks.size_bytes)]
        rows = self.view.shown
        if rows and rows[0].line.wall_s is not None:
            parts.append(clock(rows[0].line.wall_s))
        return Content("  ").join(Content(part) for part in parts if part)

    def _note(self) -> str:
        """What a search, a jump or a mark has to say."""
        if self._searched is not None:
            return f"searching, at {self._searched:.0%} (esc stops)"
        if self._said:
            return self._said
        if self.view.mark is not None:
            return "marked: y copies from there down to here"
        pattern = self.view.viewer.pattern
        return "" if pattern is None else f"“{pattern.text}” n N"

    def _place(self) -> str:
        if self._lines == 0:
            return ""
        if self._lines is None:
            share = sum(self.view.viewer.top) / max(self._ranks.size_bytes, 1)
            return f"{share:.0%}"
        if self._top_line is None or len(self._ranks.documents) > 1:
            return f"{self._lines:,} lines"
        return f"line {self._top_line + 1:,} of {self._lines:,}"
