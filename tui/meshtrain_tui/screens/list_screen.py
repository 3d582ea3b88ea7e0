"""A screen that is one long list: with a filter, an order, marks and what is done to them.

    class Transfers(ListScreen):
        TITLE_WORDS = "Transfers"
        KIND = "transfers"                              as core.pages names it
        COLUMNS = (Column("to", "TO", 12, lambda row, picture: row.to_node), ...)

        def row_id(self, row): return f"{row.artifact_id} {row.to_node}"
        def empty(self, picture): return "Nothing has travelled yet: ..."
        def open_row(self, row): self.desk.open("job", row.job_id)     for enter
        def rows_command(self, rows): return "meshtrain bases"          for `$`

`self.table` is the PageTable, `self.chosen()` what is marked, or under the cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from meshtrain.core.pages import Page, PageQuery, Row
from meshtrain_tui.feed import Picture
from meshtrain_tui.screens.choose import Choice, Choose
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.widgets.columns import Column
from meshtrain_tui.widgets.filter import Filter
from meshtrain_tui.widgets.table import PageTable


class ListScreen(MeshScreen):
    """One list, as it is filtered and sorted."""

    KIND: ClassVar[str] = ""
    COLUMNS: ClassVar[Sequence[Column]] = ()
    OPENS: ClassVar[bool] = True
    MARKS: ClassVar[bool] = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "filter", id="screen.filter"),
        Binding("s", "sort", "sort", id="screen.sort"),
        Binding("S", "reverse", "turn round", show=False, id="screen.reverse"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._base = PageQuery(self.KIND)

    # --- what a list says of itself ----------------------------------------------------

    def row_id(self, row: Any) -> str:
        """What tells one row from another, also after a restart."""
        raise NotImplementedError

    def columns(self) -> Sequence[Column]:
        """The columns, where one list's are not always the same."""
        return self.COLUMNS

    def empty(self, picture: Picture) -> str:
        """What to do when there is no row at all."""
        raise NotImplementedError

    def open_row(self, row: Any) -> None:
        """Look into a row."""

    async def fetch(self, query: PageQuery) -> Page:
        """A page of the list; a kind that the picture holds in full is taken from there."""
        return await self.desk.page(query)

    def rows_command(self, rows: Sequence[Any]) -> str:
        """The command that shows these rows, or all where there are none."""
        return super().command_line()

    # --- what others ask ----------------------------------------------------------------

    @property
    def table(self) -> PageTable:
        return self.query_one(PageTable)

    def chosen(self) -> list[Row]:
        """The marked rows; else the one under the cursor."""
        return self.table.chosen()

    def limit_to(self, query: PageQuery) -> None:
        """Show only what this lets through, before any filter that is typed."""
        self._base = query
        if self.is_whole:
            self._ask()

    def sort_by(self, name: str) -> None:
        """Sort by a column; by the present one: the other way round."""
        self.table.sort_by(name)

    # --- the screen ---------------------------------------------------------------------

    def compose_body(self) -> ComposeResult:
        yield PageTable(
            self._base,
            self.fetch,
            self.columns(),
            row_id=self.row_id,
            empty=self.empty,
            opens=self.OPENS,
            marks=self.MARKS,
            now_s=self.desk.now_s,
        )
        yield Filter(self.desk.filters)

    def draw(self, picture: Picture) -> None:
        self.table.show(picture, self.desk.density)

    def note(self, picture: Picture) -> str:
        table = self.table
        pager, query = table.pager, table.query_now
        parts = []
        if table.marked:
            parts.append(f"{len(table.marked):,} marked")
        if query.filter != self._base.filter:
            parts.append(
                f"/{query.filter}/" if query.filter[0] != "!" else f"not /{query.filter[1:]}/"
            )
        if query.sort:
            parts.append(f"by {query.sort} {'↓' if query.descending else '↑'}")
        elif query.descending:
            parts.append("oldest first")
        if pager.known:
            of_all = f" of {pager.total:,}" if pager.matched != pager.total else ""
            parts.append(f"{pager.matched:,}{of_all}")
        else:
            parts.append("asking")
        return " · ".join(parts)

    def command_line(self) -> str:
        return self.rows_command(self.chosen())

    def escape(self) -> bool:
        table = self.table
        if table.clear_marks():
            return True
        if table.query_now.filter != self._base.filter:
            self._filter(self._base.filter)
            return True
        return False

    # --- keys ------------------------------------------------------------------------------

    def action_filter(self) -> None:
        # What the list is of is no filter that somebody typed.
        present = self.table.query_now.filter
        self.query_one(Filter).open("" if present == self._base.filter else present)

    def action_sort(self) -> None:
        query = self.table.query_now
        choices = [
            Choice(column.name, column.title or column.name)
            for column in self.columns()
            if column.name
        ]

        def sort(name: str | None) -> None:
            if name is not None:
                self.sort_by(name)

        title = "Sort by" + (" (again: the other way round)" if query.sort else "")
        self.app.push_screen(Choose(title, choices, query.sort), sort)

    def action_reverse(self) -> None:
        self.table.reverse()

    def on_filter_changed(self, event: Filter.Changed) -> None:
        self._filter(event.text or self._base.filter)

    def on_filter_kept(self) -> None:
        self.query_one(Filter).close(keep=True)
        self.table.focus()

    def on_filter_left(self) -> None:
        self.query_one(Filter).close(keep=False)
        self._filter(self._base.filter)
        self.table.focus()

    def on_page_table_opened(self, event: PageTable.Opened) -> None:
        self.open_row(event.row)

    def on_page_table_sorted(self) -> None:
        self.show_crumbs()

    def on_page_table_marked(self) -> None:
        if self.is_current:
            self.show_crumbs()

    def _filter(self, text: str) -> None:
        if text != self.table.query_now.filter:
            self.table.restart(msgspec.structs.replace(self.table.query_now, filter=text))
            self.show_crumbs()

    def _ask(self) -> None:
        """The rows of `limit_to`, filtered and sorted as before."""
        now = self.table.query_now
        self.table.restart(
            msgspec.structs.replace(
                self._base, filter=now.filter, sort=now.sort, descending=now.descending
            )
        )
