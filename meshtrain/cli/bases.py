"""`meshtrain bases`: the base models, and training one anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshtrain.cli import bases_cache, bases_diff, bases_log, bases_restore, words
from meshtrain.cli.context import act, ask_all, cli_of
from meshtrain.cli.main import plain_app
from meshtrain.cli.output import Column, print_json, print_table, say
from meshtrain.ids import new_id, short
from meshtrain.wire.messages import Rebuild

command = plain_app(invoke_without_command=True)
command.command()(bases_restore.restore)
command.command()(bases_log.log)
command.command()(bases_diff.diff)
command.command()(bases_cache.pin)
command.command()(bases_cache.unpin)
command.command()(bases_cache.evict)
command.command()(bases_cache.warm)

HOLDERS_SHOWN_MAX = 4
_COLUMNS = (
    Column("BASE"),
    Column("STATE"),
    Column("SIZE", right=True),
    Column("HELD BY", flexible=True),
    Column("TRAINED", flexible=True),
    Column("WAIT", right=True),
    Column("", flexible=True),
)


@command.callback()
def bases(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with full hashes.")] = False,
) -> None:
    """List the base models: where they are, who trained them, who waits on them.

    \b
    Examples:
      meshtrain bases
      meshtrain bases log 7f3a
      meshtrain bases diff 7f3a c019
      meshtrain bases pin 7f3a
      meshtrain bases rebuild 7f3a
      meshtrain bases restore 7f3a
    """
    if ctx.invoked_subcommand is not None:
        return
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "bases")
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No base models yet: a sweep with a base: section makes one.")
        return
    print_table(_COLUMNS, [_line(row) for row in rows], state_column=1)
    if archived := sum(bool(row.get("archived")) for row in rows):
        say(f"{archived} of {len(rows)} are in the archive")


@command.command()
def rebuild(
    ctx: typer.Context,
    base: Annotated[
        str, typer.Argument(metavar="HASH", help="A recipe hash, or the first characters of it.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a base anew; jobs that start later start from the new model.

    \b
    Example:
      meshtrain bases rebuild 7f3a
    """
    with cli_of(ctx).link() as link:
        done = act(link, Rebuild(new_id("rebuild"), base))
    if as_json:
        print_json({"rebuilt": done.done, "notes": done.notes})
        return
    for recipe_hash in done.done:
        say(f"{words.base_name(recipe_hash)} is trained anew")


def _holders_text(row: dict[str, Any]) -> str:
    """Who holds it, and where it is pinned."""
    pinned = set(row["pinned"])
    holders = [f"{name} (pinned)" if name in pinned else name for name in row["holders"]]
    told = words.listed(holders, HOLDERS_SHOWN_MAX)
    return f"{told}; pinned" if "" in pinned else told


def _line(row: dict[str, Any]) -> list[str]:
    trained = ""
    if row["node_id"] and row["trained_s"] is not None:
        trained = f"{row['node_id']}, {words.duration(row['trained_s'])}"
    state = row["state"]
    if state == "needed":
        state = "training" if row["job_node_id"] else "waiting"
        trained = row["job_node_id"] or ""
    return [
        short(row["recipe_hash"]),
        state,
        words.size(row["size_bytes"]) if row["size_bytes"] else "",
        _holders_text(row),
        trained,
        str(row["waiting"]) if row["waiting"] else "",
        row["failure"] or row["label"],
    ]
