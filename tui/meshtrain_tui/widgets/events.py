"""What happened last, the newest first."""

from __future__ import annotations

from textual.content import Content

from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.words import clock


class EventsPanel(Panel):
    """The notes of the mesh."""

    HEADING = "Last events"

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        notes = picture.view.notes
        if not notes:
            if picture.link.since_wall_s is None:
                return []
            since = clock(picture.link.since_wall_s)
            return wrapped(f"Nothing happened since {since}.", width, "$foreground-muted")
        return [
            Content.assemble(
                (clock(note.wall_s), "$foreground-muted"), "  ", " ".join(note.text.split())
            )
            for note in reversed(notes[-height:])
        ]
