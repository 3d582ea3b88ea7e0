"""`meshtrain token`: a word that lets a host or a person join, or a program read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, ask_all, cli_of
from meshtrain.cli.output import Column, print_json, print_table, say, tell
from meshtrain.core.member import MemberKind
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.spec.kinds import DURATION
from meshtrain.wire.messages import IssueReader, IssueToken, RevokeReader

_READER_COLUMNS = (Column("NAME", flexible=True), Column("MADE BY"), Column("GOOD UNTIL"))


def command(
    ctx: typer.Context,
    person: Annotated[
        bool, typer.Option("--person", help="For somebody who gives commands, not for a host.")
    ] = False,
    read: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For a program that reads metrics and the API alone."),
    ] = None,
    revoke: Annotated[
        str | None, typer.Option(metavar="NAME", help="End the read token of that name.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the read tokens.")] = False,
    valid_for: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="TIME", help="How long it is good: 1h, 7d. Else 1h, to read 365d."
        ),
    ] = None,
    uses: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="How many may join with it.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a join token and the command that uses it, or a token to read by.

    Whoever has the token can join until it is used up or expires: send it as you
    would send a password.

    \b
    Examples:
      meshtrain token
      meshtrain token --uses 8 --for 1d
      meshtrain token --person
      meshtrain token --read prometheus
      meshtrain token --revoke prometheus
    """
    if sum((person, read is not None, revoke is not None, listed)) > 1:
        raise UserError("--person, --read, --revoke and --list are four ways: give one of them")
    if listed:
        _list(ctx, as_json=as_json)
        return
    if revoke is not None:
        with cli_of(ctx).link() as link:
            act(link, RevokeReader(new_id("reader"), revoke))
        say(f"the read token {revoke} lets nobody in any more")
        return
    kind = MemberKind.PERSON if person else MemberKind.NODE
    try:
        ttl_s = float(DURATION.check(valid_for or ("1h" if read is None else "365d")))
    except ValueError as error:
        raise UserError(f"--for {valid_for}: {error}") from error
    if read is not None:
        with cli_of(ctx).link() as link:
            (word,) = act(link, IssueReader(new_id("reader"), read, ttl_s)).done
        if as_json:
            print_json({"token": word, "name": read, "valid_s": ttl_s})
        else:
            say(word)
        return
    with cli_of(ctx).link() as link:
        (word,) = act(link, IssueToken(new_id("token"), kind, ttl_s, uses)).done
    if as_json:
        print_json({"token": word, "kind": kind.value, "valid_s": ttl_s, "uses": uses})
        return
    who = "person" if person else "host"
    tell(f"good for {words.count(uses, who)} within {words.duration(ttl_s)}: keep it as a password")
    say("meshtrain join " + word if person else "meshtrain worker --join " + word)


def _list(ctx: typer.Context, *, as_json: bool) -> None:
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "readers")
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No read token was made. Make one: meshtrain token --read NAME")
        return
    lines = [[row["name"], row["issuer"], _day(row["expires_s"])] for row in rows]
    print_table(_READER_COLUMNS, lines)


def _day(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s).strftime("%Y-%m-%d %H:%M")
