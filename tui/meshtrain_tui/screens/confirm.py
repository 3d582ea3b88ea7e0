"""Asks before something is done: what it is, what comes of it, the command that does the same."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from meshtrain_tui.steering.action import PRIORITY_MAX, PRIORITY_MIN
from meshtrain_tui.widgets.key_line import KeyLine

COMMAND_CHARS_MAX = 240
"""Of a long command, as many are shown: `$` shows all of it."""


class Confirm(ModalScreen[bool]):
    """True when it is to be done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "yes, do it", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "no", id="confirm.no"),
    ]

    def __init__(self, title: str, consequence: str, command: str) -> None:
        super().__init__()
        self._question = f"{title}?"
        self._consequence = consequence
        self._command = command

    def compose(self) -> ComposeResult:
        command = self._command
        if len(command) > COMMAND_CHARS_MAX:
            command = f"{command[:COMMAND_CHARS_MAX]}…"
        with Vertical(classes="box"):
            yield Static(self._question, classes="box-title", markup=False)
            if self._consequence:
                yield Static(self._consequence, markup=False)
            yield Static(f"$ {command}", classes="box-command", markup=False)
        yield KeyLine()

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class AskPriority(ModalScreen[int | None]):
    """A whole number, as it is typed; None after esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "take", "go on", id="priority.take"),
        Binding("escape", "leave", "no", id="priority.leave"),
    ]

    def __init__(self, title: str, present: int) -> None:
        super().__init__()
        self._question = title
        self._present = present

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(self._question, classes="box-title", markup=False)
            yield Static("A higher one starts first; 0 is the default.", markup=False)
            yield Input(str(self._present), compact=True, max_length=11, id="priority")
            yield Static("", id="priority-problem", classes="problem", markup=False)
        yield KeyLine()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.action_take()

    def action_take(self) -> None:
        text = self.query_one(Input).value.strip()
        try:
            priority = int(text)
        except ValueError:
            priority = None
        if priority is None or not PRIORITY_MIN <= priority <= PRIORITY_MAX:
            words = f"{text or 'nothing'} is no whole number from {PRIORITY_MIN} to {PRIORITY_MAX}"
            self.query_one("#priority-problem", Static).update(words)
            return
        self.dismiss(priority)

    def action_leave(self) -> None:
        self.dismiss(None)
