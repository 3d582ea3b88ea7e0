"""How numbers, names and axis values read in tables and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

NOTHING = "–"
DECIMALS_MAX = 3


def plain_text(text: str) -> str:
    """`text` on one line, without control characters that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def clip(text: str, width: int) -> str:
    """`text` in at most `width` terminal columns, its end shortened."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…" if width > 0 else ""


def clip_middle(text: str, width: int) -> str:
    """`text` in at most `width` terminal columns, its middle shortened."""
    if cell_len(text) <= width or width < 5:
        return clip(text, width)
    tail = (width - 1) // 2
    end = text[-tail:]
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, width - 1 - cell_len(end)).rstrip() + "…" + end


def pad(text: str, width: int) -> str:
    """`text` filled up to `width` terminal columns."""
    return text + " " * max(width - cell_len(text), 0)


def is_number(value: object) -> bool:
    """Whether an axis value is a finite number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def axis_texts(values: Sequence[Any]) -> list[str]:
    """The values of one axis, short fractions with the same number of decimals."""
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    decimals = max((_decimals(value) for value in floats), default=0)
    return [_axis_text(value, decimals) for value in values]


def _axis_text(value: Any, decimals: int) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_number(value) and 0 < decimals <= DECIMALS_MAX and abs(value) < 1e6:
        return f"{value:.{decimals}f}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return plain_text(str(value)) or '""'


def _decimals(value: float) -> int:
    """Decimals that show `value` in full; more than DECIMALS_MAX when none do."""
    for decimals in range(DECIMALS_MAX + 1):
        if round(value, decimals) == value:
            return decimals
    return DECIMALS_MAX + 1


class NumberStyle:
    """One way to write all the numbers of a column, chosen by their size."""

    __slots__ = ("_format",)

    def __init__(self, values: Sequence[float], *, decimals: int = 3) -> None:
        largest = max((abs(value) for value in values), default=0.0)
        tiny = 0 < largest < 10.0 ** (1 - decimals)
        self._format = ".2e" if tiny or largest >= 1e6 else f".{decimals}f"

    def __call__(self, value: float | None) -> str:
        return NOTHING if value is None else format(value, self._format)


def decimals_for(values: Sequence[float]) -> int:
    """Decimals that make a plot's numbers three or four digits long."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest <= 1.5:
        return 3
    return 2 if largest < 10 else 1


def cell_text(cell: dict[str, Any]) -> str:
    """A point of the matrix as people write it: `dataset=coco20i,fold=1`."""
    return ",".join(f"{axis}={axis_texts([value])[0]}" for axis, value in cell.items())
