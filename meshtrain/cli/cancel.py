"""`meshtrain cancel`: end jobs, or whole sweeps."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Cancel


def command(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sweeps or jobs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Cancel jobs, or all jobs of sweeps.

    What runs is ended on its node. A base is trained on as long as another
    sweep waits on it.

    \b
    Examples:
      meshtrain cancel few_shot
      meshtrain cancel 'few_shot/*fold=3'
    """
    with cli_of(ctx).link() as link:
        done = act(link, Cancel(new_id("cancel"), tuple(names)))
    if as_json:
        print_json({"cancelled": done.done, "notes": done.notes})
        return
    if done.done:
        say(f"cancelled {words.count(len(done.done), 'job')}")
    elif not done.notes:
        say("Nothing to cancel: all of it has ended.")
    for note in done.notes:
        say(note)
