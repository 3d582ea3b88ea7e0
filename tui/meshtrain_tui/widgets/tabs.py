"""The line that names the screens and their keys; a click goes there."""

from __future__ import annotations

from typing import NamedTuple

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget


class Tab(NamedTuple):
    """One screen, as the line shows it."""

    key: str
    name: str
    title: str


class TabLine(Widget):
    """`1 Overview  [2 Jobs]  6 Nodes`: the one that is shown stands in brackets."""

    class Chosen(Message):
        """A screen was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__()
        self._tabs: tuple[Tab, ...] = ()
        self._shown = ""

    def tell(self, tabs: tuple[Tab, ...], shown: str) -> None:
        """Which screens there are, and the name of the one that is shown."""
        if (tabs, shown) != (self._tabs, self._shown):
            self._tabs, self._shown = tabs, shown
            self.refresh()

    def render(self) -> Content:
        parts = [
            Content.styled(f"[{text}]", "bold $text-primary")
            if name == self._shown
            else Content.assemble(" ", (key, "bold"), f" {title} ")
            for (key, name, title), text in zip(self._tabs, self._texts(), strict=True)
        ]
        return Content("").join(parts).truncate(max(1, self.content_size.width), ellipsis=True)

    def _texts(self) -> list[str]:
        return [f"{tab.key} {tab.title}" for tab in self._tabs]

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None:
            return
        end = 0
        for tab, text in zip(self._tabs, self._texts(), strict=True):
            end += len(text) + 2
            if at.x < end:
                self.post_message(self.Chosen(tab.name))
                return
