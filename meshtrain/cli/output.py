"""What the commands print: lines, tables, JSON. Colours are for terminals alone."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import typer
from rich.cells import cell_len

from meshtrain.results.formats import clip, clip_middle, pad, plain_text

GAP = "  "
COLUMN_WIDTH_MIN = 8

_STATE_COLOURS = {
    **dict.fromkeys(("succeeded", "committed", "ready", "reused"), "green"),
    **dict.fromkeys(("running", "collecting", "training"), "cyan"),
    **dict.fromkeys(("failed", "away"), "red"),
    **dict.fromkeys(("cancelled", "drained"), "yellow"),
}


class Column(NamedTuple):
    """A column of a table."""

    title: str
    flexible: bool = False
    """Whether it may be cut so that the table fits a terminal."""
    right: bool = False


def say(text: str = "") -> None:
    """A line for whoever reads the result."""
    typer.echo(text)


def tell(text: str) -> None:
    """A line beside the result: on stderr, on a terminal wrapped between words."""
    if sys.stderr.isatty():
        text = wrapped(text, max(shutil.get_terminal_size().columns, 40))
    typer.echo(text, err=True)


def hanging(text: str, beside: str, indent: str = "") -> list[str]:
    """Text as lines that all begin with `beside`, broken between words to fit a terminal."""
    width = terminal_width()
    if width is None:
        return [beside + text]
    return wrapped(beside + text, width, indent).split("\n")


def wrapped(text: str, width: int, indent: str = "") -> str:
    """Text whose lines are broken between words where they are too long; paths stay whole.

    Args:
        width: columns that a line may take.
        indent: put before what goes on in a line below, after the line's own blanks.
    """
    lines = []
    for line in text.split("\n"):
        if cell_len(line) < width:
            lines.append(line)
            continue
        own = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line.lstrip(),
            width - 1,
            initial_indent=own,
            subsequent_indent=own + indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def print_json(document: Any) -> None:
    """Plain data, or records, as indented JSON."""
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def terminal_width() -> int | None:
    """Columns of the terminal that is written to; None where it is none: nothing is cut."""
    if not sys.stdout.isatty():
        return None
    return max(shutil.get_terminal_size().columns, 40)


def text_width(width_max: int = 100) -> int:
    """Columns for running text and for tables that lay themselves out."""
    return min(terminal_width() or 80, width_max)


def shows_colours() -> bool:
    """Whether stdout shows colours: a terminal that can, and nobody asked for none.

    https://no-color.org
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    return os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """`text` in a colour, where colours are shown."""
    if not shows_colours():
        return text
    return typer.style(text, fg=colour, bold=bold or None, dim=dim or None)


def state_painted(text: str, state: str) -> str:
    """`text` in the colour of a state; the colour says nothing that the words don't."""
    colour = _STATE_COLOURS.get(state)
    return painted(text, colour) if colour else text


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    state_column: int | None = None,
    indent: str = "",
) -> None:
    """Aligned columns under their titles.

    Args:
        state_column: the column whose first word is a state, and is painted.
        indent: put before each line.
    """
    for line in table_lines(columns, rows, state_column=state_column, width=terminal_width()):
        say(indent + line)


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    state_column: int | None = None,
    width: int | None = None,
) -> list[str]:
    """The lines of a table, cut to `width` columns where one is given."""
    texts = [[plain_text(text) for text in row] for row in rows]
    widths = [
        max([cell_len(column.title), *(cell_len(row[place]) for row in texts)])
        for place, column in enumerate(columns)
    ]
    if width is not None:
        widths = _fitted(columns, widths, width - 2)
    titles = [_cell(column.title, columns[i], widths[i]) for i, column in enumerate(columns)]
    lines = [painted(GAP.join(titles).rstrip(), dim=True)]
    for row in texts:
        cells = [_cell(text, columns[i], widths[i]) for i, text in enumerate(row)]
        if state_column is not None:
            words = row[state_column].split()
            cells[state_column] = state_painted(cells[state_column], words[0] if words else "")
        lines.append(GAP.join(cells).rstrip())
    return lines


def _cell(text: str, column: Column, width: int) -> str:
    text = clip_middle(text, width) if column.flexible else clip(text, width)
    return " " * (width - cell_len(text)) + text if column.right else pad(text, width)


def _fitted(columns: Sequence[Column], widths: list[int], room: int) -> list[int]:
    """Takes from the widest flexible column until the line fits."""
    fitted = list(widths)
    flexible = [place for place, column in enumerate(columns) if column.flexible]
    while flexible and sum(fitted) + len(GAP) * (len(fitted) - 1) > room:
        widest = max(flexible, key=lambda place: fitted[place])
        if fitted[widest] <= COLUMN_WIDTH_MIN:
            break
        fitted[widest] -= 1
    return fitted
