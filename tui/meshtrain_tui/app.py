"""The dashboard, a client like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key
from textual.screen import ModalScreen

from meshtrain.core.pages import Page, PageQuery
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.ids import new_id
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.feed import (
    REDRAW_MIN_S,
    Clocks,
    MeshFeed,
    Picture,
    PictureChanged,
    Source,
    no_inbox,
)
from meshtrain_tui.keys_in_turn import KeysInTurn
from meshtrain_tui.palette import Palette
from meshtrain_tui.screens.help import Help, key_table
from meshtrain_tui.screens.mesh_screen import MeshScreen
from meshtrain_tui.screens.notice import Notice
from meshtrain_tui.screens.registry import OPENED, SCREENS
from meshtrain_tui.settings import Density, TopSettings
from meshtrain_tui.steering.action import Action, command_of
from meshtrain_tui.steering.result_folder import opener, show_folder
from meshtrain_tui.steering.steerer import Steerer
from meshtrain_tui.steering.submission import Receipt
from meshtrain_tui.themes import OURS, next_theme
from meshtrain_tui.widgets.crumbs import CrumbsLine
from meshtrain_tui.widgets.table import PageTable
from meshtrain_tui.widgets.tabs import Tab, TabLine

LOOK_EVERY_S = 0.5
"""Between looks at what time alone changes: the clock, durations, and whether all is fresh."""
SAID_S, SAID_BAD_S = 4.0, 12.0
"""How long a line for people stays."""
OPENED_MAX = 10
"""Screens that lie over one another."""


class Top(KeysInTurn):
    """The dashboard; for its screens it is a desk.Desk.

    Args:
        address: the master's, as it is shown.
        open_source: opens what the picture comes from; called within the running loop.
        clocks: of this process.
        ask_inbox: finds out the master's watched folder.
        redraw_min_s: seconds between two pictures.
        ask: asks the master; None where there is none, as in a recording: then nothing
            can be changed.
        submit: gives a job file to the mesh.
        settings: what somebody likes to see.
        keys: binding → keys, as keymap.keymap checked them.
    """

    CSS_PATH = "app.tcss"
    TITLE = "meshtrain"
    DEFAULT_MODE = SCREENS[0].name
    COMMANDS: ClassVar[set[Any]] = {Palette}
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                entry.key,
                f"show('{entry.name}')",
                entry.title,
                show=False,
                id=f"app.show_{entry.name}",
            )
            for entry in SCREENS
        ),
        Binding("escape", "back", "back", show=False, id="app.back"),
        Binding("i", "submit", "add a job file", id="app.submit"),
        Binding("u", "undo", "undo", id="app.undo"),
        Binding("dollar_sign", "command", "command", id="app.command"),
        Binding("colon,ctrl+p", "command_palette", "go to", id="app.palette"),
        Binding("T", "theme", "theme", show=False, id="app.theme"),
        Binding("z", "density", "density", show=False, id="app.density"),
        Binding("q", "quit", "quit", id="app.quit"),
        Binding("question_mark", "help", "help", id="app.help"),
    ]

    def __init__(
        self,
        address: str,
        open_source: Callable[[], Source],
        *,
        clocks: Clocks | None = None,
        ask_inbox: Callable[[], Awaitable[str]] = no_inbox,
        redraw_min_s: float = REDRAW_MIN_S,
        ask: Callable[[FromPerson, float | None], Awaitable[Done | Answer]] | None = None,
        submit: Callable[[Path], Awaitable[Receipt]] | None = None,
        settings: TopSettings | None = None,
        keys: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        liked = settings or TopSettings()
        self.address = address
        self.filters: list[str] = []
        self.picture: Picture | None = None
        self.density = liked.density
        self.readonly = liked.readonly or ask is None
        self._open_source = open_source
        self._clocks = clocks or Clocks()
        self.now_s = self._clocks.now_s
        self._ask_inbox = ask_inbox
        self._redraw_min_s = redraw_min_s
        self._ask = ask
        self._feed: MeshFeed | None = None
        self._source: Source | None = None
        self._undo: list[Action] = []
        self._mistyped_s = float("-inf")
        self._steerer = Steerer(self, submit, self._undo)
        for theme in OURS:
            self.register_theme(theme)
        self.theme = liked.theme
        for entry in SCREENS:
            self.add_mode(entry.name, entry.make)
        if keys:
            self.set_keymap(keys)

    # --- the feed --------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._source = source = self._open_source()
        self._feed = feed = MeshFeed(
            source,
            self.post_message,
            clocks=self._clocks,
            ask_inbox=self._ask_inbox,
            redraw_min_s=self._redraw_min_s,
        )
        self.run_worker(feed.run(), name="feed")
        self.set_interval(LOOK_EVERY_S, feed.look)
        feed.look()

    def on_unmount(self) -> None:
        if self._feed is not None:
            self._feed.close()

    def look(self) -> None:
        """Draw what time alone has changed."""
        if self._feed is not None:
            self._feed.look()

    def on_picture_changed(self, message: PictureChanged) -> None:
        self.picture = message.picture
        screen = self._shown_screen()
        if screen is not None:
            self._show_tabs(screen)
            screen.show(message.picture)

    def _shown_screen(self) -> MeshScreen | None:
        """The screen of the mesh that lies topmost; dialogs lie over it."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, MeshScreen):
                return screen
        return None

    def _show_tabs(self, screen: MeshScreen) -> None:
        tabs = tuple(
            Tab(self.key_of(f"app.show_{entry.name}", entry.key), entry.name, entry.title)
            for entry in SCREENS
        )
        for line in screen.query(TabLine):
            line.tell(tabs, self.current_mode)

    def key_of(self, name: str, default: str) -> str:
        """The key of an action of the app, as it is shown; the first where there are several."""
        keys = self._keymap.get(name, default)
        return self.get_key_display(Binding(keys.partition(",")[0], ""))

    # --- what screens ask (desk.Desk) ---------------------------------------------------------

    async def page(self, query: PageQuery) -> Page:
        if self._source is None:
            raise UserError("the dashboard is not connected yet")
        return await self._source.page(query)

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        if self._ask is None:
            raise UserError("there is no master to ask: this is a recording")
        return await self._ask(message, timeout_s)

    def say(self, text: str, *, bad: bool = False) -> None:
        self.notify(
            text,
            severity="error" if bad else "information",
            timeout=SAID_BAD_S if bad else SAID_S,
            markup=False,
        )

    def can_open(self, kind: str) -> bool:
        return kind in OPENED

    def open(self, kind: str, name: str) -> None:
        if kind in OPENED and len(self.screen_stack) < OPENED_MAX:
            self.push_screen(OPENED[kind](name))

    async def open_results(self, sweep_id: str) -> None:
        """Show the folder that a sweep's results lie in, or tell where it is."""
        try:
            answer = await self.ask(Query(new_id("query"), "sweeps", (sweep_id,)))
        except MeshtrainError as error:
            self.say(str(error), bad=True)
            return
        row = answer.rows[0] if isinstance(answer, Answer) and answer.rows else {}
        folder = row.get("folder") if isinstance(row, dict) else None
        if not isinstance(folder, str) or not folder:
            self.say(f"the master names no result folder of {sweep_id}", bad=True)
            return
        if await show_folder(Path(folder), opener()):
            self.say(f"opened {folder}")
            return
        here = await asyncio.to_thread(Path(folder).is_dir)
        where = "" if here else " on the master's host"
        self.push_screen(
            Notice(
                f"Results of {sweep_id}{where}",
                f"{folder}\n\n{command_of('results', sweep_id)}",
            )
        )

    def steer(self, action: Action) -> None:
        if self.readonly:
            self.say("Nothing is changed from here: the dashboard is read-only.", bad=True)
        else:
            self._steerer.steer(action)

    def changed(self) -> None:
        """Something was changed from here: it is to be seen at once, and can be undone."""
        self.refresh_bindings()
        screen = self._shown_screen()
        if screen is not None:
            for table in screen.query(PageTable):
                table.pager.refresh()

    # --- keys --------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "undo":
            return bool(self._steerer.undoes) and not self.readonly
        if action == "submit":
            return self._steerer.submits and not self.readonly
        return super().check_action(action, parameters)

    def on_key(self, event: Key) -> None:
        """Say of a key that does nothing that it does nothing; of a burst of them once."""
        active = self.active_bindings.get(event.key)
        now_s = self.now_s()
        if (active is not None and active.enabled) or now_s - self._mistyped_s < SAID_S:
            return
        self._mistyped_s = now_s
        shown = self.get_key_display(Binding(event.key, ""))
        more = f"; {self.key_of('app.help', '?')} shows all"
        rest = "" if isinstance(self.screen, ModalScreen) else more
        self.say(f"{shown} does nothing here. The last line has keys that do{rest}.", bad=True)

    async def action_show(self, name: str) -> None:
        """Show a screen; the one that is shown already goes back to its beginning."""
        while isinstance(self.screen, ModalScreen):
            self.screen.dismiss(None)
            await asyncio.sleep(0)
        if name == self.current_mode:
            while len(self.screen_stack) > 1:
                await self.pop_screen()
            return
        await self.switch_mode(name)
        self.look()

    async def action_back(self) -> None:
        """Close what is open on the screen, then leave it; from the first one nothing."""
        screen = self._shown_screen()
        if screen is not None and screen.escape():
            return
        if len(self.screen_stack) > 1:
            await self.pop_screen()

    async def on_crumbs_line_chosen(self, message: CrumbsLine.Chosen) -> None:
        while len(self.screen_stack) > message.depth + 1:
            await self.pop_screen()

    async def on_tab_line_chosen(self, message: TabLine.Chosen) -> None:
        await self.action_show(message.name)

    def action_help(self) -> None:
        screen = self._shown_screen()
        if screen is not None and not isinstance(self.screen, Help):
            self.push_screen(Help(screen.TITLE_WORDS, screen.HELP, key_table(screen)))

    def action_command(self) -> None:
        """Show the command that does the same as the screen, for what is chosen on it."""
        screen = self._shown_screen()
        if screen is not None:
            self.push_screen(Notice("The command that shows the same", screen.command_line()))

    def action_theme(self) -> None:
        self.theme = next_theme(self.theme)

    def action_density(self) -> None:
        every = list(Density)
        self.fit(every[(every.index(self.density) + 1) % len(every)])

    def fit(self, density: Density) -> None:
        """Put so much on the screen from now on."""
        self.density = density
        for screen in self.screen_stack:
            if isinstance(screen, MeshScreen):
                screen.fit_density()
        self.look()

    def action_undo(self) -> None:
        self._steerer.undo()

    def action_submit(self) -> None:
        self._steerer.submit()
