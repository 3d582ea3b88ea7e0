"""`meshtrain retry`: run again what failed or was cancelled; let jobs need something else."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.core.needs_change import NeedsChange
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.spec.kinds import SIZE
from meshtrain.wire.messages import Retry

SLOTS_MAX = 65_536


def command(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Sweeps or jobs.")],
    gpus: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=SLOTS_MAX, help="GPUs from now on.")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of each GPU from now on: 9GB.")
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=SLOTS_MAX, help="CPU slots from now on.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Main memory from now on: 16GB.")
    ] = None,
    drop_label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A label that the node need not have any more."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run failed and cancelled jobs again; those that succeeded are left alone.

    A job takes its base with it, and a base the jobs that failed because of it.
    With other needs (--gpus, --gpu-memory, …) jobs that wait get them too: they
    stay where they are in the queue. `meshtrain why JOB` says which would help.

    \b
    Examples:
      meshtrain retry few_shot
      meshtrain retry base/7f3a
      meshtrain retry few_shot --gpu-memory 9GB
    """
    change = NeedsChange(
        gpus=gpus,
        gpu_memory_bytes=_size("--gpu-memory", gpu_memory),
        cpus=cpus,
        memory_bytes=_size("--memory", memory),
        labels_dropped=tuple(drop_label or ()),
    )
    with cli_of(ctx).link() as link:
        done = act(link, Retry(new_id("retry"), tuple(names), change))
    if as_json:
        print_json({"retried": done.done, "notes": done.notes})
        return
    if done.done and not change.is_empty:
        say(f"{words.count(len(done.done), 'job waits', 'jobs wait')} with the new needs")
    elif done.done:
        say(f"{words.count(len(done.done), 'job runs', 'jobs run')} again")
    elif change.is_empty:
        say("Nothing to retry: no such job failed or was cancelled.")
    else:
        say("Nothing to change: no such job waits, failed or was cancelled.")
    for note in done.notes:
        say(note)


def _size(flag: str, written: str | None) -> int | None:
    """Raises UserError for what is no size."""
    if written is None:
        return None
    try:
        return int(SIZE.check(written))
    except ValueError as error:
        raise UserError(f"{flag} {written}: {error}") from error
