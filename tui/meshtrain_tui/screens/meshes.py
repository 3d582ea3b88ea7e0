"""The meshes side by side: a line each, one to be shown."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from meshtrain_tui.fleet import Fleet
from meshtrain_tui.widgets.key_line import KeyLine
from meshtrain_tui.widgets.meshes_line import LOOK_EVERY_S, in_full, sign_of


class Meshes(ModalScreen[int | None]):
    """Gives the place of the mesh that is to be shown; None after esc."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "leave", id="meshes.leave"),
    ]

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._fleet = fleet

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(f"{len(self._fleet)} meshes", classes="box-title")
            yield OptionList(*(Option(line) for line in self._lines()), markup=False)
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = self._fleet.chosen
        self.set_interval(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        options = self.query_one(OptionList)
        for place, line in enumerate(self._lines()):
            options.replace_option_prompt_at_index(place, line)

    def _lines(self) -> list[Content]:
        return [
            Content.assemble(
                sign_of(standing),
                (f" {standing.address}", "bold"),
                f"  {in_full(standing)}",
            )
            for standing in self._fleet.standings()
        ]

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)

    def action_leave(self) -> None:
        self.dismiss(None)
