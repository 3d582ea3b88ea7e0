"""The command palette (`:` and ctrl+p): screens, what the keys here do, sweeps, themes, columns.

Whatever is in it is also a key or a click somewhere; here it is found by typing a part
of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from meshtrain_tui.desk import desk_of
from meshtrain_tui.screens.list_screen import ListScreen
from meshtrain_tui.screens.registry import OPENED, SCREENS
from meshtrain_tui.settings import Density
from meshtrain_tui.themes import CYCLE

SWEEPS_MAX = 200
MOVES = ("up", "down", "left", "right", "pageup", "pagedown", "home", "end")
"""Keys that move in what is shown."""


class PaletteLine(NamedTuple):
    """One thing that can be chosen."""

    words: str
    help: str
    run: Callable[[], object]
    first: bool = True
    """Whether it is shown before anything is typed."""


class Palette(Provider):
    """What the palette holds for the present screen."""

    def lines(self) -> Iterator[PaletteLine]:
        """All that can be chosen here."""
        app, desk, screen = self.app, desk_of(self.screen), self.screen
        for entry in SCREENS:
            yield PaletteLine(
                entry.title,
                f"the screen {entry.title}",
                partial(app.run_action, f"show('{entry.name}')"),
            )
        bindings = screen.active_bindings
        # What the arrow keys do is done with them; what has two keys is one line.
        listed = {bindings[key].binding.action for key in MOVES if key in bindings}
        for active in bindings.values():
            binding = active.binding
            if not active.enabled or not binding.description or binding.id is None:
                continue
            if binding.action in listed:
                continue
            listed.add(binding.action)
            if binding.id.startswith(("table.", "screen.", "app.show")):
                continue
            run = partial(app.run_action, binding.action, active.node)
            key = app.get_key_display(binding)
            yield PaletteLine(binding.description, f"key {key}", run)
        if isinstance(screen, ListScreen):
            for column in screen.columns():
                if column.name:
                    words = f"sort by {column.title.lower() or column.name}"
                    yield PaletteLine(
                        words, "again: the other way round", partial(screen.sort_by, column.name)
                    )
        for theme in CYCLE:
            yield PaletteLine(f"theme {theme}", "", partial(setattr, app, "theme", theme), False)
        for density in Density:
            yield PaletteLine(f"density {density}", "", partial(desk.fit, density), False)
        picture = desk.picture
        if picture is not None and "sweep" in OPENED:
            for sweep_id in reversed(list(picture.view.sweeps)[-SWEEPS_MAX:]):
                yield PaletteLine(
                    f"jobs of {sweep_id}", "", partial(desk.open, "sweep", sweep_id), False
                )
                yield PaletteLine(
                    f"matrix of {sweep_id}", "", partial(desk.open, "matrix", sweep_id), False
                )
            for node_id in list(picture.view.nodes)[:SWEEPS_MAX]:
                yield PaletteLine(
                    f"jobs on {node_id}", "", partial(desk.open, "node", node_id), False
                )

    async def discover(self) -> Hits:
        for line in self.lines():
            if line.first:
                yield DiscoveryHit(line.words, line.run, help=line.help or None)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        found = False
        for line in self.lines():
            score = matcher.match(line.words)
            if score > 0:
                found = True
                yield Hit(score, matcher.highlight(line.words), line.run, help=line.help or None)
        if not found:
            words = f"Nothing here is called “{query}”: nothing is done."
            help_words = "Delete some of it: with nothing typed, all is listed."
            yield Hit(
                0.0,
                Content(words),
                partial(desk_of(self.screen).say, words, bad=True),
                help=help_words,
            )
