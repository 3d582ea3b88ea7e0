"""One curve in characters: braille dots, two in a cell's width and four in its height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from meshtrain_tui.metrics.series import Point

LABEL_WIDTH = 9
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Chart(NamedTuple):
    """Rows of equal width: those of the curve, then that of its x axis."""

    rows: list[str]
    left_out: int
    """Points that a logarithmic axis can't show."""


class _Axis(NamedTuple):
    """Turns values into shares of an axis."""

    low: float
    high: float
    is_log: bool

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        low, high, value = (
            (math.log10(self.low), math.log10(self.high), math.log10(value))
            if self.is_log
            else (self.low, self.high, value)
        )
        # Halves, so that the distance of two huge numbers is a number too.
        span = high / 2 - low / 2
        return 0.5 if span <= 0 else min(max((value / 2 - low / 2) / span, 0.0), 1.0)

    def middle(self) -> float:
        if self.is_log:
            return 10 ** ((math.log10(self.low) + math.log10(self.high)) / 2)
        return self.low / 2 + self.high / 2


def chart(
    points: Sequence[Point],
    width: int,
    height: int,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> Chart:
    """Draw points into `width` x `height` cells, labels of the axes included.

    Points whose value, or place, is 0 or less are left out of a logarithmic axis.
    """
    drawable = [
        point for point in points if not (log_y and point.low <= 0) and not (log_x and point.x <= 0)
    ]
    left_out = len(points) - len(drawable)
    columns, lines = width - LABEL_WIDTH - 1, height - 1
    if columns < 2 or lines < 1 or not drawable:
        return Chart([" " * width] * max(height, 0), left_out)
    across = _Axis(min(p.x for p in drawable), max(p.x for p in drawable), log_x)
    up = _Axis(min(p.low for p in drawable), max(p.high for p in drawable), log_y)
    dots = _Dots(columns, lines)
    before: tuple[int, int] | None = None
    for point in drawable:
        x = round(across.share(point.x) * (2 * columns - 1))
        y, low, high = (
            round((1 - up.share(value)) * (4 * lines - 1))
            for value in (point.mean, point.low, point.high)
        )
        dots.line(x, high, x, low)
        dots.line(*(before or (x, y)), x, y)
        before = (x, y)
    labels = {0: number(up.high), lines - 1: number(up.low)}
    if lines >= 5 and up.high > up.low:
        labels[lines // 2] = number(up.middle())
    if up.high == up.low:
        labels = {lines // 2: number(up.high)}
    rows = [
        f"{labels.get(row, ''):>{LABEL_WIDTH}}{'┤' if row in labels else '│'}{text}"
        for row, text in enumerate(dots.rows())
    ]
    first, last = number(across.low), number(across.high)
    gap = columns - len(first) - len(last)
    axis = f"{first}{' ' * gap}{last}" if gap > 0 else last[:columns].rjust(columns)
    return Chart([*rows, f"{'':>{LABEL_WIDTH}} {axis}"], left_out)


class _Dots:
    """A field of braille characters."""

    def __init__(self, columns: int, lines: int) -> None:
        self._cells = [[0] * columns for _ in range(lines)]

    def line(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """Set the dots from one to another (Bresenham)."""
        dx, dy = abs(x1 - x0), -abs(y1 - y0)
        step_x, step_y = (1 if x0 < x1 else -1), (1 if y0 < y1 else -1)
        error = dx + dy
        while True:
            self._cells[y0 // 4][x0 // 2] |= _DOTS[y0 % 4][x0 % 2]
            if (x0, y0) == (x1, y1):
                return
            doubled = 2 * error
            if doubled >= dy:
                error += dy
                x0 += step_x
            if doubled <= dx:
                error += dx
                y0 += step_y

    def rows(self) -> list[str]:
        return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in self._cells]


def number(value: float) -> str:
    """A number in at most 9 characters: `0.1234`, `12,000`, `1.50e-07`."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 1e6 and value == int(value):
        return f"{int(value):,}"
    if 1e-3 <= size < 1e5:
        return f"{value:.4g}"
    text = f"{value:.2e}"
    return text if len(text) <= LABEL_WIDTH else f"{value:.1e}"
