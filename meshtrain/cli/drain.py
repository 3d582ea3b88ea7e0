"""`meshtrain drain`: let a node finish what it has, and give it nothing new."""

from __future__ import annotations

from typing import Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import act, ask, cli_of
from meshtrain.cli.output import print_json, say, tell
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.spec.kinds import DURATION
from meshtrain.wire.messages import Drain


def command(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(metavar="NODE", help="A node.")],
    within: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Then move what still runs, such as 10m or 0s."),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take jobs again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a node take no new jobs; what runs there goes on to its end.

    With --within, what still runs then is asked to end (SIGTERM, and a minute to
    write a checkpoint), and goes on elsewhere from its last checkpoint.

    \b
    Examples:
      meshtrain drain gpu3
      meshtrain drain gpu3 --within 10m
      meshtrain drain gpu3 --undo
    """
    within_s = _seconds(within) if within is not None else None
    with cli_of(ctx).link() as link:
        # It names the node with a did-you-mean when there is none of that name.
        ask(link, "nodes", [node])
        act(link, Drain(new_id("drain"), node, not undo, within_s))
        (row,) = ask(link, "nodes", [node]).rows
    if as_json:
        running = row["running_count"]
        print_json(
            {"node": node, "drained": not undo, "within_s": within_s, "running_count": running}
        )
        return
    if undo:
        say(f"{node} takes jobs again")
        return
    still = row["running_count"]
    rest = f"; {words.count(still, 'job')} still on it" if still else "; nothing runs on it"
    if still and within_s is not None:
        rest += f", moved elsewhere in {words.duration(within_s)}" if within_s else ", moved now"
    say(f"{node} is drained: it takes no new jobs{rest}")
    tell(f"use it again: meshtrain drain {node} --undo")


def _seconds(text: str) -> float:
    """Raises UserError for what is no time."""
    try:
        return 0.0 if text.strip() in ("0", "0s") else float(DURATION.check(text))
    except ValueError as error:
        raise UserError(f"--within {text}: {error}") from error
