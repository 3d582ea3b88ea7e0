"""Lines that a dashboard of a special kind puts on every screen: a player's, a switcher's."""

from __future__ import annotations

from collections.abc import Callable

from textual.screen import Screen
from textual.widget import Widget

from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.widgets.status import StatusLine


def dock(screen: Screen[object], kind: type[Widget], make: Callable[[], Widget]) -> None:
    """Put a line at the top of a screen of the mesh, below its title, unless it is there."""
    if isinstance(screen, MeshScreen) and screen.is_attached and screen.query(StatusLine):
        if screen.query(kind):
            return
        screen.mount(make(), after=screen.query_one(StatusLine))
