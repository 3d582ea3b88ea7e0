"""What every screen of the dashboard has: the lines at its top and its bottom, and its keys.

    class Bases(MeshScreen):
        TITLE_WORDS = "Bases"                       its word in the breadcrumbs
        HELP = "What the screen shows, and ..."     shown by `?`, above its keys
        CHANGES = frozenset({"pin"})                actions that --readonly switches off
        BINDINGS = [Binding("p", "pin", "pin", id="bases.pin")]

        def compose_body(self): yield PageTable(...)     what lies between the lines
        def draw(self, picture): ...                     called for each new picture
        def note(self, picture): return "12 of 40"       the right end of the breadcrumbs
        def command_line(self): return "meshtrain bases" what `$` shows
        def escape(self): return False                   True: esc was used up within the screen

Give each binding an `id` of the form SCREEN.WHAT: by that it is changed in the
settings. Panels (widgets.panel) are given each picture by themselves. All that may
be old is dimmed: it is in the container `#body`.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen

from meshtrain_tui.desk import Desk, desk_of
from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.crumbs import Crumbs, CrumbsLine
from meshtrain_tui.widgets.key_line import KeyLine
from meshtrain_tui.widgets.panel import Panel
from meshtrain_tui.widgets.status import StatusLine, TroubleLine
from meshtrain_tui.widgets.tabs import TabLine


class MeshScreen(Screen[None]):
    """A screen that shows the mesh."""

    TITLE_WORDS: ClassVar[str] = ""
    HELP: ClassVar[str] = ""
    CHANGES: ClassVar[frozenset[str]] = frozenset()
    """Names of the actions that change something in the mesh."""

    # One that is chosen by a click is told in words too; no box is drawn round it.
    AUTO_FOCUS = "#body *"

    @property
    def desk(self) -> Desk:
        return desk_of(self)

    def compose(self) -> ComposeResult:
        yield StatusLine(self.desk.address)
        yield TabLine()
        yield TroubleLine(self.desk.address)
        yield CrumbsLine()
        with Vertical(id="body"):
            yield from self.compose_body()
        yield KeyLine()

    def compose_body(self) -> ComposeResult:
        """What lies between the lines at the top and the one at the bottom."""
        raise NotImplementedError

    def crumb(self) -> str:
        """This screen's word in the breadcrumbs."""
        return self.TITLE_WORDS

    def note(self, picture: Picture) -> str:
        """What stands at the right end of the breadcrumbs."""
        return ""

    def command_line(self) -> str:
        """The command that shows the same, or does it to what is chosen."""
        return "meshtrain top"

    def escape(self) -> bool:
        """Use up an esc within the screen, if something there is to be closed."""
        return False

    def draw(self, picture: Picture) -> None:
        """Draw what is not a Panel."""

    def show(self, picture: Picture) -> None:
        """Draw this picture; dimmed when it may be old."""
        if not self.is_whole:
            return
        self.query_one("#body").set_class(not picture.link.live, "stale")
        for panel in self.query(Panel):
            panel.show(picture)
        self.draw(picture)
        self.show_crumbs()

    @property
    def is_whole(self) -> bool:
        """Whether all its parts are there: not while it is put together, nor taken apart."""
        has_body = any(child.id == "body" for child in self.children)
        return has_body and self.is_mounted and self.is_attached and bool(self.display)

    def show_crumbs(self) -> None:
        """Draw the breadcrumbs anew: something of the screen has changed."""
        if not self.is_whole:
            return
        picture = self.desk.picture
        above = self.app.screen_stack
        path = [screen.crumb() for screen in above if isinstance(screen, MeshScreen)]
        line = self.query_one(CrumbsLine)
        line.tell(Crumbs(tuple(path), "" if picture is None else self.note(picture)))

    def on_mount(self) -> None:
        self.call_after_refresh(self.on_screen_resume)

    def on_screen_resume(self) -> None:
        self.fit_density()
        picture = self.desk.picture
        if picture is not None:
            self.show(picture)

    def fit_density(self) -> None:
        """Show as much as the dashboard's density says."""
        for density in ("compact", "normal", "wide"):
            self.set_class(self.desk.density == density, f"-{density}")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """False for what --readonly switches off; it is then not shown either."""
        if action in self.CHANGES and self.desk.readonly:
            return False
        return super().check_action(action, parameters)
