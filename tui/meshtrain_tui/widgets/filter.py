"""The line that a filter is typed into: `/` opens it, arrow up recalls what was typed before.

It posts Changed(text) while somebody types what can be searched for, Kept when enter
was pressed, and Left when esc was. What is no regular expression is told at once, and
the rows stay as they were.
"""

from __future__ import annotations

import re
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static

from meshtrain.core.row_filter import FILTER_CHARS_MAX, pattern_of
from meshtrain.errors import UserError

REMEMBERED_MAX = 50
PLACEHOLDER = "a regular expression; ! in front inverts it"


class _FilterInput(Input):
    """The text, with those of before one key away."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "recall(-1)", "before", id="filter.before"),
        Binding("down", "recall(1)", "after", show=False, id="filter.after"),
        Binding("escape", "leave", "no filter", id="filter.leave"),
        Binding("enter", "submit", "keep", id="filter.keep"),
    ]

    def __init__(self, remembered: list[str]) -> None:
        super().__init__(
            placeholder=PLACEHOLDER, compact=True, max_length=FILTER_CHARS_MAX + 1, id="filter-text"
        )
        self._remembered = remembered
        self._place = len(remembered)

    def open(self, text: str) -> None:
        """Start with this text, after all that was typed before."""
        self._place = len(self._remembered)
        self.value = text
        self.cursor_position = len(text)

    def action_recall(self, by: int) -> None:
        place = self._place + by
        if 0 <= place < len(self._remembered):
            self._place = place
            self.value = self._remembered[place]
        elif place >= len(self._remembered):
            self._place = len(self._remembered)
            self.value = ""
        self.cursor_position = len(self.value)

    def action_leave(self) -> None:
        self.post_message(Filter.Left())


class Filter(Horizontal):
    """There only while somebody types."""

    class Changed(Message):
        """The text is another one, and can be searched for."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Kept(Message):
        """The filter is to stay."""

    class Left(Message):
        """The filter is to go."""

    def __init__(self, remembered: list[str]) -> None:
        super().__init__(id="filter")
        self._remembered = remembered
        self._input = _FilterInput(remembered)
        self._problem = Static(id="filter-problem", markup=False)
        self.display = False

    def compose(self) -> ComposeResult:
        yield Static("/", id="filter-sign", markup=False)
        yield self._input
        yield self._problem

    @property
    def is_open(self) -> bool:
        return bool(self.display)

    def open(self, text: str) -> None:
        """Let somebody type, from the present filter on."""
        self.display = True
        self._input.open(text)
        self._input.focus()

    def close(self, keep: bool) -> None:
        """Put it away; what is kept is recalled later."""
        self.display = False
        text = self._input.value
        if keep and text:
            if text in self._remembered:
                self._remembered.remove(text)
            self._remembered.append(text)
            del self._remembered[:-REMEMBERED_MAX]

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        try:
            pattern_of(event.value)
        except UserError as error:
            # What was typed stands beside it.
            slip = isinstance(error.__cause__, re.error)
            words = f"not a regular expression: {error.__cause__}" if slip else str(error)
            self._problem.update(words)
            return
        self._problem.update("")
        if self.is_open:
            self.post_message(self.Changed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Kept())
