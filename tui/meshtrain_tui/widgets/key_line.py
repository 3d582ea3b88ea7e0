"""The line at the bottom: the keys that work here, as many as fit. A click presses one."""

from __future__ import annotations

from typing import Any, NamedTuple

from textual.binding import ActiveBinding
from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.widget import Widget

LAST = ("app.help",)
"""Bindings that are shown in any case, at the end of the line."""

RANKS = {"screen": 1, "table": 1, "app": 2}
"""What only the present screen has comes first, what all have last."""


class KeyHint(NamedTuple):
    """One key, as the line shows it."""

    key: str
    """As Textual names it, to be pressed by a click."""
    shown: str
    words: str

    @property
    def width(self) -> int:
        return len(self.shown) + len(self.words) + 3


def hints_of(bindings: dict[str, ActiveBinding], screen: Screen[Any]) -> list[KeyHint]:
    """The keys to show, one an action, the screen's own first."""
    found: dict[str, tuple[int, KeyHint]] = {}
    for active in bindings.values():
        binding = active.binding
        if not binding.show or not active.enabled or binding.action in found:
            continue
        shown = screen.app.get_key_display(binding)
        rank = RANKS.get((binding.id or "").partition(".")[0], 0)
        if binding.id in LAST:
            rank = max(RANKS.values()) + 1
        found[binding.action] = (rank, KeyHint(binding.key, shown, binding.description))
    return [hint for _, hint in sorted(found.values(), key=lambda ranked: ranked[0])]


class KeyLine(Widget):
    """What can be pressed here."""

    def __init__(self) -> None:
        super().__init__()
        self._hints: list[KeyHint] = []

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        self._changed(self.screen)

    def _changed(self, screen: Screen[Any]) -> None:
        if screen is self.screen:
            hints = hints_of(screen.active_bindings, screen)
            if hints != self._hints:
                self._hints = hints
                self.refresh()

    @property
    def shown(self) -> list[KeyHint]:
        """Those that fit; of the rest, `?` tells."""
        room = self.content_size.width
        if not self._hints:
            return []
        *others, last = self._hints
        kept: list[KeyHint] = []
        used = last.width
        for hint in others:
            if used + hint.width > room:
                break
            kept.append(hint)
            used += hint.width
        return [*kept, last]

    def render(self) -> Content:
        parts = [
            Content.assemble((hint.shown, "bold $text-accent"), f" {hint.words}  ")
            for hint in self.shown
        ]
        return Content("").join(parts).truncate(max(1, self.content_size.width))

    def on_click(self, event: Click) -> None:
        at = event.get_content_offset(self)
        if at is None:
            return
        end = 0
        for hint in self.shown:
            end += hint.width
            if at.x < end:
                self.app.simulate_key(hint.key)
                return
