"""`meshtrain retry`: run again what failed or was cancelled."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Retry


def command(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sweeps or jobs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run failed and cancelled jobs again; those that succeeded are left alone.

    A job takes its base with it, and a base the jobs that failed because of it.

    \b
    Examples:
      meshtrain retry few_shot
      meshtrain retry base/7f3a
    """
    with cli_of(ctx).link() as link:
        done = act(link, Retry(new_id("retry"), tuple(names)))
    if as_json:
        print_json({"retried": done.done, "notes": done.notes})
        return
    if done.done:
        say(f"{words.count(len(done.done), 'job runs', 'jobs run')} again")
    else:
        say("Nothing to retry: no such job failed or was cancelled.")
    for note in done.notes:
        say(note)
