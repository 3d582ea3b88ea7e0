"""`meshtrain join`: a person, or a host whose daemon systemd starts, becomes a member."""

from __future__ import annotations

import asyncio
import getpass
from typing import Annotated

import typer

from meshtrain.cli.context import cli_of
from meshtrain.cli.output import say
from meshtrain.core.member import MemberKind


def command(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As `meshtrain token` printed it.")],
    node: Annotated[
        bool, typer.Option("--node", help="Join as this host's node, and don't run it.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Name in the mesh; else the user's, or the host's.")
    ] = None,
) -> None:
    """Join a mesh: make keys here, and have the master take them for the token.

    As a person, to give commands from this host. With --node for a worker that is
    started later; `meshtrain worker --join` does both.

    \b
    Examples:
      meshtrain join mt1.k6Nk...
      meshtrain join --node --name gpu1 mt1.k6Nk...
    """
    from meshtrain.artifacts.joining import join_mesh
    from meshtrain.security.standing import PERSON_FOLDER
    from meshtrain.spec.settings import default_node_name

    home = cli_of(ctx).home_folder
    if node:
        folder, kind, called = home, MemberKind.NODE, name or default_node_name()
    else:
        folder, kind, called = home / PERSON_FOLDER, MemberKind.PERSON, name or getpass.getuser()
    standing = asyncio.run(join_mesh(folder, token, called, kind))
    say(f"{kind.value} {standing.identity.name} joined the mesh of {standing.master_address}")
    say("start it: meshtrain worker" if node else "try it: meshtrain nodes")
