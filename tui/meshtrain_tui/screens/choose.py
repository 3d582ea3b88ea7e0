"""One of several, chosen with the arrows, enter, or a click.

    self.app.push_screen(Choose("Sort by", [Choice("name", "JOB")], "name"), take)

`take` is given the value, or None after esc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from meshtrain_tui.widgets.key_line import KeyLine


class Choice(NamedTuple):
    """What can be chosen: its value, and the words for it."""

    value: str
    words: str


class Options(OptionList):
    """A list whose enter is shown at the bottom."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "choose", id="choose.take"),
    ]


class Choose(ModalScreen[str | None]):
    """Lies over the screen until something is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "back", id="choose.leave"),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], present: str = "") -> None:
        super().__init__()
        self._title = title
        self._choices = tuple(choices)
        self._present = present

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._title, classes="box-title", markup=False)
            yield Options(
                *(
                    Option(f"{'●' if choice.value == self._present else ' '} {choice.words}")
                    for choice in self._choices
                ),
                compact=True,
                markup=False,
            )
        yield KeyLine()

    def on_mount(self) -> None:
        values = [choice.value for choice in self._choices]
        options = self.query_one(OptionList)
        options.highlighted = values.index(self._present) if self._present in values else 0

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index].value)

    def action_leave(self) -> None:
        self.dismiss(None)
