"""A line on as many rows as it needs, each of so many cells."""

from __future__ import annotations

from rich.cells import cell_len, get_character_cell_size


def wrapped(text: str, width: int) -> list[tuple[int, int]]:
    """The rows of a line: first and after last character of each; one row at least.

    A character that is two cells wide is never cut in two; at a width of 1 it has
    a row of its own.
    """
    width = max(width, 1)
    if text.isascii():
        return [
            (begin, min(begin + width, len(text))) for begin in range(0, max(len(text), 1), width)
        ]
    rows: list[tuple[int, int]] = []
    begin = used = 0
    for at, character in enumerate(text):
        cells = get_character_cell_size(character)
        if used + cells > width and at > begin:
            rows.append((begin, at))
            begin, used = at, 0
        used += cells
    rows.append((begin, len(text)))
    return rows


def cut(text: str, column: int, width: int) -> tuple[int, int]:
    """What of a line that isn't wrapped is in sight, from a column on: first and after last."""
    if text.isascii():
        return min(column, len(text)), min(column + width, len(text))
    begin = _characters(text, 0, column)
    return begin, _characters(text, begin, width)


def _characters(text: str, begin: int, cells: int) -> int:
    """The character after those that fit into so many cells."""
    if cell_len(text[begin:]) <= cells:
        return len(text)
    used = 0
    for at in range(begin, len(text)):
        used += get_character_cell_size(text[at])
        if used > cells:
            return at
    return len(text)
