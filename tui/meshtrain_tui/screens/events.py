"""What happened in the mesh, the latest first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshtrain.core.changes import Note
from meshtrain.core.pages import Page, PageQuery, page_of
from meshtrain_tui.feed import Picture
from meshtrain_tui.screens.list_screen import ListScreen
from meshtrain_tui.steering.action import command_of
from meshtrain_tui.widgets.columns import Column
from meshtrain_tui.words import clock


class Events(ListScreen):
    """The notes of the mesh."""

    TITLE_WORDS = "Events"
    HELP = (
        "What happened since the master came up, as far as it is kept: who joined and left, "
        "what was trained and fetched, what failed and went on elsewhere."
    )
    KIND = "events"
    OPENS = False
    MARKS = False
    COLUMNS = (
        Column("time", "TIME", 8, lambda row, picture: clock(row.wall_s)),
        Column("text", "WHAT", 30, lambda row, picture: " ".join(row.text.split()), flexible=True),
    )

    async def fetch(self, query: PageQuery) -> Page:
        # The picture holds the last events: nobody needs to be asked.
        picture = self.desk.picture
        return Page((), 0, 0) if picture is None else page_of(picture.view, query)

    def row_id(self, row: Note) -> str:
        return f"{row.wall_s} {row.text}"

    def empty(self, picture: Picture) -> str:
        since = picture.link.since_wall_s
        if since is None:
            return "Nothing heard of the mesh yet."
        return f"Nothing happened since {clock(since)}. Start something: meshtrain submit FILE"

    def rows_command(self, rows: Sequence[Any]) -> str:
        return command_of("top")
