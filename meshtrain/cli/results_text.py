"""What `meshtrain results` says of cells that are missing."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrain.cli import words
from meshtrain.results.rerun import Rerun

NAMED_MAX = 8


def rerun_lines(reruns: Iterable[Rerun], *, named: bool) -> list[str]:
    """What is missing, and the command that runs it again.

    `named` also tells the cells' names, where nothing above has.
    """
    lines = []
    for again in reruns:
        lines.append(f"missing  {words.count(len(again.cells), 'cell')}: {again.says}")
        if named:
            names = [name.partition("/")[2] or name for name in again.cells]
            shown = ", ".join(names[:NAMED_MAX])
            more = len(names) - NAMED_MAX
            lines.append(f"         {shown}" + (f" and {more:,} more" if more > 0 else ""))
        if again.command:
            lines.append(f"         {again.command}")
    return lines
