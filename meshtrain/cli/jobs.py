"""`meshtrain jobs`: sweeps and their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from meshtrain.cli.context import ask_all, cli_of
from meshtrain.cli.jobs_text import no_jobs_text, print_jobs, sweeps_of
from meshtrain.cli.jobs_watch import watch_jobs
from meshtrain.cli.output import print_json, say
from meshtrain.core.job import JobState
from meshtrain.errors import UserError
from meshtrain.spec.problems import hint

ROWS_DEFAULT = 200
_STATES = tuple(str(state) for state in JobState)


def command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Sweeps or jobs; all if none.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help=f"Only these: {', '.join(_STATES)}."),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="Jobs shown; 0 for all. JSON has all.")
    ] = ROWS_DEFAULT,
    watch: Annotated[
        bool, typer.Option("-w", "--watch", help="Go on showing them, until those named end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List sweeps and their jobs, the newest sweep first.

    A name is a sweep, a job, the first characters of an id, a name with *, or
    some of a job's pairs: few_shot/shots=5 names all jobs with 5 shots. With
    --watch the list is drawn in place; into a pipe goes a line for each change.

    \b
    Examples:
      meshtrain jobs
      meshtrain jobs few_shot --state failed
      meshtrain jobs 'few_shot/*fold=2'
      meshtrain jobs few_shot --watch
    """
    cli = cli_of(ctx)
    wanted = _states(state or [])
    if watch:
        watch_jobs(cli, names or [], wanted, as_json=as_json)
        return
    shown_max = limit if limit and not as_json else None
    with cli.link() as link:
        fetch_max = shown_max if not wanted else None
        rows, total = ask_all(link, "jobs", names or [], rows_max=fetch_max)
        if wanted:
            rows = [row for row in rows if row["state"] in wanted]
            total = len(rows)
            rows = rows[:shown_max]
        if as_json:
            print_json(rows)
            return
        if not rows:
            say("No such jobs." if wanted or names else no_jobs_text(link))
            return
        sweeps = sweeps_of(link, rows)
    print_jobs(rows, sweeps)
    if total > len(rows):
        say(f"\n… and {total - len(rows):,} more jobs: --limit 0 shows all")


def _states(given: Sequence[str]) -> set[str]:
    for word in given:
        if word not in _STATES:
            raise UserError(
                f"no job has the state {word}{hint(word, _STATES) or ';'} "
                f"states: {', '.join(_STATES)}"
            )
    return set(given)
