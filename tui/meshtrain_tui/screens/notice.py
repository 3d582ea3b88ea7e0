"""A text that is to be read: a command to copy, what was wrong with a job file."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from meshtrain_tui.widgets.key_line import KeyLine


class Notice(ModalScreen[None]):
    """Lies over the screen until a key takes it away; c copies it, also over SSH (OSC 52)."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "copy", id="notice.copy"),
        Binding("escape,enter,dollar_sign,q", "leave", "back", id="notice.leave"),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._heading = title
        self._text = text

    @property
    def text(self) -> str:
        return self._text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(self._heading, classes="box-title", markup=False)
            yield Static(self._text, classes="box-command", markup=False)
        yield KeyLine()

    def action_copy(self) -> None:
        self.app.copy_to_clipboard(self._text)
        self.app.notify("copied", timeout=2)

    def action_leave(self) -> None:
        self.dismiss(None)
