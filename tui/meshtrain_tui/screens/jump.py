"""Asks for the time that a recording is to go to."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from meshtrain.errors import UserError
from meshtrain_tui.replay import Position, time_meant
from meshtrain_tui.words import clock


class Jump(ModalScreen[float | None]):
    """Gives the time that was written, in seconds since 1970; None after esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", id="jump.leave"),
    ]

    def __init__(self, position: Position) -> None:
        super().__init__()
        self._position = position

    def compose(self) -> ComposeResult:
        begins, ends = clock(self._position.begins_wall_s), clock(self._position.ends_wall_s)
        with Vertical(classes="box"):
            yield Static(f"Go to a time from {begins} to {ends}", classes="box-title", markup=False)
            yield Input(placeholder="14:02, 14:02:11, +5m, -30s, 50%", max_length=40)
            yield Static("", id="jump-wrong", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        try:
            self.dismiss(time_meant(event.value, self._position))
        except UserError as error:
            self.query_one("#jump-wrong", Static).update(str(error))

    def action_leave(self) -> None:
        self.dismiss(None)
