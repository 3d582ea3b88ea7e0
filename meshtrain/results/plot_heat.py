"""Draws a table with too many lines to tell apart as a heat map with numbers.

Only `plots` imports this module, and only when it draws.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from meshtrain.results.formats import NumberStyle, clip_middle
from meshtrain.results.merge import MergedRow
from meshtrain.results.plot_data import PlotData, count_text, reference_label
from meshtrain.results.plot_sheet import Sheet

TEXTS_MAX = 1_500
QUIET = "#666666"


def draw_heat(sheet: Sheet, data: PlotData, y_label: str) -> None:
    """Draws the first axis against all others; missing cells are hatched and say why."""
    axes = sheet.axes
    means = [row.mean for s in data.series for row in s.rows if row.mean is not None]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    norm = Normalize(low, high)
    colours = sheet.colour_map()
    style = NumberStyle(means, decimals=data.decimals)
    columns = {place: column for column, place in enumerate(data.x_places)}
    with_texts = len(columns) * len(data.series) <= TEXTS_MAX
    for y, series in enumerate(data.series):
        for place, row in zip(series.places, series.rows, strict=True):
            x = columns[place]
            fill = "white" if row.mean is None else colours(norm(row.mean))
            axes.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5),
                    1,
                    1,
                    facecolor=fill,
                    edgecolor="#b0b0b0" if row.mean is None else "white",
                    hatch="////" if row.mean is None else None,
                    linewidth=1.0,
                )
            )
            if with_texts:
                _heat_texts(axes, x, y, row, style, fill)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(max(len(data.series), 1) - 0.5, -0.5)
    sheet.set_x_categories([float(i) for i in range(len(columns))], data.x_texts)
    sheet.set_y_categories([series.label for series in data.series])
    axes.set_xlabel(data.x_name)
    axes.set_ylabel(clip_middle(data.series_name, 40))
    sheet.hide_frame()
    if means:
        sheet.colour_bar(norm, y_label)
    else:
        sheet.say_empty("no values yet")
    for row in data.references:
        sheet.note(" ".join(reference_label(row, style).splitlines()))
    meanings = []
    if any(row.mean is None for series in data.series for row in series.rows):
        meanings.append("hatched: no value")
    if sum(len(series.rows) for series in data.series) < len(columns) * len(data.series):
        meanings.append("blank: not in the sweep")
    if meanings:
        sheet.note("; ".join(meanings))


def _heat_texts(axes: Axes, x: int, y: int, row: MergedRow, style: NumberStyle, fill: Any) -> None:
    if row.mean is None:
        state = row.missing[0].state if row.missing else ""
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        axes.text(x, y, state, ha="center", va="center", fontsize=7.5, color=QUIET, bbox=box)
        return
    red, green, blue = fill[:3]
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
    small = [] if row.std is None else [f"± {style(row.std)}"]
    small += [] if row.n == row.expected else [count_text(row)]
    axes.text(
        x,
        y - (0.16 if small else 0.0),
        style(row.mean),
        ha="center",
        va="center",
        fontsize=9,
        color=ink,
    )
    if small:
        axes.text(x, y + 0.2, "  ".join(small), ha="center", va="center", fontsize=6.5, color=ink)
