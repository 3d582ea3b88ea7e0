"""`meshtrain nodes`: who is there, what is taken, what runs; ending a membership."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, ask, ask_all, cli_of
from meshtrain.cli.main import plain_app
from meshtrain.cli.output import Column, print_json, print_table, say
from meshtrain.core.member import MemberKind
from meshtrain.core.node import NodeSpec
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.wire.messages import Release, Revoke

command = plain_app(invoke_without_command=True)

RUNNING_SHOWN_MAX = 2
_MEMBER_COLUMNS = (
    Column("KIND"),
    Column("NAME", flexible=True),
    Column("STATE"),
    Column("KEY"),
)
_COLUMNS = (
    Column("NODE", flexible=True),
    Column("STATE", flexible=True),
    Column("IN USE", right=True),
    Column("MEMORY", right=True),
    Column("HOLDS", right=True),
    Column("RUNS", flexible=True),
)
_CACHE_COLUMNS = (Column("CACHE", right=True), Column("DISK FREE", right=True))


@command.callback()
def nodes(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the nodes: whether they take jobs, what of them is taken, what runs there.

    \b
    Examples:
      meshtrain nodes
      meshtrain nodes show gpu1
      meshtrain nodes members
      meshtrain nodes revoke gpu3
    """
    if ctx.invoked_subcommand is None:
        _print(ctx, [], as_json=as_json)


@command.command()
def show(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NODE...", help="Nodes.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List these nodes alone, with what their caches and disks have left.

    \b
    Example:
      meshtrain nodes show gpu1 gpu2
    """
    _print(ctx, names, as_json=as_json, with_cache=True)


@command.command()
def members(
    ctx: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List who belongs to the mesh, persons too, and who did.

    \b
    Example:
      meshtrain nodes members
    """
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "members")
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("This master lets everybody on its host in: it has no members")
        return
    lines = [
        [row["kind"], row["name"], "revoked" if row["revoked"] else "member", row["sign_key"][:16]]
        for row in rows
    ]
    print_table(_MEMBER_COLUMNS, lines)


@command.command()
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NODE", help="A node, or with --person a name.")],
    person: Annotated[bool, typer.Option("--person", help="A person, not a node.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """End a membership at once, everywhere: its keys open nothing any more.

    What a revoked node runs is run again elsewhere; a person's open tokens end too,
    and what they submitted goes on. To let somebody in again, have them move their
    keys away and join with a new token.

    \b
    Examples:
      meshtrain nodes revoke gpu3
      meshtrain nodes revoke --person alice
    """
    kind = MemberKind.PERSON if person else MemberKind.NODE
    with cli_of(ctx).link() as link:
        done = act(link, Revoke(new_id("revoke"), kind, name))
    was_one = bool(done.done)
    if as_json:
        print_json({"kind": kind.value, "name": name, "was_member": was_one})
        return
    say(f"{name} is no member any more" if was_one else f"{name} was revoked before")


@command.command()
def release(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Use a node's GPUs again that were taken out of use after repeated faults.

    \b
    Example:
      meshtrain nodes release gpu1
    """
    with cli_of(ctx).link() as link:
        try:
            act(link, Release(new_id("release"), node))
        except UserError:
            # Where there is none of that name, that is what to say: with a did-you-mean.
            ask(link, "nodes", [node])
            raise
    if as_json:
        print_json({"node": node, "released": True})
        return
    say(f"all GPUs of {node} are in use again")


def _print(
    ctx: typer.Context, names: list[str], *, as_json: bool, with_cache: bool = False
) -> None:
    with cli_of(ctx).link() as link:
        rows, _ = ask_all(link, "nodes", names)
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No nodes yet: start one with meshtrain worker")
        return
    if with_cache:
        lines = [[*_line(row), *_cache_texts(row)] for row in rows]
        print_table((*_COLUMNS, *_CACHE_COLUMNS), lines, state_column=1)
        return
    print_table(_COLUMNS, [_line(row) for row in rows], state_column=1)


def _cache_texts(row: dict[str, Any]) -> list[str]:
    """What artifacts take there of what they may, and what the disk has free."""
    used = words.size(row["cache_used_bytes"])
    budget, free = row["cache_budget_bytes"], row["disk_free_bytes"]
    return [f"{used} of {words.size(budget)}" if budget else used, words.size(free) if free else ""]


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
    # Ready, and yet something is to be known: GPUs out of use, or used by somebody else.
    return f"ready; {row['note']}" if row["note"] else "ready"


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
