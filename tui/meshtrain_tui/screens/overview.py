"""The first screen: nodes, sweeps, what was saved, and the last events."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Footer

from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.events import EventsPanel
from meshtrain_tui.widgets.nodes import NodesPanel
from meshtrain_tui.widgets.panel import Panel
from meshtrain_tui.widgets.saved import SavedPanel
from meshtrain_tui.widgets.status import StatusLine, TroubleLine
from meshtrain_tui.widgets.sweeps import SweepsPanel


class Overview(Screen[None]):
    """Everything at one glance."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    def compose(self) -> ComposeResult:
        yield StatusLine(self._address)
        yield TroubleLine(self._address)
        with Vertical(id="body"):
            yield NodesPanel(self._address)
            with Horizontal(id="middle"):
                yield SweepsPanel(id="sweeps")
                yield SavedPanel(id="saved")
            yield EventsPanel(id="events")
        yield Footer(show_command_palette=False)

    def show(self, picture: Picture) -> None:
        """Draw this picture; dimmed when it may be old."""
        self.query_one("#body").set_class(not picture.link.live, "stale")
        for panel in self.query(Panel):
            panel.show(picture)
