"""`meshtrain inputs`: the data sets of the mesh."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from meshtrain.cli import words
from meshtrain.cli.context import ask_all, cli_of
from meshtrain.cli.output import Column, print_json, print_table, say
from meshtrain.ids import short

HOLDERS_SHOWN_MAX = 4
_COLUMNS = (
    Column("DATA SET"),
    Column("ID"),
    Column("SIZE", right=True),
    Column("FILES", right=True),
    Column("PUBLISHED"),
    Column("BY"),
    Column("HELD BY", flexible=True),
)


def command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME[@VERSION]]...", help="Only these; all versions of a name."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List all versions, not the newest alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with full ids.")] = False,
) -> None:
    """List the data sets that were published: versions, sizes, who has them.

    \b
    Examples:
      meshtrain inputs
      meshtrain inputs pascal5i
    """
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "inputs", names or ())
    if not names and not every:
        rows = _newest(rows)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No data sets yet. Publish one: meshtrain publish PATH --name NAME")
        return
    print_table(_COLUMNS, [_line(row) for row in rows])


def _newest(rows: list[Any]) -> list[Any]:
    """The first row of each name; versions come from the newest on."""
    found: dict[str, Any] = {}
    for row in rows:
        found.setdefault(row["name"], row)
    return list(found.values())


def _line(row: dict[str, Any]) -> list[str]:
    published = datetime.fromtimestamp(row["published_wall_s"])
    return [
        row["reference"],
        short(row["artifact_id"]),
        words.size(row["size_bytes"]),
        f"{row['files_count']:,}",
        f"{published:%Y-%m-%d %H:%M}",
        row["published_by"],
        words.listed(list(row["holders"]), HOLDERS_SHOWN_MAX),
    ]
