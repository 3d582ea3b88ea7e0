"""`meshtrain restore`: a backup in the place of the master's store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from meshtrain.cli.context import cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.cli.working import working


def command(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file that `meshtrain backup` made.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Put a backup in place of the job store of the master on this host.

    The master must be stopped; the nodes may run on. What is there is moved
    aside, into a folder before-restore-TIME, never removed. Jobs that ended
    after the backup was made run again, sweeps that were submitted after it
    are not known: submit them again. Members, tokens and keys are put back only
    where the home has none.

    \b
    Examples:
      meshtrain restore mesh-monday.backup
      meshtrain --home /var/lib/meshtrain/master restore /srv/mesh.backup
    """
    from meshtrain.store.restore import restore_backup

    with working("unpacking the backup") as step:
        done = restore_backup(cli_of(ctx).home_folder, file.expanduser(), says=step.says)
    manifest = done.manifest
    if as_json:
        print_json(
            {
                "file": str(file),
                "made_wall_s": manifest.made_wall_s,
                "jobs": manifest.jobs,
                "incarnation": done.incarnation,
                "aside": str(done.aside),
                "members_restored": done.members_restored,
            }
        )
        return
    made = datetime.fromtimestamp(manifest.made_wall_s)
    say(f"restored {file}: {manifest.jobs} jobs, as of {made:%Y-%m-%d %H:%M:%S}")
    say(f"what was there before lies in {done.aside}")
    if len(manifest.files) > 1 and not done.members_restored:
        say("members, tokens and keys stay as the home has them")
    if done.members_restored:
        say("members came from the backup: revoke again whom you revoked since it was made")
    say("now start the master; sweeps that came later are to be submitted again")
