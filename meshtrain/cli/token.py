"""`meshtrain token`: a word that lets a host, or a person, join the mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.core.member import MemberKind
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.spec.kinds import DURATION
from meshtrain.wire.messages import IssueToken


def command(
    ctx: typer.Context,
    person: Annotated[
        bool, typer.Option("--person", help="For somebody who gives commands, not for a host.")
    ] = False,
    valid_for: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long it lets somebody in: 1h, 7d.")
    ] = "1h",
    uses: Annotated[int, typer.Option(min=1, max=10_000, help="How many may join with it.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a join token, and the command that uses it.

    Whoever has the token can join until it is used up or expires: send it as you
    would send a password.

    \b
    Examples:
      meshtrain token
      meshtrain token --uses 8 --for 1d
      meshtrain token --person
    """
    kind = MemberKind.PERSON if person else MemberKind.NODE
    try:
        ttl_s = float(DURATION.check(valid_for))
    except ValueError as error:
        raise UserError(f"--for {valid_for}: {error}") from error
    with cli_of(ctx).link() as link:
        (word,) = act(link, IssueToken(new_id("token"), kind, ttl_s, uses)).done
    if as_json:
        print_json({"token": word, "kind": kind.value, "valid_s": ttl_s, "uses": uses})
        return
    say("meshtrain join " + word if person else "meshtrain worker --join " + word)
