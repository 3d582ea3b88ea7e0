"""`meshtrain priority`: let jobs run sooner, or later, than others."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Reprioritise

PRIORITY_MAX = (1 << 31) - 1


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A sweep or a job.")],
    priority: Annotated[
        int,
        typer.Argument(metavar="N", min=-PRIORITY_MAX, max=PRIORITY_MAX, help="Higher is sooner."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Give jobs another priority: of those that wait, the highest start first.

    What runs goes on. A base has the priority of the most urgent job that waits on it.

    \b
    Examples:
      meshtrain priority few_shot 10
      meshtrain priority 'few_shot/*fold=3' -- -5
    """
    with cli_of(ctx).link() as link:
        done = act(link, Reprioritise(new_id("priority"), (name,), priority))
    if as_json:
        print_json({"changed": done.done, "priority": priority})
        return
    if done.done:
        say(f"{words.count(len(done.done), 'job has', 'jobs have')} priority {priority} now")
    else:
        say("Nothing to change: all of it has ended.")
