"""`meshtrain join`: a person, or a host whose daemon systemd starts, becomes a member."""

from __future__ import annotations

import asyncio
import getpass
import re
from typing import Annotated

import typer

from meshtrain.cli.context import cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.core.member import MemberKind
from meshtrain.security.tokens import JoinToken, read_token


def command(
    ctx: typer.Context,
    token: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help="As `meshtrain token` printed it; - reads it."),
    ],
    node: Annotated[
        bool, typer.Option("--node", help="Join as this host's node, and don't run it.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the mesh; else the user's, or the host's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print who joined as JSON.")] = False,
) -> None:
    """Join a mesh: make keys here, and have the master take them for the token.

    As a person, to give commands from this host. With --node for a worker that is
    started later; `meshtrain worker --join` does both. While it runs, others on this
    host can see what it was given: with - it reads the token from its input instead.

    \b
    Examples:
      meshtrain join mt1.k6Nk...
      meshtrain join --node --name gpu4 mt1.k6Nk...
      ssh gpu-lab meshtrain token --person | cut -d' ' -f3 | meshtrain join -
    """
    from meshtrain.artifacts.joining import join_mesh
    from meshtrain.security.private_file import make_private_home
    from meshtrain.security.standing import PERSON_FOLDER
    from meshtrain.spec.settings import default_node_name

    home = cli_of(ctx).home_folder
    if node:
        folder, kind, called = home, MemberKind.NODE, name or default_node_name()
    else:
        folder, kind, called = home / PERSON_FOLDER, MemberKind.PERSON, name or _own_name()
    word = read_token(token)
    # Before anything is made: a slip of the hand leaves nothing behind.
    JoinToken.parse(word)
    make_private_home(home)
    standing = asyncio.run(join_mesh(folder, word, called, kind))
    if as_json:
        print_json(
            {
                "kind": kind.value,
                "name": standing.identity.name,
                "master": standing.master_address,
                "home": str(folder),
            }
        )
        return
    say(f"{kind.value} {standing.identity.name} joined the mesh of {standing.master_address}")
    say("start it: meshtrain worker" if node else "try it: meshtrain nodes")


def _own_name() -> str:
    """The user's name, as far as a member's name may hold it."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    return re.sub(r"[^A-Za-z0-9._-]", "-", user).lstrip("._-")[:64] or "person"
