"""Draws a table with too many lines to tell apart as a heat map, as SVG."""

from __future__ import annotations

import math

from meshtrain.results.formats import NumberStyle, cell_text, clip_middle
from meshtrain.results.merge import MergedRow
from meshtrain.results.page import escaped
from meshtrain.results.plot_data import PlotData, count_text, reference_label
from meshtrain.results.svg import Svg, text_width

WIDTH = 860.0
CELL_HEIGHT = 40.0
SMALL_CELL_HEIGHT = 14.0
CELL_WIDTH_MIN = 9.0
CELL_WIDTH_MAX = 108.0
TEXT_WIDTH_MIN = 58.0
LABEL_WIDTH_MAX = 210.0
LABEL_LEN_MAX = 32
TURNED_GAP = 16.0
"""From one turned label to the next, at least."""
TALL_ROWS_MAX = 30
"""More rows than this are drawn low, without numbers in them."""

# Viridis, by Smith and van der Walt: even steps to the eye, also without colour.
_STOPS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")


def draw_heat(data: PlotData, label: str) -> str:
    """The first axis against all others; missing cells are struck out and say why."""
    means = [row.mean for series in data.series for row in series.rows if row.mean is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    style = NumberStyle(means, decimals=data.decimals)
    names = [clip_middle(series.label, LABEL_LEN_MAX) for series in data.series]
    left = min(max([text_width(n) for n in names], default=0.0) + 14, LABEL_WIDTH_MAX)
    columns = len(data.x_places)
    cell_width = min(max((WIDTH - left - 10) / max(columns, 1), CELL_WIDTH_MIN), CELL_WIDTH_MAX)
    tall = len(data.series) <= TALL_ROWS_MAX
    with_texts = cell_width >= TEXT_WIDTH_MIN and tall
    cell_height = CELL_HEIGHT if with_texts else 24.0 if tall else SMALL_CELL_HEIGHT
    x_texts = [clip_middle(text, 24) for text in data.x_texts]
    widest = max(map(text_width, x_texts), default=0.0)
    turned = widest > cell_width - 6
    below = (widest * 0.72 + 22 if turned else 26.0) + (20.0 if data.x_name else 0.0)
    bottom = 6 + cell_height * max(len(data.series), 1)
    svg = Svg(max(left + cell_width * columns + 10, 320.0), bottom + below, label)
    column_of = {place: column for column, place in enumerate(data.x_places)}
    for number, (series, name) in enumerate(zip(data.series, names, strict=True)):
        y = 6 + number * cell_height
        svg.text(left - 8, y + cell_height / 2, name, anchor="end", class_="tick",
                 title=series.label)  # fmt: skip
        for place, row in zip(series.places, series.rows, strict=True):
            x = left + column_of[place] * cell_width
            _cell(svg, row, (x, y, cell_width, cell_height), (low, high), style, with_texts)
    step = max(math.ceil((TURNED_GAP if turned else widest + 6) / cell_width), 1)
    for column in range(0, columns, step):
        x = left + (column + 0.5) * cell_width
        if turned:
            svg.text(x + 4, bottom + 10, x_texts[column], anchor="end", class_="tick", turn=45.0)
        else:
            svg.text(x, bottom + 13, x_texts[column], anchor="middle", class_="tick")
    if data.x_name:
        middle = left + cell_width * columns / 2
        svg.text(middle, svg.height - 9, clip_middle(data.x_name, 60), anchor="middle")
    return f'<div class="wide">{svg}</div>' + _meaning(data, style, low, high, bool(means))


def colour_at(share: float) -> tuple[str, bool]:
    """The colour of a place between lowest 0 and highest 1, and whether dark ink reads on it."""
    share = min(max(share, 0.0), 1.0) * (len(_STOPS) - 1)
    place = min(int(share), len(_STOPS) - 2)
    mixed = [
        round(one + (other - one) * (share - place))
        for one, other in zip(_rgb(_STOPS[place]), _rgb(_STOPS[place + 1]), strict=True)
    ]
    red, green, blue = mixed
    dark_ink = 0.299 * red + 0.587 * green + 0.114 * blue > 128
    return f"#{red:02x}{green:02x}{blue:02x}", dark_ink


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _cell(
    svg: Svg,
    row: MergedRow,
    box: tuple[float, float, float, float],
    limits: tuple[float, float],
    style: NumberStyle,
    with_texts: bool,
) -> None:
    x, y, width, height = box
    middle, centre = x + width / 2, y + height / 2
    point = cell_text(row.axes)
    if row.mean is None:
        state = row.missing[0].state if row.missing else "no value"
        _box(svg, box, title=f"{point}: {state}", class_="gap")
        svg.line(x + 1, y + height - 1, x + width - 1, y + 1, "strike")
        if with_texts:
            svg.text(middle, centre, state, anchor="middle", class_="small quiet")
        return
    low, high = limits
    fill, dark_ink = colour_at((row.mean - low) / (high - low) if high > low else 0.5)
    spread = "" if row.std is None else f" ± {style(row.std)}"
    title = f"{point}: {style(row.mean)}{spread}, {count_text(row)}"
    _box(svg, box, title=title, fill=fill)
    if not with_texts:
        return
    ink = "ink-dark" if dark_ink else "ink-light"
    small = [f"± {style(row.std)}"] if row.std is not None else []
    small += [f"{row.n}/{row.expected}"] if row.n < row.expected else []
    svg.text(middle, centre - (7 if small else 0), style(row.mean), anchor="middle", class_=ink)
    if small:
        svg.text(middle, centre + 8, " · ".join(small), anchor="middle", class_=f"small {ink}")


def _box(
    svg: Svg,
    box: tuple[float, float, float, float],
    *,
    title: str,
    fill: str | None = None,
    class_: str | None = None,
) -> None:
    """A cell's rectangle, a little apart from its neighbours."""
    x, y, width, height = box
    svg.add(
        "rect",
        title=title,
        x=x + 0.5,
        y=y + 0.5,
        width=width - 1,
        height=height - 1,
        fill=fill,
        class_=class_,
    )


def _meaning(data: PlotData, style: NumberStyle, low: float, high: float, any_: bool) -> str:
    """The scale of colours, and what hatched and blank cells mean, as HTML."""
    parts = []
    if any_:
        bar = "".join(f'<i style="background:{colour_at(step / 23)[0]}"></i>' for step in range(24))
        parts.append(f'<li>{style(low)}<span class="scale">{bar}</span>{style(high)}</li>')
    rows = [row for series in data.series for row in series.rows]
    if any(row.mean is None for row in rows):
        parts.append("<li>struck out: no value</li>")
    if len(rows) < len(data.x_places) * len(data.series):
        parts.append("<li>blank: not in the sweep</li>")
    parts += [
        f"<li>{escaped(' '.join(reference_label(row, style).splitlines()))}</li>"
        for row in data.references
    ]
    return f'<ul class="legend">{"".join(parts)}</ul>' if parts else ""
