"""`meshtrain nodes`: who is there, what is taken, what runs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.context import ask_all, cli_of
from meshtrain.cli.output import Column, print_json, print_table, say
from meshtrain.core.node import NodeSpec

RUNNING_SHOWN_MAX = 2
_COLUMNS = (
    Column("NODE", flexible=True),
    Column("STATE", flexible=True),
    Column("IN USE", right=True),
    Column("MEMORY", right=True),
    Column("HOLDS", right=True),
    Column("RUNS", flexible=True),
)


def command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE]...", help="Nodes; all if none.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the nodes: whether they take jobs, what of them is taken, what runs there.

    \b
    Example:
      meshtrain nodes
    """
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "nodes", names or [])
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No nodes yet: start one with meshtrain worker")
        return
    print_table(_COLUMNS, [_line(row) for row in rows], state_column=1)


def _line(row: dict[str, Any]) -> list[str]:
    return [
        row["node_id"],
        state_text(row),
        _use_text(row),
        words.size(row["memory_bytes"]) if row["memory_bytes"] else "",
        str(row["holds"]),
        _running_text(row),
    ]


def state_text(row: dict[str, Any]) -> str:
    """Whether a node takes jobs: ready, drained, away; or why it takes none."""
    if not row["connected"]:
        return "away"
    if row["drained"]:
        return "drained"
    if not row["accepting"]:
        return f"takes no jobs: {row['note']}" if row["note"] else "takes no jobs"
    return "ready"


def _use_text(row: dict[str, Any]) -> str:
    spec = msgspec.convert(row["spec"], NodeSpec)
    if not spec.gpus:
        return f"{row['cpus_used']}/{words.count(spec.cpu_slots, 'slot')}"
    models = {gpu.model for gpu in spec.gpus}
    kind = models.pop() if len(models) == 1 else "GPU"
    text = f"{len(row['gpus_used'])}/{len(spec.gpus)} {kind}"
    return f"{text} + {row['cpus_used']}/{spec.cpu_slots}" if row["cpus_used"] else text


def _running_text(row: dict[str, Any]) -> str:
    shown = row["running"][:RUNNING_SHOWN_MAX]
    more = row["running_count"] - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
