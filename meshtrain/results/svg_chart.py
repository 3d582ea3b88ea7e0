"""Draws a merged table as SVG: lines, points or a heat map, as `plot_data` decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from meshtrain.results.formats import NumberStyle, cell_text, clip, clip_middle
from meshtrain.results.merge import MergedRow
from meshtrain.results.page import escaped
from meshtrain.results.plot_data import (
    PlotData,
    Series,
    Shape,
    count_text,
    reference_label,
    spread_apart,
    value_range,
)
from meshtrain.results.svg import COLOURS, Scale, Svg, text_width, tick_texts, ticks
from meshtrain.results.svg_heat import draw_heat

WIDTH = 860.0
HEIGHT = 330.0
TOP = 12.0
LABEL_WIDTH_MAX = 170.0
SHAPES_MAX = 7


def chart(data: PlotData, label: str) -> str:
    """The drawing, and below it what its marks mean, as HTML.

    `label` says what the values are.
    """
    if data.shape is Shape.HEAT:
        return draw_heat(data, label)
    return _Chart(data, label).draw() + legend(data)


def row_title(row: MergedRow, style: NumberStyle, name: str = "") -> str:
    """What shows when the pointer rests on a row's mark."""
    text = ", ".join(filter(None, [name, row.group, cell_text(row.axes)])) or "all"
    if row.mean is None:
        states = sorted({cell.state for cell in row.missing})
        return f"{text}: no value ({', '.join(states)})"
    text += f": {style(row.mean)}"
    if row.std is not None:
        text += f" ± {style(row.std)}"
    if row.half_width is not None:
        low, high = row.mean - row.half_width, row.mean + row.half_width
        text += f", interval {style(low)} to {style(high)}"
    return f"{text}, {count_text(row)}"


class _Chart:
    """Lines or points over one axis."""

    def __init__(self, data: PlotData, label: str) -> None:
        self.data = data
        rows = [*(row for series in data.series for row in series.rows), *data.references]
        self.style = NumberStyle(
            [row.mean for row in rows if row.mean is not None], decimals=data.decimals
        )
        self.low, self.high = value_range(rows)
        self.y_ticks = ticks(self.low, self.high)
        y_texts = tick_texts(self.y_ticks)
        right = 16.0
        self.reference_labels = [
            reference_label(row, self.style).splitlines() for row in data.references
        ]
        if data.references:
            widest = max(text_width(line, 11) for lines in self.reference_labels for line in lines)
            right = min(widest + 24, LABEL_WIDTH_MAX + 60)
        left = max(map(text_width, y_texts), default=0.0) + 18
        self.x_texts = [clip_middle(text, 26) for text in data.x_texts]
        room = (WIDTH - left - right) / max(len(data.x_places), 1)
        widest_x = max(map(text_width, self.x_texts), default=0.0)
        self.turned = data.shape is Shape.POINTS and widest_x > room - 8
        below = (min(widest_x, LABEL_WIDTH_MAX) * 0.72 + 18) if self.turned else 24.0
        below += 20 if data.x_name else 0
        height = HEIGHT + max(below - 44, 0)
        self.svg = Svg(WIDTH, height, label)
        self.left, self.right = left, WIDTH - right
        self.bottom = height - below
        self.y = Scale(self.low, self.high, self.bottom, TOP)
        self.x = self._x_scale()
        self.y_texts = y_texts

    def _x_scale(self) -> Scale:
        first, last = min(self.data.x_places), max(self.data.x_places)
        if self.data.shape is Shape.POINTS:
            return Scale(first - 0.5, last + 0.5, self.left, self.right)
        side = 0.04 * (self.right - self.left)
        return Scale(first, last, self.left + side, self.right - side, log=self.data.log_x)

    def draw(self) -> str:
        for value, text in zip(self.y_ticks, self.y_texts, strict=True):
            self.svg.line(self.left, self.y(value), self.right, self.y(value), "grid")
            self.svg.text(self.left - 8, self.y(value), text, anchor="end", class_="tick")
        self.svg.line(self.left, self.bottom, self.right, self.bottom, "axis")
        self._draw_x_ticks()
        self._draw_references()
        for number, series in enumerate(self.data.series):
            self._draw_series(series, number)
        if not any(row.mean is not None for series in self.data.series for row in series.rows):
            middle = (self.left + self.right) / 2
            self.svg.text(middle, (TOP + self.bottom) / 2, "no values yet", anchor="middle")
        return str(self.svg)

    def _draw_x_ticks(self) -> None:
        end = -math.inf
        for place, text in zip(self.data.x_places, self.x_texts, strict=True):
            x = self.x(place)
            half = 6.0 if self.turned else text_width(text) / 2
            if x - half < end + 4:
                continue
            end = x + half
            self.svg.line(x, self.bottom, x, self.bottom + 4, "axis")
            if self.turned:
                self.svg.text(x + 4, self.bottom + 14, text, anchor="end", class_="tick", turn=45.0)
            else:
                self.svg.text(x, self.bottom + 15, text, anchor="middle", class_="tick")
        if self.data.x_name:
            name = self.data.x_name + (" (log scale)" if self.data.log_x else "")
            middle = (self.left + self.right) / 2
            self.svg.text(middle, self.svg.height - 8, clip(name, 90), anchor="middle")

    def _draw_references(self) -> None:
        placed: list[tuple[float, list[str]]] = []
        for row, lines in zip(self.data.references, self.reference_labels, strict=True):
            if row.mean is None:
                placed.append((self.bottom, [lines[0], "no value"]))
                continue
            y = self.y(row.mean)
            if row.std is not None:
                top, bottom = self.y(row.mean + row.std), self.y(row.mean - row.std)
                top, bottom = max(top, TOP), min(bottom, self.bottom)
                self.svg.add(
                    "rect",
                    x=self.left,
                    y=top,
                    width=self.right - self.left,
                    height=max(bottom - top, 0.0),
                    class_="band",
                )
            title = row_title(row, self.style)
            self.svg.line(self.left, y, self.right, y, "reference", title=title)
            placed.append((y, lines))
        wanted = [y for y, _ in placed]
        for (y, lines), at in zip(
            placed, spread_apart(wanted, 30.0, TOP + 14, self.bottom - 14), strict=True
        ):
            self.svg.line(self.right, y, self.right + 12, at, "leader")
            for number, line in enumerate(lines):
                where = at + (number - (len(lines) - 1) / 2) * 13
                self.svg.text(self.right + 15, where, clip(line, 34), class_="small")

    def _draw_series(self, series: Series, number: int) -> None:
        colour = number % COLOURS
        dodge = self._dodge(number)
        points = sorted(
            ((self.x(place) + dodge, row) for place, row in zip(series.places, series.rows,
             strict=True)), key=lambda point: point[0])  # fmt: skip
        if self.data.shape is Shape.LINES:
            self._draw_line(points, number)
        name = series.label if len(self.data.series) > 1 else ""
        for x, row in points:
            title = row_title(row, self.style, name)
            if row.mean is None:
                self.svg.cross(x, self.bottom - 9, f"miss s{colour}", title=title)
                continue
            if row.std is not None:
                top, bottom = self.y(row.mean + row.std), self.y(row.mean - row.std)
                self.svg.line(x, top, x, bottom, f"bar s{colour}")
                for end in (top, bottom):
                    self.svg.line(x - 4, end, x + 4, end, f"bar s{colour}")
            if row.n > 1:
                beside = 0.0 if self.data.shape is Shape.LINES else 8.0
                for cell in row.measured[:200]:
                    self.svg.add(
                        "circle",
                        title=f"{cell_text(cell.cell) or cell.name}: {self.style(cell.value)}",
                        cx=x + beside,
                        cy=self.y(cell.value),
                        r=2.2,
                        class_=f"run f{colour}",
                    )
            whole = "" if row.n == row.expected else " hollow"
            self.svg.mark(
                x, self.y(row.mean), number, class_=f"mean s{colour} f{colour}{whole}", title=title
            )

    def _draw_line(self, points: Sequence[tuple[float, MergedRow]], number: int) -> None:
        pieces: list[list[str]] = [[]]
        for x, row in points:
            if row.mean is None:
                pieces.append([])
            else:
                pieces[-1].append(f"{x:.1f} {self.y(row.mean):.1f}")
        path = "".join("M" + "L".join(piece) for piece in pieces if len(piece) > 1)
        if path:
            self.svg.add("path", d=path, class_=f"line s{number % COLOURS} d{number % SHAPES_MAX}")

    def _dodge(self, number: int) -> float:
        """How far a series is moved aside, so that bars don't hide each other."""
        count = len(self.data.series)
        spread = any(row.std is not None for series in self.data.series for row in series.rows)
        if count == 1 or (self.data.shape is Shape.LINES and not spread):
            return 0.0
        side = (number - (count - 1) / 2) / count
        if self.data.shape is Shape.POINTS:
            return side * 0.7 * (self.right - self.left) / len(self.data.x_places)
        return side * 22


def legend(data: PlotData) -> str:
    """What colours and marks mean, as HTML; empty where there is nothing to tell apart."""
    rows = [row for series in data.series for row in series.rows]
    entries: list[tuple[str, str]] = []
    if len(data.series) > 1:
        for number, series in enumerate(data.series):
            sign = Svg(34, 14, "")
            if data.shape is Shape.LINES:
                style = f"line s{number % COLOURS} d{number % SHAPES_MAX}"
                sign.line(1, 7, 33, 7, style)
            sign.mark(17, 7, number, class_=f"mean s{number % COLOURS} f{number % COLOURS}")
            entries.append((str(sign), series.label))
    if any(0 < row.n < row.expected for row in rows):
        sign = Svg(16, 14, "")
        sign.mark(8, 7, 0, class_="mean quiet hollow")
        entries.append((str(sign), "hollow: some runs missing"))
    if any(row.n == 0 for row in rows):
        sign = Svg(16, 14, "")
        sign.cross(8, 7, "miss quiet")
        entries.append((str(sign), "no value"))
    if not entries:
        return ""
    items = "".join(f"<li>{sign}{escaped(name)}</li>" for sign, name in entries)
    return f'<ul class="legend">{items}</ul>'
