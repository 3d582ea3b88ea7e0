"""`meshtrain bases pin`, `unpin`, `evict` and `warm`: where copies of a base stay, go and come."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, ask, cli_of
from meshtrain.cli.output import print_json, say
from meshtrain.ids import new_id
from meshtrain.wire.messages import Done, Evict, Pin, Warm

_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Base = Annotated[
    str, typer.Argument(metavar="HASH", help="A recipe hash, or the first characters of it.")
]


def pin(
    ctx: typer.Context,
    base: _Base,
    node: Annotated[
        str,
        typer.Option(
            "--node", metavar="NODE", help="The node that keeps it; not given: all that hold it."
        ),
    ] = "",
    as_json: _AsJson = False,
) -> None:
    """Keep a base from being evicted, until it is unpinned.

    \b
    Examples:
      meshtrain bases pin 7f3a
      meshtrain bases pin 7f3a --node gpu1
    """
    with cli_of(ctx).link() as link:
        if node:
            ask(link, "nodes", [node])
        done = act(link, Pin(new_id("pin"), base, node))
    if as_json:
        print_json({"pinned": done.done, "node": node or None, "notes": done.notes})
        return
    _tell(done, f"is pinned to {node}" if node else "is pinned wherever it lies")


def unpin(
    ctx: typer.Context,
    base: _Base,
    node: Annotated[
        str,
        typer.Option(
            "--node", metavar="NODE", help="Take away the pin to this node; not given: all pins."
        ),
    ] = "",
    as_json: _AsJson = False,
) -> None:
    """Let a base be evicted again.

    \b
    Example:
      meshtrain bases unpin 7f3a
    """
    with cli_of(ctx).link() as link:
        done = act(link, Pin(new_id("unpin"), base, node, pinned=False))
    if as_json:
        print_json({"unpinned": done.done, "node": node or None, "notes": done.notes})
        return
    _tell(done, f"is not pinned to {node} any more" if node else "is not pinned any more")


def evict(
    ctx: typer.Context,
    base: _Base,
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="The node that it goes from.")
    ],
    as_json: _AsJson = False,
) -> None:
    """Remove a base from a node, unless it is needed there or is the last durable copy.

    \b
    Example:
      meshtrain bases evict 7f3a --node gpu1
    """
    with cli_of(ctx).link() as link:
        # It names the node with a did-you-mean when there is none of that name.
        ask(link, "nodes", [node])
        done = act(link, Evict(new_id("evict"), base, node))
    if as_json:
        print_json({"evicted": done.done, "node": node, "notes": done.notes})
        return
    _tell(done, f"is gone from {node}" if not done.notes else f"is to go from {node}")


def warm(
    ctx: typer.Context,
    base: _Base,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=10_000, help="On how many nodes.")
    ],
    as_json: _AsJson = False,
) -> None:
    """Place a base on nodes before it is asked for; nothing is evicted for it.

    \b
    Example:
      meshtrain bases warm 7f3a --nodes 3
    """
    with cli_of(ctx).link() as link:
        done = act(link, Warm(new_id("warm"), base, nodes))
    if as_json:
        print_json({"warmed": done.done, "nodes": nodes, "notes": done.notes})
        return
    _tell(done, f"is brought to {words.count(nodes, 'node')}" if not done.notes else "")


def _tell(done: Done, what: str) -> None:
    for recipe_hash in done.done if what else ():
        say(f"{words.base_name(recipe_hash)} {what}")
    for note in done.notes:
        say(note)
