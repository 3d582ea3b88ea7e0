"""The columns of a table: what each shows, and how they share the width.

    Column("name", "JOB", 20, lambda row, picture: row.name, flexible=True, cut=tail)
    Column("retries", "RUNS", 4, lambda row, picture: str(row.retries), right=True, rank=3)

`name` is what core.pages sorts by ("" for a column that isn't sorted by). Where the
width is short, the columns of the highest rank are left out first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textual.content import Content

from meshtrain_tui.feed import Picture
from meshtrain_tui.settings import Density
from meshtrain_tui.words import head

BETWEEN = 2
"""Blank cells between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    title: str
    width: int
    """Cells, at least."""
    cell: Callable[[Any, Picture], str | Content]
    flexible: bool = False
    """Whether it takes of the room that is left."""
    right: bool = False
    rank: int = 0
    """0 is always shown; of the others the highest goes first."""
    wide: bool = False
    """Only where the dashboard is to show much."""
    cut: Callable[[str, int], str] = head

    def content(self, row: Any, picture: Picture, width: int) -> Content:
        """The cell of a row, exactly `width` cells wide."""
        told = self.cell(row, picture)
        content = Content(self.cut(told, width)) if isinstance(told, str) else told
        content = content.truncate(width, ellipsis=True)
        blank = " " * (width - content.cell_length)
        return Content(blank).append(content) if self.right else content.append(blank)


Fitted = tuple[tuple[Column, int], ...]
"""The columns that are shown, with their widths in cells."""


def fit(columns: Sequence[Column], width: int, density: Density) -> Fitted:
    """Those that find room in `width` cells, and how much each has."""
    kept = [column for column in columns if density is Density.WIDE or not column.wide]
    if density is Density.COMPACT:
        kept = [column for column in kept if column.rank < COMPACT_RANK]
    while _needed(kept) > width and any(column.rank for column in kept):
        highest = max(column.rank for column in kept)
        *_, last = [column for column in kept if column.rank == highest]
        kept.remove(last)
    spare = max(0, width - _needed(kept))
    flexible = [column for column in kept if column.flexible]
    fitted = []
    for column in kept:
        more = 0
        if column.flexible:
            more = spare // len(flexible)
            if column is flexible[0]:
                more += spare % len(flexible)
        fitted.append((column, column.width + more))
    return tuple(fitted)


COMPACT_RANK = 3
"""Columns from this rank on are left out in a compact dashboard."""


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + BETWEEN * max(0, len(columns) - 1)
