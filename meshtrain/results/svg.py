"""What SVG drawings are made of: elements whose texts are escaped, scales, ticks.

Colours are CSS variables of the page that the drawing stands in (`report_style`),
so that one drawing is right in light, in dark and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from rich.cells import cell_len

from meshtrain.results.page import escaped

FONT_SIZE = 12.0
CHAR_WIDTH = 0.56
"""Of the font's size, for a column of text in a sans-serif font: a little too much."""
COLOURS = 7
"""How many series colours the page has: `--c0` to `--c6`."""


class Svg:
    """A drawing of `width` × `height` pixels; elements come in the order of their calls."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width = width
        self.height = height
        self._label = label
        self._elements: list[str] = []

    def add(self, name: str, text: str = "", *, title: str = "", **attributes: object) -> None:
        """An element; `class_` and `text_anchor` become `class` and `text-anchor`.

        `title` is what shows when the pointer rests on it.
        """
        written = "".join(
            f' {key.rstrip("_").replace("_", "-")}="{escaped(_number(value))}"'
            for key, value in attributes.items()
            if value is not None
        )
        inner = f"<title>{escaped(title)}</title>" if title else ""
        inner += escaped(text)
        close = f">{inner}</{name}>" if inner else "/>"
        self._elements.append(f"<{name}{written}{close}")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, class_: str, *, title: str = ""
    ) -> None:
        self.add("line", title=title, x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        class_: str = "label",
        turn: float = 0.0,
        title: str = "",
    ) -> None:
        """Text whose middle line is at `y`; `turn` is in degrees, against the clock."""
        self.add(
            "text",
            text,
            title=title,
            x=x,
            y=y,
            dy="0.35em",
            text_anchor=anchor,
            class_=class_,
            transform=f"rotate({-turn:g} {_number(x)} {_number(y)})" if turn else None,
        )

    def mark(self, x: float, y: float, shape: int, *, class_: str, title: str = "") -> None:
        """A sign for a value; each series has a shape of its own beside its colour."""
        points = _SHAPES[shape % len(_SHAPES)]
        path = "M" + "L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in points) + "Z"
        self.add("path", d=path, class_=class_, title=title)

    def cross(self, x: float, y: float, class_: str, *, title: str = "") -> None:
        """The sign for a value that is missing."""
        path = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0-8l-8 8"
        self.add("path", d=path, class_=class_, title=title)

    def __str__(self) -> str:
        size = f"{_number(self.width)} {_number(self.height)}"
        return (
            f'<svg viewBox="0 0 {size}" width="{_number(self.width)}" '
            f'height="{_number(self.height)}" role="img" aria-label="{escaped(self._label)}">'
            f"{''.join(self._elements)}</svg>"
        )


def _polygon(corners: int, radius: float, turn: float = 0.0) -> tuple[tuple[float, float], ...]:
    return tuple(
        (
            radius * math.sin(2 * math.pi * i / corners + turn),
            -radius * math.cos(2 * math.pi * i / corners + turn),
        )
        for i in range(corners)
    )


_SHAPES = (
    _polygon(24, 4.6),
    _polygon(4, 6.0, math.pi / 4),
    _polygon(3, 6.2),
    _polygon(4, 6.0),
    _polygon(3, 6.2, math.pi),
    _polygon(6, 5.2),
    _polygon(5, 5.6),
)


class Scale(msgspec.Struct, frozen=True):
    """From a number to a place in the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)][: count * 4]


def tick_texts(values: Sequence[float]) -> list[str]:
    """The ticks' labels, all with as many decimals as the finest needs."""
    if any(value and not 1e-4 <= abs(value) < 1e6 for value in values):
        return [f"{value:.3g}" for value in values]
    for decimals in range(7):
        texts = [f"{value:.{decimals}f}" for value in values]
        if all(abs(float(t) - v) < 1e-9 for t, v in zip(texts, values, strict=True)):
            return texts
    return [f"{value:.3g}" for value in values]


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """About how wide a text is, in pixels."""
    return cell_len(text) * size * CHAR_WIDTH


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"
    return str(value)
