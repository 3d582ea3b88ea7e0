"""`meshtrain submit`: a job file to the mesh, with its code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from meshtrain.cli import words
from meshtrain.cli.context import Cli, Link, act, ask, cli_of
from meshtrain.cli.output import painted, print_json, say, state_painted, tell, text_width
from meshtrain.cli.sending import Sending
from meshtrain.cli.submission import (
    ALLOW_LARGE_CODE,
    CODE_BYTES_MAX,
    Snapshot,
    Submission,
    prepare,
    upload,
    with_inputs,
    with_parents,
)
from meshtrain.cli.submission_text import (
    ALLOW_LARGE_CODE_HELP,
    code_document,
    input_texts,
    inputs_document,
    largest_texts,
)
from meshtrain.cli.working import working
from meshtrain.ids import short
from meshtrain.net.address import split_address
from meshtrain.results.formats import clip
from meshtrain.spec.jobs import SweepSpec

SUBMIT_TIMEOUT_S = 120.0
"""A large matrix takes the master seconds."""
BASES_SHOWN_MAX = 8
SWEEP_FAILED = 1


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A job file.")],
    bases_only: Annotated[
        bool, typer.Option("--bases-only", help="Train just the bases, and no job.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress to the end, and exit with its outcome.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run it anew, also if the same was submitted before.")
    ] = False,
    allow_pending: Annotated[
        bool, typer.Option("--allow-pending", help="Accept jobs that no known node could run.")
    ] = False,
    allow_large_code: Annotated[
        bool, typer.Option(ALLOW_LARGE_CODE, help=ALLOW_LARGE_CODE_HELP)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")] = False,
) -> None:
    """Give a job file to the mesh, with a snapshot of its code.

    With --wait, exits 0 when every job succeeded and 1 when one did not.

    \b
    Examples:
      meshtrain submit batch_composition.yaml
      meshtrain submit few_shot.yaml --wait
    """
    cli = cli_of(ctx)
    with working(f"reading {file} and its code") as step:
        code_bytes_max = None if allow_large_code else CODE_BYTES_MAX
        submission = prepare(file, code_bytes_max=code_bytes_max)
        with cli.link() as link:
            submission = with_inputs(with_parents(submission, link), link)
            sweep = submission.sweep(bases_only=bases_only)
            # Asked in any case: a master that is away is told sooner than a slow one.
            url = http_url(cli, link)
            if submission.snapshots:

                def shows(snapshot: Snapshot) -> Sending:
                    return Sending(step, f"the code in {snapshot.written}", snapshot.size_bytes)

                asyncio.run(upload(submission, url, cli.way.standing, shows))
            message = submission.message(
                bases_only=bases_only, allow_pending=allow_pending, again=again
            )
            step.says(f"waiting for the master to take {words.count(len(sweep.jobs), 'job')}")
            done = act(link, message, max(SUBMIT_TIMEOUT_S, cli.timeout_s))
            (row,) = ask(link, "sweeps", done.done[:1]).rows
    if as_json:
        inputs = inputs_document(sweep)
        receipt = receipt_document(row, done.notes)
        print_json({**receipt, "code": code_document(submission), "inputs": inputs})
    else:
        for line in receipt_lines(row, sweep, submission, done.notes):
            say(line)
    if wait:
        _wait(cli, row, to_stderr=as_json)


def http_url(cli: Cli, link: Link) -> str:
    """Where the master takes uploads.

    Raises MasterAwayError when it doesn't answer.
    """
    (ports,) = ask(link, "ports").rows
    host, _ = split_address(cli.address)
    scheme = "https" if ports["https"] else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{ports['http']}"


# --- the receipt ---------------------------------------------------------------------


def receipt_document(row: dict[str, Any], notes: tuple[str, ...]) -> dict[str, Any]:
    """The receipt as `--json` prints it."""
    reused = set(row["reused_hashes"])
    return {
        "sweep_id": row["sweep_id"],
        "sweep": row["name"],
        "jobs": row["jobs"],
        "bases": [{"hash": h, "reused": h in reused} for h in row["recipe_hashes"]],
        "results": row["folder"],
        "notes": list(notes),
    }


def receipt_lines(
    row: dict[str, Any], sweep: SweepSpec, submission: Submission, notes: tuple[str, ...]
) -> list[str]:
    """What was submitted, where its results will lie, and what to do next."""
    sweep_id = row["sweep_id"]
    lines = [f"sweep    {painted(sweep_id, bold=True)}", _size_line(row)]
    labels = {base.recipe_hash: base.label for base in sweep.bases}
    reused = set(row["reused_hashes"])
    for recipe_hash in row["recipe_hashes"][:BASES_SHOWN_MAX]:
        state = "reused" if recipe_hash in reused else "new"
        known = state_painted(f"{state:<6}", state)
        label = clip(labels.get(recipe_hash, ""), text_width() - 27)
        lines.append(f"base     {short(recipe_hash)}  {known}  {label}".rstrip())
    if len(row["recipe_hashes"]) > BASES_SHOWN_MAX:
        lines.append(f"         … and {len(row['recipe_hashes']) - BASES_SHOWN_MAX} more")
    for snapshot in submission.snapshots.values():
        size = words.size(snapshot.size_bytes)
        files = words.count(len(snapshot.files), "file")
        lines.append(f"code     {short(snapshot.digests.artifact_id)}  {size} in {files}")
        lines += [f"           {text}" for text in largest_texts(snapshot)]
    for place, text in enumerate(input_texts(sweep)):
        lines.append(f"{'' if place else 'inputs':<7}  {text}")
    lines.append(f"results  {row['folder']}")
    lines += [f"note     {note}" for note in notes]
    lines += [
        "",
        f"watch    meshtrain jobs {sweep_id}{' --watch' if row['jobs'] else ''}",
        f"         {_closer_look(sweep)}",
        f"stop     meshtrain cancel {sweep_id}",
    ]
    if row["jobs"]:
        lines.append(f"table    meshtrain results {sweep_id}")
    return lines


def _size_line(row: dict[str, Any]) -> str:
    bases = words.count(row["bases"], "base model")
    if not row["jobs"]:
        return f"bases    {bases}, no job"
    return f"jobs     {row['jobs']:,}" + (f" on {bases}" if row["bases"] else "")


def _closer_look(sweep: SweepSpec) -> str:
    if not sweep.jobs:
        return "meshtrain bases"
    # In full, however wide the terminal: it is there to be copied.
    return f"meshtrain logs -f '{sweep.jobs[0].name}'"


# --- waiting --------------------------------------------------------------------------


def _wait(cli: Cli, row: dict[str, Any], *, to_stderr: bool) -> None:
    """Show the sweep until it has ended, and exit with its outcome."""
    from meshtrain.cli.watch import Outcome, watch

    sweep_id = row["sweep_id"]
    asked = () if row["jobs"] else tuple(row["recipe_hashes"])

    async def follow() -> Outcome:
        feed = cli.feed()
        return await watch(
            feed,
            sweep_id,
            asked,
            say=tell if to_stderr else say,
            metric=row["metric"],
            live=False if to_stderr else None,
        )

    tell("")
    try:
        outcome = asyncio.run(follow())
    except KeyboardInterrupt:
        tell(
            f"\n{sweep_id} goes on without this terminal. Watch: meshtrain jobs {sweep_id}   "
            f"Stop: meshtrain cancel {sweep_id}"
        )
        raise
    tell(f"{sweep_id}: {outcome.words()}")
    if not outcome.is_good:
        tell(f"See why: meshtrain jobs {sweep_id} --state failed")
        raise typer.Exit(SWEEP_FAILED)
    if row["jobs"]:
        tell(f"See the table: meshtrain results {sweep_id}")
