"""A titled part of a screen that draws itself from a picture, within the room that it has."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from meshtrain_tui.feed import Picture


class Panel(Widget):
    """Shows the lines that `lines` makes; each is cut to the width, the rest is left out."""

    HEADING = ""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.border_title = self.HEADING or None
        self._picture: Picture | None = None

    def show(self, picture: Picture) -> None:
        """Draw this picture from now on."""
        self._picture = picture
        self.refresh()

    def render(self) -> Content:
        if self._picture is None:
            return Content("")
        width, height = self.content_size
        if width < 1 or height < 1:
            return Content("")
        lines = self.lines(self._picture, width, height)[:height]
        return Content("\n").join(line.truncate(width, ellipsis=True) for line in lines)

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        """What to show, at most `height` lines of `width` cells."""
        raise NotImplementedError


def wrapped(text: str, width: int, style: str = "") -> list[Content]:
    """A text for people on as many lines as it needs."""
    return list(Content.styled(text, style).wrap(width))
