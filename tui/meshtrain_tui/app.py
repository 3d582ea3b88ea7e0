"""`meshtrain top`: the dashboard, a client like any other."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from textual.app import App
from textual.screen import Screen

from meshtrain.errors import UserError
from meshtrain.net.address import split_address
from meshtrain.net.curve import client_security
from meshtrain.net.zmq_feed import FeedClient
from meshtrain.security.loopback import permitted_address
from meshtrain.security.way import find_way
from meshtrain.spec.settings import default_home
from meshtrain_tui.feed import (
    REDRAW_MIN_S,
    Clocks,
    MeshFeed,
    PictureChanged,
    Source,
    inbox_of,
    no_inbox,
)
from meshtrain_tui.screens.help import Help
from meshtrain_tui.screens.overview import Overview

LOOK_EVERY_S = 0.5
"""Between looks at what time alone changes: the clock, durations, and whether all is fresh."""
DARK, LIGHT = "textual-dark", "textual-light"


def command(
    master: Annotated[
        str | None,
        typer.Option(
            envvar="MESHTRAIN_MASTER",
            help="Control address of the master; else of this host, or of the mesh joined.",
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(envvar="MESHTRAIN_HOME", help="Folder that our keys and the master are in."),
    ] = None,
) -> None:
    """Watch the mesh: nodes, sweeps, what was saved, and what happens.

    Example: meshtrain top --master 127.0.0.1:7470
    """
    way = find_way(master, home or default_home())
    security = client_security(way.standing)
    host, _ = split_address(way.address)
    permitted_address(host, "the dashboard", "connect to", with_keys=security is not None)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(
            "meshtrain top draws on a terminal, and this is none: run it in one, or use "
            "`meshtrain jobs` and `meshtrain nodes` for text"
        )
    Top(
        way.address,
        partial(FeedClient, way.address, brief=True, security=security),
        ask_inbox=inbox_of(way.address, security),
    ).run()


class Top(App[None]):
    """The dashboard.

    Args:
        address: the master's, as it is shown.
        open_source: opens what the picture comes from; called within the running loop.
        clocks: of this process.
        ask_inbox: finds out the master's watched folder.
        redraw_min_s: seconds between two pictures.
    """

    CSS_PATH = "app.tcss"
    TITLE = "meshtrain"
    BINDINGS = [  # noqa: RUF012
        ("q", "quit", "quit"),
        ("question_mark", "help", "help"),
        ("d", "toggle_dark", "dark/light"),
    ]

    def __init__(
        self,
        address: str,
        open_source: Callable[[], Source],
        *,
        clocks: Clocks | None = None,
        ask_inbox: Callable[[], Awaitable[str]] = no_inbox,
        redraw_min_s: float = REDRAW_MIN_S,
    ) -> None:
        super().__init__()
        self._open_source = open_source
        self._clocks = clocks or Clocks()
        self._ask_inbox = ask_inbox
        self._redraw_min_s = redraw_min_s
        self._overview = Overview(address)
        self._feed: MeshFeed | None = None

    def get_default_screen(self) -> Screen[None]:
        return self._overview

    def on_mount(self) -> None:
        self._feed = feed = MeshFeed(
            self._open_source(),
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
        if self._overview.is_mounted:
            self._overview.show(message.picture)

    def action_help(self) -> None:
        if not isinstance(self.screen, Help):
            self.push_screen(Help())

    def action_toggle_dark(self) -> None:
        self.theme = LIGHT if self.theme == DARK else DARK
