"""`meshtrain priority`: let jobs go before others, or after them."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Reprioritise


def command(
    ctx: typer.Context,
    priority: Annotated[
        int,
        typer.Argument(
            metavar="N", min=-(1 << 31), max=(1 << 31) - 1, help="A higher one starts first."
        ),
    ],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sweeps or jobs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Give jobs, or all jobs of sweeps, a priority; 0 is the default.

    Waiting jobs of a higher priority start first, what runs goes on, and a base
    has the highest priority of the jobs that wait on it. Write a number below 0
    after two dashes.

    \b
    Examples:
      meshtrain priority 10 few_shot
      meshtrain priority -- -5 'few_shot/*fold=3'
    """
    with cli_of(ctx).link() as link:
        done = act(link, Reprioritise(new_id("priority"), tuple(names), priority))
    if as_json:
        print_json({"changed": done.done, "priority": priority, "notes": done.notes})
        return
    if done.done:
        say(f"{words.count(len(done.done), 'job')} with priority {priority}")
    else:
        say("Nothing changed: all of it has ended.")
    for note in done.notes:
        say(note)
