"""A table of a long list that draws only the rows that are seen.

    PageTable(
        PageQuery("jobs"), desk.page, COLUMNS,
        row_id=lambda row: row.job_id,
        empty="No jobs yet: ...",
    )
    table.show(picture)                 draw; asks for rows anew when there is news
    table.restart(query)                another filter, order or sweep
    table.chosen()                      the marked rows; else the one under the cursor
    table.sort_by("name")               as a click on the heading does

It posts Opened(row) for enter and a second click, Sorted and Marked when these have
changed. The filter's input and the choice of a column are screens.list_screen's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

import msgspec
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from meshtrain.clock import lease_now_s
from meshtrain.core.pages import Page, PageQuery, Row
from meshtrain_tui.feed import Picture
from meshtrain_tui.pager import Pager
from meshtrain_tui.settings import Density
from meshtrain_tui.widgets.columns import BETWEEN, Column, Fitted, fit, line_of

GUTTER = 3
"""Cells for the cursor's and the mark's signs."""
HEADING_ROWS = 1
MARKS_MAX = 5000
CURSOR_SIGN, MARK_SIGN = "▶", "✓"
WAITS = f"{'…':>{GUTTER + 1}}"
"""A row that is on its way."""


class PageTable(ScrollView, can_focus=True):
    """Rows that come in pages."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="table.page_up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="table.page_down"),
        Binding("home,g", "first", "first row", show=False, id="table.first"),
        Binding("end,G", "last", "last row", show=False, id="table.last"),
        Binding("enter", "open", "open", id="table.open"),
        Binding("space", "mark", "mark", id="table.mark"),
        Binding("ctrl+a", "mark_all", "mark all", show=False, id="table.mark_all"),
    ]

    class Opened(Message):
        """A row was chosen to be looked into."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    class Sorted(Message):
        """The rows stand in another order."""

    class Marked(Message):
        """Other rows are marked, or the cursor stands on another one."""

    def __init__(
        self,
        query: PageQuery,
        fetch: Callable[[PageQuery], Awaitable[Page]],
        columns: Sequence[Column],
        *,
        row_id: Callable[[Any], str],
        empty: Callable[[Picture], str] | str = "",
        opens: bool = True,
        marks: bool = True,
        now_s: Callable[[], float] = lease_now_s,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self._row_id = row_id
        self._empty = empty
        self._opens = opens
        self._marks_allowed = marks
        self._fetch = fetch
        self._pager = Pager(query, fetch, self._came, now_s=now_s)
        self._picture: Picture | None = None
        self._density = Density.NORMAL
        self._fitted: Fitted = ()
        self._cursor = 0
        self._cursor_id = ""
        self._marked: dict[str, Row] = {}
        self._changes = 0
        """How often rows have come."""
        self._strips: dict[tuple[int, bool, bool], Strip] = {}
        """Lines as they were drawn: row, whether the cursor is there, whether it is marked."""
        self._drawn_for: tuple[object, ...] = ()
        """What the lines depend on otherwise."""

    # --- what others ask ------------------------------------------------------------

    @property
    def query_now(self) -> PageQuery:
        """What is shown."""
        return self._pager.query

    @property
    def pager(self) -> Pager:
        """Where the rows come from."""
        return self._pager

    @property
    def cursor(self) -> int:
        """The place of the row under the cursor, counted from 0."""
        return self._cursor

    @property
    def marked(self) -> list[Row]:
        """The rows that are marked, in the order in which they were."""
        return list(self._marked.values())

    @property
    def current(self) -> Row | None:
        """The row under the cursor."""
        return self._pager.row(self._cursor)

    def chosen(self) -> list[Row]:
        """The marked rows; else the one under the cursor, if any."""
        if self._marked:
            fresh = {self._row_id(row): row for _, row in self._pager.rows()}
            return [fresh.get(row_id, row) for row_id, row in self._marked.items()]
        current = self.current
        return [] if current is None else [current]

    def show(self, picture: Picture, density: Density = Density.NORMAL) -> None:
        """Draw with this picture's time; ask for rows anew when it brought news."""
        self._picture = picture
        self._density = density
        self._pager.tick(picture.revisions.get(self._pager.query.kind, 0))
        self.refresh()

    def restart(self, query: PageQuery) -> None:
        """Show something else from now on; marks stay."""
        self._cursor, self._cursor_id = 0, ""
        self.scroll_to(y=0, animate=False)
        self._pager.want(0, self._rows_seen)
        self._pager.restart(query)

    def sort_by(self, name: str) -> None:
        """Sort by a column; by the present one: the other way round."""
        query = self._pager.query
        descending = not query.descending if query.sort == name else False
        self.restart(msgspec.structs.replace(query, sort=name, descending=descending))
        self.post_message(self.Sorted())

    def reverse(self) -> None:
        """The same order from its other end."""
        query = self._pager.query
        self.restart(msgspec.structs.replace(query, descending=not query.descending))
        self.post_message(self.Sorted())

    def clear_marks(self) -> bool:
        """Take all marks away; False when there was none."""
        had = bool(self._marked)
        self._marked.clear()
        if had:
            self.refresh()
            self.post_message(self.Marked())
        return had

    # --- what keys and the mouse do ---------------------------------------------------

    def on_mount(self) -> None:
        self.run_worker(self._pager.run(), name="pager")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "open":
            return self._opens
        if action in ("mark", "mark_all"):
            return self._marks_allowed
        return super().check_action(action, parameters)

    def action_move(self, by: int) -> None:
        self._move_to(self._cursor + by)

    def action_page(self, by: int) -> None:
        self._move_to(self._cursor + by * max(1, self._rows_seen - 1))

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self._move_to(self._pager.matched - 1)

    def action_open(self) -> None:
        if self._opens and (row := self.current) is not None:
            self.post_message(self.Opened(row))

    def action_mark(self) -> None:
        row = self.current
        if row is None:
            return
        row_id = self._row_id(row)
        if row_id in self._marked:
            del self._marked[row_id]
        elif len(self._marked) < MARKS_MAX:
            self._marked[row_id] = row
        self._move_to(self._cursor + 1)
        self.refresh()
        self.post_message(self.Marked())

    async def action_mark_all(self) -> None:
        """Mark all that the filter lets through, as many as may be marked."""
        query = self._pager.query
        offset = 0
        while len(self._marked) < MARKS_MAX:
            page = await self._fetch(msgspec.structs.replace(query, offset=offset, limit=1000))
            for row in page.rows[: MARKS_MAX - len(self._marked)]:
                self._marked[self._row_id(row)] = row
            offset += len(page.rows)
            if not page.rows or offset >= page.matched:
                break
        self.refresh()
        self.post_message(self.Marked())

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None:
            return
        if at.y < HEADING_ROWS:
            self._click_heading(at.x)
            return
        index = round(self.scroll_y) + at.y - HEADING_ROWS
        if index >= self._pager.matched:
            return
        again = index == self._cursor and event.chain > 1
        self._move_to(index)
        if at.x < GUTTER and self._marks_allowed:
            self.action_mark()
        elif again:
            self.action_open()

    def _click_heading(self, x: int) -> None:
        left = GUTTER
        for column, width in self._fitted:
            if left <= x < left + width + BETWEEN and column.name:
                self.sort_by(column.name)
                return
            left += width + BETWEEN

    def _move_to(self, index: int) -> None:
        """Put the cursor on a row, and see to it that it is seen."""
        self._cursor = max(0, min(index, self._pager.matched - 1))
        row = self.current
        self._cursor_id = "" if row is None else self._row_id(row)
        top = round(self.scroll_target_y)
        room = self._rows_seen
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + room:
            self.scroll_to(y=self._cursor - room + 1, animate=False)
        self.refresh()
        self.post_message(self.Marked())

    # --- drawing ------------------------------------------------------------------------

    @property
    def _width(self) -> int:
        """Cells of a line; where there is a scrollbar, it stands beside them."""
        return self.scrollable_content_region.width

    @property
    def _rows_seen(self) -> int:
        return max(1, self.size.height - HEADING_ROWS)

    def _came(self) -> None:
        """Rows have come: the cursor stays on the row that it is on, where that is near."""
        self._changes += 1
        if self._cursor_id:
            row = self.current
            if row is None or self._row_id(row) != self._cursor_id:
                for index, other in self._pager.rows():
                    if self._row_id(other) == self._cursor_id:
                        self._cursor = index
                        break
        self._cursor = max(0, min(self._cursor, self._pager.matched - 1))
        row = self.current
        self._cursor_id = "" if row is None else self._row_id(row)
        size = Size(self._width, self._pager.matched + HEADING_ROWS)
        if size != self.virtual_size:
            self.virtual_size = size
        self.refresh()
        self.post_message(self.Marked())

    def on_resize(self) -> None:
        self.virtual_size = Size(self._width, self._pager.matched + HEADING_ROWS)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        top = round(new_value)
        self._pager.want(top, top + self._rows_seen)

    def render_lines(self, crop: Any) -> list[Strip]:
        # Once a repaint, not once a line: the same for all of them.
        drawn_for = (
            self._width,
            self._density,
            id(self._picture),
            self._changes,
            self.has_focus,
            self.visual_style,
        )
        if drawn_for != self._drawn_for:
            self._drawn_for = drawn_for
            self._strips.clear()
            self._fitted = fit(self._columns, max(1, self._width - GUTTER), self._density)
        top = round(self.scroll_y)
        self._pager.want(top, top + self._rows_seen)
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        if y < HEADING_ROWS:
            return self._drawn(self._heading())
        index = round(self.scroll_y) + y - HEADING_ROWS
        row = self._pager.row(index) if index < self._pager.matched else None
        if row is None or self._picture is None:
            if index < self._pager.matched:
                return self._drawn(Content.styled(WAITS, "$foreground-muted"))
            return self._drawn(self._beyond(y))
        here, marked = index == self._cursor, self._row_id(row) in self._marked
        # A key moves the cursor past lines that are as they were.
        key = (id(row), here, marked)
        if key not in self._strips:
            self._strips[key] = self._drawn(self._line(row, self._picture, here, marked))
        return self._strips[key]

    def _drawn(self, content: Content) -> Strip:
        width = self._width
        strips = Visual.to_strips(self, content.truncate(width), width, 1, self.visual_style)
        strip = strips[0] if strips else Strip.blank(width)
        return strip.adjust_cell_length(width, self.rich_style)

    def _heading(self) -> Content:
        query = self._pager.query
        parts = []
        for column, width in self._fitted:
            sign = ""
            if query.sort and query.sort == column.name:
                sign = "↓" if query.descending else "↑"
            title = f"{column.title}{sign}"[:width]
            text = f"{title:>{width}}" if column.right else f"{title:<{width}}"
            style = "bold underline $text-primary" if sign else "bold $text-primary"
            parts.append(Content.styled(text, style))
        return Content(" " * GUTTER).append(Content(" " * BETWEEN).join(parts))

    def _line(self, row: Row, picture: Picture, here: bool, marked: bool) -> Content:
        gutter = f"{CURSOR_SIGN if here else ' '}{MARK_SIGN if marked else ' '} "
        line = line_of(gutter, self._fitted, row, picture)
        if not here:
            return line.stylize("bold") if marked else line
        line = line.append(" " * max(0, self._width - line.cell_length))
        if self.has_focus:
            return line.stylize("bold $block-cursor-foreground on $block-cursor-background")
        return line.stylize("bold")

    def _beyond(self, y: int) -> Content:
        """What stands below the last row: nothing, or why there is none."""
        pager, picture = self._pager, self._picture
        line = y - HEADING_ROWS - pager.matched
        if pager.error and (pager.matched == 0 or line == 0):
            words = f"No newer rows: {pager.error}"
        elif not pager.known or picture is None or pager.matched:
            return Content("")
        elif pager.total:
            words = "Nothing passes the filter: esc takes it away."
        else:
            words = self._empty if isinstance(self._empty, str) else self._empty(picture)
        lines = Content.styled(words, "$foreground-muted").wrap(max(8, self._width - GUTTER))
        if not 0 <= line < len(lines):
            return Content("")
        return Content(" " * GUTTER).append(lines[line])
