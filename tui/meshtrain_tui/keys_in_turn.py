"""Gives each key to what the key before it has opened, however fast they come.

A slow link brings what was typed in one piece. Textual hands such keys out before the
first has done its work: of `/accuracy` the letters would go to the list, where `c` asks
whether to cancel, and `y` says yes; here they go to the filter.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from textual.app import App
from textual.dom import DOMNode
from textual.events import Event, Key
from textual.screen import Screen

KEYS_MAX = 1000
"""Keys that wait their turn; what is typed beyond is lost."""
PATIENCE_S = 0.5
"""With one key; whoever had it may have gone meanwhile."""


class KeysInTurn(App[None]):
    """An app whose keys wait for one another."""

    def __init__(self) -> None:
        super().__init__()
        self._keys_waiting: deque[Key] = deque()
        self._is_key_at_work = False
        self._key_number = 0

    async def on_event(self, event: Event) -> None:
        # One that comes back from whom it was given to is forwarded.
        if not isinstance(event, Key) or event.is_forwarded:
            await super().on_event(event)
        elif not self._is_key_at_work:
            await self._give(event)
        elif len(self._keys_waiting) < KEYS_MAX:
            self._keys_waiting.append(event)
            if len(self._keys_waiting) == 1:
                self._give_up_later()

    async def _give(self, key: Key) -> None:
        self._is_key_at_work = True
        self._key_number += 1
        screen = self.screen
        target = self.focused or screen
        await super().on_event(key)
        self._follow(self._key_number, screen, list(target.ancestors_with_self))

    def _follow(self, number: int, screen: Screen[Any], path: list[DOMNode]) -> None:
        """Go the way that the key went, behind it: from the focus up to the app."""
        for place, node in enumerate(path):
            if node.call_later(partial(self._follow, number, screen, path[place + 1 :])):
                return
        if screen is self.screen:
            # What is to have the focus gets it by a call that the app has not come to yet.
            self.call_later(self._next, number)
        else:
            self.screen.call_after_refresh(self._next, number)

    async def _next(self, number: int) -> None:
        if number != self._key_number or not self._is_key_at_work:
            return
        self._is_key_at_work = False
        if self._keys_waiting:
            await self._give(self._keys_waiting.popleft())
            if self._keys_waiting:
                self._give_up_later()

    def _give_up_later(self) -> None:
        self.set_timer(PATIENCE_S, partial(self._next, self._key_number))
