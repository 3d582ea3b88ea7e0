"""How the dashboard is started in its special ways: several meshes, a recording, a browser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from meshtrain.errors import UserError
from meshtrain.net.address import split_address
from meshtrain.net.curve import client_security
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient
from meshtrain.results.errors import MissingExtraError
from meshtrain.security.loopback import permitted_address
from meshtrain.security.way import Way, find_way
from meshtrain.spec.home import default_home
from meshtrain_tui.feed import inbox_of
from meshtrain_tui.fleet import Mesh
from meshtrain_tui.standing_line import StandingLine
from meshtrain_tui.steering.submission import Submitter

WEB_DRIVER = "TEXTUAL_DRIVER"
"""Set where a program and no terminal shows what is drawn."""


def draws_in_browser() -> bool:
    """Whether this is the session of a browser."""
    return "web_driver" in os.environ.get(WEB_DRIVER, "")


def way_to(master: str | None, home: Path | None) -> Way:
    """The way to a master, named by its address, or by a folder that a mesh was joined in.

    Raises SettingsError when the keys are damaged, or the address is not to be
    reached without any.
    """
    if master is not None and os.sep in master:
        home, master = Path(master).expanduser(), None
    way = find_way(master, home or default_home())
    host, _ = split_address(way.address)
    permitted_address(
        host, "the dashboard", "connect to", with_keys=client_security(way.standing) is not None
    )
    return way


def mesh_at(master: str | None, home: Path | None, lines: ExitStack) -> Mesh:
    """A mesh as a dashboard takes it. Raises as `way_to` does.

    Args:
        lines: closes the line that it is asked over.
    """
    way = way_to(master, home)
    security = client_security(way.standing)
    line = lines.enter_context(StandingLine(partial(MasterClient, way.address, security=security)))
    of_folder = Path(master).expanduser() if master is not None and os.sep in master else home
    return Mesh(
        way.address,
        partial(FeedClient, way.address, brief=True, security=security),
        ask=line.ask,
        ask_inbox=inbox_of(way.address, security),
        submit=Submitter(way.address, of_folder).submit,
    )


def session_arguments(
    masters: Sequence[str],
    home: Path | None,
    settings: Path | None,
    replay: Path | None,
    *,
    readonly: bool,
) -> list[str]:
    """What `meshtrain top` is given for a browser's session, so that it shows the same."""
    arguments = [f"--master={master}" for master in masters]
    for name, path in (("home", home), ("settings", settings), ("replay", replay)):
        if path is not None:
            arguments.append(f"--{name}={path.expanduser().absolute()}")
    return [*arguments, "--readonly"] if readonly else arguments


def serve_web(
    arguments: Sequence[str], *, host: str, port: int, home: Path | None, new_token: bool
) -> None:
    """Serve the dashboard to browsers until told to end.

    Args:
        arguments: what `meshtrain top` is given for each browser's session.
        home: whose web token it is.

    Raises MissingExtraError without textual-serve, SettingsError when the address can't
    be served at.
    """
    try:
        from meshtrain_tui.web import serve, session_command
    except ImportError as error:
        raise MissingExtraError(
            "the dashboard in a browser needs textual-serve: pip install 'meshtrain[tui]'"
        ) from error
    from meshtrain_tui.web_guard import web_token

    if draws_in_browser():
        raise UserError("this is a browser's session already: leave --web out")
    folder = home or default_home()
    serve(
        session_command(arguments),
        web_token(folder, anew=new_token),
        host=host,
        port=port,
        standing=find_way(None, folder).standing,
        say=partial(print, flush=True),
    )
