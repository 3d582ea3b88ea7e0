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

from rich.cells import cell_len
from textual.content import Content, Span

from meshtrain_tui.feed import Picture
from meshtrain_tui.settings import Density
from meshtrain_tui.words import head

BETWEEN = 2
"""Blank cells between two columns."""
_BLANK = " " * BETWEEN


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

    def text(self, row: Any, picture: Picture, width: int) -> tuple[str, Sequence[Span]]:
        """The cell of a row, exactly `width` cells wide, and how its parts are styled."""
        told = self.cell(row, picture)
        spans: Sequence[Span]
        if isinstance(told, str):
            text, spans = self.cut(told, width), ()
        else:
            text, spans = told.plain, told.spans
        used = cell_len(text)
        if used > width:
            content = Content(text, list(spans)).truncate(width, ellipsis=True)
            text, spans = content.plain, content.spans
            used = content.cell_length
        blank = " " * (width - used)
        if self.right:
            return blank + text, _shifted(spans, len(blank))
        return text + blank, spans


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


def line_of(gutter: str, fitted: Fitted, row: Any, picture: Picture) -> Content:
    """The whole line of a row, put together once: a table draws many of them."""
    parts = [gutter]
    spans: list[Span] = []
    at = len(gutter)
    for column, width in fitted:
        text, styled = column.text(row, picture, width)
        spans += _shifted(styled, at)
        parts += [text, _BLANK]
        at += len(text) + BETWEEN
    return Content("".join(parts), spans)


def _shifted(spans: Sequence[Span], by: int) -> list[Span]:
    return [Span(span.start + by, span.end + by, span.style) for span in spans]
