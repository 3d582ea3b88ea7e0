"""`meshtrain why`: why a job waits, when it starts, and what would start it sooner."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.context import ask, cli_of
from meshtrain.cli.output import painted, print_json, say, text_width
from meshtrain.core.why import Why
from meshtrain.core.why_lines import why_lines

TIMEOUT_S_MIN = 30.0
"""The queue ahead is played through: of a very long one that takes some seconds."""


def command(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say why a job waits: each node's reason, when it starts, what would start it sooner.

    Times come from earlier runs like it and like those before it, on the same
    kind of node; the range holds in 8 cases of 10. Each change that is named was
    tried on a copy of the queue.

    \b
    Examples:
      meshtrain why few_shot/dataset=coco20i,backbone=resnet50,shots=5,fold=2
      meshtrain why base/7f3a
    """
    cli = cli_of(ctx)
    with cli.link(max(cli.timeout_s, TIMEOUT_S_MIN)) as link:
        (row,) = ask(link, "why", [job]).rows
    if as_json:
        print_json(row)
        return
    told = msgspec.convert(row, Why)
    lines = why_lines(
        told,
        clock=lambda wall_s: words.clock(wall_s, told.now_wall_s),
        duration=words.duration,
        width=text_width(120),
    )
    say(painted(lines[0], bold=True))
    for line in lines[1:]:
        say(line)
