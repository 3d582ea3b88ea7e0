"""The dashboard of several meshes: the same screens for each, and a switch between them."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen

from meshtrain_tui.app import Top
from meshtrain_tui.feed import REDRAW_MIN_S, Clocks
from meshtrain_tui.fleet import Fleet
from meshtrain_tui.screens.meshes import Meshes
from meshtrain_tui.screens.registry import SCREENS, Entry
from meshtrain_tui.settings import TopSettings
from meshtrain_tui.widgets.docked import dock
from meshtrain_tui.widgets.meshes_line import MeshesLine


class FleetTop(Top):
    """Shows one of several meshes, and a line for each."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("M", "meshes", "meshes", id="app.meshes"),
        Binding("backslash", "next_mesh", "next mesh", show=False, id="app.next_mesh"),
    ]

    def __init__(
        self,
        fleet: Fleet,
        *,
        clocks: Clocks | None = None,
        settings: TopSettings | None = None,
        keys: dict[str, str] | None = None,
        redraw_min_s: float = REDRAW_MIN_S,
    ) -> None:
        self.fleet = fleet
        super().__init__(
            fleet.mesh.address,
            lambda: fleet,
            clocks=clocks,
            ask_inbox=fleet.ask_inbox,
            ask=fleet.ask,
            submit=fleet.submit,
            settings=settings,
            keys=keys,
            redraw_min_s=redraw_min_s,
        )

    def on_mount(self) -> None:
        self.screen_change_signal.subscribe(self, self._changed)
        self.call_after_refresh(self._changed, self.screen)

    def _changed(self, screen: Screen[object]) -> None:
        self.call_after_refresh(
            dock, screen, MeshesLine, lambda: MeshesLine(self.fleet, self.choose)
        )

    def choose(self, place: int) -> None:
        """Show another mesh, on the screen that is shown."""
        if place == self.fleet.chosen:
            return
        self.fleet.choose(place)
        self.address = self.fleet.mesh.address
        # What lies over a screen is of the mesh that was shown, and so is what can be undone.
        self._undo.clear()
        self.run_worker(self._begin_anew(), exclusive=True, group="mesh")

    async def _begin_anew(self) -> None:
        """Every screen says whose it is, so each is made anew."""
        here = self.current_mode
        aside = next(entry.name for entry in SCREENS if entry.name != here)
        # A mode is made anew only while another one is shown.
        await self.switch_mode(aside)
        for entry in SCREENS:
            if entry.name != aside:
                await self._remake(entry)
        await self.switch_mode(here)
        for entry in SCREENS:
            if entry.name == aside:
                await self._remake(entry)
        self._changed(self.screen)
        self.look()

    async def _remake(self, entry: Entry) -> None:
        await self.remove_mode(entry.name)
        self.add_mode(entry.name, entry.make)

    def action_meshes(self) -> None:
        def take(place: int | None) -> None:
            if place is not None:
                self.choose(place)

        self.push_screen(Meshes(self.fleet), take)

    def action_next_mesh(self) -> None:
        self.choose(self.fleet.chosen + 1)
