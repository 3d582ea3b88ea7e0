"""`meshtrain drain`: let a node finish what it has, and give it nothing new."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, ask, cli_of
from meshtrain.cli.output import say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Drain


def command(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
) -> None:
    """Let a node take no new jobs; what runs there goes on to its end.

    \b
    Examples:
      meshtrain drain gpu3
      meshtrain drain gpu3 --undo
    """
    with cli_of(ctx).link() as link:
        # It names the node with a did-you-mean when there is none of that name.
        ask(link, "nodes", [node])
        act(link, Drain(new_id("drain"), node, not undo))
        (row,) = ask(link, "nodes", [node]).rows
    if undo:
        say(f"{node} takes jobs again")
        return
    still = row["running_count"]
    rest = f"; {words.count(still, 'job')} still on it" if still else "; nothing runs on it"
    say(f"{node} is drained: it takes no new jobs{rest}")
