"""The line that tells where one is, and how to get back: `Jobs › few_shot › job`."""

from __future__ import annotations

from typing import NamedTuple

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from meshtrain_tui.words import tail

BETWEEN = " › "


class Crumbs(NamedTuple):
    """The way to the present screen, and what it says of itself."""

    path: tuple[str, ...]
    note: str = ""


class CrumbsLine(Widget):
    """The way at the left, the note at the right; a click on a part goes back to it."""

    class Chosen(Message):
        """Somebody wants back to the screen at this depth, counted from 0."""

        def __init__(self, depth: int) -> None:
            super().__init__()
            self.depth = depth

    def __init__(self) -> None:
        super().__init__()
        self._crumbs = Crumbs(())

    def tell(self, crumbs: Crumbs) -> None:
        """What to show from now on."""
        if crumbs != self._crumbs:
            self._crumbs = crumbs
            self.refresh()

    def render(self) -> Content:
        width = max(1, self.content_size.width)
        path, note = self._crumbs
        before, last = path[:-1], path[-1] if path else ""
        room = max(8, width - len(note) - 2)
        way = "".join(f"{part}{BETWEEN}" for part in before)
        if len(way) + len(last) > room:
            way = tail(way, max(0, room - len(last))) if room > len(last) else ""
        left = Content.assemble((way, "$foreground-muted"), (tail(last, room), "bold"))
        gap = max(1, width - left.cell_length - len(note))
        line = left.append(" " * gap).append(Content.styled(note, "$foreground-muted"))
        return line.truncate(width, ellipsis=True)

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None:
            return
        end = 0
        for depth, part in enumerate(self._crumbs.path[:-1]):
            end += len(part) + len(BETWEEN)
            if at.x < end:
                self.post_message(self.Chosen(depth))
                return
