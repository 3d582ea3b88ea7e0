"""`meshtrain backup`: the master's store, members and keys in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import cli_of
from meshtrain.cli.output import print_json, say, tell
from meshtrain.cli.working import working
from meshtrain.errors import UserError


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file of that name.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was kept as JSON.")] = False,
) -> None:
    """Write a backup of the master on this host, also while it runs.

    It holds the job store (sweeps, jobs, attempts, bases), the members, the
    open tokens and the master's keys: keep it as safe as those. It does not hold
    logs, artifacts (models and results of jobs) and merged results.

    \b
    Examples:
      meshtrain backup mesh-monday.backup
      meshtrain --home /var/lib/meshtrain/master backup /srv/mesh.backup --force
    """
    from meshtrain.store.backup import make_backup

    if not file.expanduser().absolute().parent.is_dir():
        raise UserError(f"{file} can't be written: there is no folder {file.parent}. Make it first")
    with working("copying the store") as step:
        home = cli_of(ctx).home_folder
        made = make_backup(home, file.expanduser(), force=force, says=step.says)
    manifest = made.manifest
    if as_json:
        print_json(
            {
                "file": str(made.path),
                "size_bytes": made.size_bytes,
                "made_wall_s": manifest.made_wall_s,
                "meshtrain": manifest.meshtrain,
                "schema": manifest.schema,
                "jobs": manifest.jobs,
                "files": manifest.files,
            }
        )
        return
    jobs = words.count(manifest.jobs, "job")
    files = len(manifest.files) - 1
    others = f"; files of members, tokens and keys: {files}" if files else ""
    say(f"{made.path}: {words.size(made.size_bytes)}, {jobs}{others}")
    tell("logs, artifacts and results are not in it: copy their folders beside it")
