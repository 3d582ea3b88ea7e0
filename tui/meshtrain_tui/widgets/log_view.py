"""The rows of a log, its keys and its mouse; what it shows is decided by a LogViewer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from meshtrain.errors import MeshtrainError
from meshtrain_tui.log.ansi import PLAIN, Look
from meshtrain_tui.log.ranks import LogRanks, Place
from meshtrain_tui.log.viewer import LogViewer, Row
from meshtrain_tui.words import clock, plural

COLUMNS_STEP = 16
WHEEL_ROWS = 3
GUTTER = 1
TIME_WIDTH = 9
BAR_WIDTH = 1


class _Styles(NamedTuple):
    """Of the theme, as rows are drawn with them."""

    base: Style
    aside: Style
    hit: Style
    found: Style
    mark: Style
    bar: Style
    thumb: Style


class LogView(Widget, can_focus=True):
    """A window on a log. It is drawn anew by `load`; what goes wrong on the way is posted."""

    COMPONENT_CLASSES = {  # noqa: RUF012
        "log--aside",
        "log--hit",
        "log--found",
        "log--mark",
        "log--bar",
        "log--thumb",
    }
    DEFAULT_CSS = """
    LogView {
        height: 1fr;
        background: $surface;
        & .log--aside { color: $foreground-muted; }
        & .log--hit { background: $warning; color: $background; }
        & .log--found { background: $boost; text-style: bold; }
        & .log--mark { color: $text-accent; }
        & .log--bar { color: $panel; }
        & .log--thumb { color: $primary; }
    }
    """
    BINDINGS = [  # noqa: RUF012
        Binding("up,k", "rows(-1)", "up", show=False, id="log.up"),
        Binding("down,j", "rows(1)", "down", show=False, id="log.down"),
        Binding("pageup,b", "pages(-1)", "page up", show=False, id="log.page_up"),
        Binding("pagedown,space", "pages(1)", "page down", show=False, id="log.page_down"),
        Binding("home,g", "start", "start", show=False, id="log.start"),
        Binding("end,G", "end", "end", show=False, id="log.end"),
        Binding("left,h", "columns(-1)", "left", show=False, id="log.left"),
        Binding("right", "columns(1)", "right", show=False, id="log.right"),
        Binding("f", "follow", "follow/pause", id="log.follow"),
        Binding("w", "wrap", "wrap", id="log.wrap"),
        Binding("t", "times", "times", id="log.times"),
        Binding("v", "mark", "mark", show=False, id="log.mark"),
        Binding("y", "copy", "copy", show=False, id="log.copy"),
    ]

    class Shown(Message):
        """There is something new in the window, or it stands elsewhere."""

    class Failed(Message):
        """The log can't be read for now, or not as it was wanted."""

        def __init__(self, error: MeshtrainError) -> None:
            super().__init__()
            self.error = error

    def __init__(self, ranks: LogRanks, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.viewer = LogViewer(ranks)
        self.shows_times = False
        #: from where on `copy` takes lines; None: what is in sight
        self.mark: Place | None = None
        self._rows: list[Row] = []
        self._known_styles: _Styles | None = None
        # Keys, news and a search that has ended move one window.
        self._moving = asyncio.Lock()

    def show_ranks(self, ranks: LogRanks) -> None:
        """Show another log from now on, in the same way; `load` draws it."""
        before, self.viewer = self.viewer, LogViewer(ranks)
        self.viewer.wraps = before.wraps
        self.viewer.pattern = before.pattern
        self.mark = None
        self._rows = []
        self.refresh()

    async def load(self) -> None:
        """Draw what there is to be seen now."""
        await self.move(_nothing)

    async def move(self, how: Callable[[], Awaitable[None]]) -> None:
        """Move the window, and draw it."""
        async with self._moving:
            viewer = self.viewer
            viewer.width = max(self.size.width - self._aside_width - BAR_WIDTH, 1)
            viewer.height = max(self.size.height, 1)
            try:
                await how()
                rows = await viewer.rows()
            except MeshtrainError as error:
                self.post_message(self.Failed(error))
                return
            if viewer is self.viewer:
                self._rows = rows
        self.refresh()
        self.post_message(self.Shown())

    @property
    def shown(self) -> list[Row]:
        """The rows as they are drawn."""
        return self._rows

    # --- drawing -----------------------------------------------------------------------------

    @property
    def _rank_width(self) -> int:
        """Of a rank beside each line; none where there is but one."""
        count = len(self.viewer.ranks.documents)
        return len(str(count - 1)) + 2 if count > 1 else 0

    @property
    def _aside_width(self) -> int:
        return GUTTER + self._rank_width + (TIME_WIDTH if self.shows_times else 0)

    @property
    def _styles(self) -> _Styles:
        """The colours of the theme; to find them out takes longer than to draw a row."""
        if self._known_styles is None:
            part = partial(self.get_component_rich_style, partial=True)
            base = self.rich_style
            self._known_styles = _Styles(
                base=base,
                aside=part("log--aside"),
                hit=part("log--hit"),
                found=part("log--found"),
                mark=part("log--mark"),
                bar=base + part("log--bar"),
                thumb=base + part("log--thumb"),
            )
        return self._known_styles

    def notify_style_update(self) -> None:
        self._known_styles = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        base = self._styles.base
        text = self._text(y)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(y)) is not None:
            begin, end = span
            style = self.screen.get_component_rich_style("screen--selection")
            text.stylize(style, begin, len(text) if end == -1 else end)
        width = max(self.size.width - BAR_WIDTH, 0)
        strip = Strip(text.render(self.app.console), cell_len(text.plain))
        # Every piece has a style: what is dimmed is mixed with it.
        strip = strip.apply_style(base).crop_extend(0, width, base).apply_offsets(0, y)
        return Strip.join([strip, self._bar_strip(y)])

    def _text(self, y: int) -> Text:
        styles = self._styles
        text = Text(no_wrap=True, end="")
        if y >= len(self._rows):
            return text
        row = self._rows[y]
        marked = self.mark is not None and sum(row.place) >= sum(self.mark)
        text.append("›" if row.is_found and row.first else "┃" if marked else " ", styles.mark)
        if self._rank_width:
            rank = f"{row.line.rank:>{self._rank_width - 2}}│ " if row.first else ""
            text.append(f"{rank:<{self._rank_width}}", styles.aside)
        if self.shows_times:
            wall_s = row.line.wall_s
            when = "" if not row.first else "  :  :  " if wall_s is None else clock(wall_s)
            text.append(f"{when:<{TIME_WIDTH}}", styles.aside)
        begin = len(text)
        for run in row.runs:
            text.append(run.text, None if run.look == PLAIN else _style(run.look))
        if row.is_found:
            text.stylize(styles.found, begin, len(text))
        for first, after in row.hits:
            text.stylize(styles.hit, begin + first, begin + after)
        return text

    def _bar_strip(self, y: int) -> Strip:
        """Where the window stands in the log."""
        size_bytes = self.viewer.ranks.size_bytes
        share = sum(self.viewer.top) / size_bytes if size_bytes else 0.0
        height = max(self.size.height, 1)
        at = height - 1 if self.viewer.follows else min(int(share * height), height - 1)
        if y == at:
            return Strip([Segment("█", self._styles.thumb)], 1)
        return Strip([Segment("│", self._styles.bar)], 1)

    # --- the mouse ---------------------------------------------------------------------------

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text that was selected with the mouse."""
        return selection.extract(
            "\n".join(self._text(y).plain for y in range(len(self._rows)))
        ), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    async def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        await self.move(lambda: self.viewer.scroll(WHEEL_ROWS))

    async def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        await self.move(lambda: self.viewer.scroll(-WHEEL_ROWS))

    async def on_click(self, event: events.Click) -> None:
        if event.x >= self.size.width - BAR_WIDTH:
            share = event.y / max(self.size.height - 1, 1)
            await self.move(lambda: self.viewer.to_share(share))

    async def on_resize(self) -> None:
        await self.load()

    # --- keys --------------------------------------------------------------------------------

    async def action_rows(self, rows: int) -> None:
        await self.move(lambda: self.viewer.scroll(rows))

    async def action_pages(self, pages: int) -> None:
        rows = max(self.size.height - 1, 1)
        await self.move(lambda: self.viewer.scroll(pages * rows))

    async def action_start(self) -> None:
        self.viewer.to_start()
        await self.load()

    async def action_end(self) -> None:
        self.viewer.follow(True)
        await self.load()

    async def action_follow(self) -> None:
        self.viewer.follow(not self.viewer.follows)
        await self.load()

    async def action_columns(self, steps: int) -> None:
        self.viewer.move_columns(steps * COLUMNS_STEP)
        await self.load()

    async def action_wrap(self) -> None:
        self.viewer.toggle_wrap()
        await self.load()

    async def action_times(self) -> None:
        self.shows_times = not self.shows_times
        await self.load()

    def action_mark(self) -> None:
        """From the line that was found, or the first in sight, on: what `copy` takes."""
        found = next((row.place for row in self._rows if row.is_found), self.viewer.top)
        self.mark = None if self.mark is not None else found
        self.refresh()

    async def action_copy(self) -> None:
        """To the clipboard of the terminal, by OSC 52: over SSH too."""
        async with self._moving:
            try:
                end = await self.viewer.place_below()
                begin = self.viewer.top if self.mark is None else self.mark
                text, count, more = await self.viewer.text_between(begin, end)
            except MeshtrainError as error:
                self.post_message(self.Failed(error))
                return
        self.mark = None
        self.refresh()
        self.app.copy_to_clipboard(text)
        rest = ", as many as a terminal takes" if more else ""
        self.notify(f"{plural(count, 'line')} copied{rest}")


async def _nothing() -> None:
    return


def _style(look: Look) -> Style:
    return Style(
        color=look.fore or None,
        bgcolor=look.back or None,
        bold=look.bold or None,
        dim=look.dim or None,
        italic=look.italic or None,
        underline=look.underline or None,
        reverse=look.reverse or None,
        strike=look.strike or None,
    )
