"""Draws a merged table as a PNG.

Also a program of its own, `python -m meshtrain.results.plots FOLDER`, so that
a daemon that wants a plot never imports matplotlib, and makes no report itself.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtrain.clock import wall_now_s
from meshtrain.errors import MeshtrainError
from meshtrain.results.atomic import write_atomic
from meshtrain.results.errors import MissingExtraError
from meshtrain.results.formats import NumberStyle, plain_text
from meshtrain.results.merge import MergedRow, MergedTable
from meshtrain.results.plot_data import (
    PlotData,
    Series,
    Shape,
    count_text,
    plot_data,
    reference_label,
    spread_apart,
    value_range,
)
from meshtrain.results.records import EXPERIMENTS_FILE
from meshtrain.results.report import Made
from meshtrain.results.report_file import write_report
from meshtrain.results.table import read_results

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from meshtrain.results.plot_sheet import Sheet

Point = tuple[float, MergedRow]
"""A row and its place on the x axis."""

PLOT_FILE = "plot.png"
PANEL_WIDTH_IN = 5.0
PANEL_HEIGHT_IN = 3.3
PANEL_MAX_IN = 16.0
CATEGORY_WIDTH_IN = 0.34
HEAT_CELL_IN = (0.86, 0.5)
COUNT_TEXT_IN = 0.55

# Okabe and Ito's palette, safe for colour-blind readers, less its yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#B07D00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES: tuple[Any, ...] = (
    "-",
    "--",
    "-.",
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (8, 3)),
    (0, (3, 1, 1, 1)),
)
REFERENCE_STYLES: tuple[Any, ...] = ((0, (6, 3)), (0, (1, 2)), (0, (6, 2, 1, 2)), (0, (3, 3)))
REFERENCE_COLOUR = "#4d4d4d"
QUIET = "#666666"


def plot(table: MergedTable, path: Path, *, title: str = "", y_label: str = "") -> Path:
    """Draws the table at `path` as a PNG of 150 dots per inch, whole or not at all.

    `y_label` says what the values are, the metric's name by default. Raises
    MissingExtraError without matplotlib, ResultsError when `path` can't be written.
    """
    sheet_type = _sheet_type()
    data = plot_data(table)
    panel_in = _panel_size(data)
    label = plain_text(y_label) or table.metric or "value"
    with sheet_type.style():
        sheet = sheet_type(panel_in)
        if data.shape is Shape.HEAT:
            from meshtrain.results.plot_heat import draw_heat

            draw_heat(sheet, data, label)
        else:
            _draw_series(sheet, data, label)
        buffer = io.BytesIO()
        sheet.finish(
            buffer,
            title=plain_text(title),
            lines=[*([", ".join(data.fixed)] if data.fixed else []), *data.caption],
        )
    write_atomic(path, buffer.getvalue())
    return path


def _sheet_type() -> type[Sheet]:
    try:
        from meshtrain.results.plot_sheet import Sheet
    except ImportError as error:
        raise MissingExtraError(
            f"plots need matplotlib, which can't be imported ({error}): "
            "pip install 'meshtrain[plots]'"
        ) from error
    return Sheet


def _panel_size(data: PlotData) -> tuple[float, float]:
    if data.shape is Shape.HEAT:
        width, height = HEAT_CELL_IN
        return (
            min(max(width * len(data.x_places), 2.6), PANEL_MAX_IN),
            min(max(height * len(data.series), 1.2), PANEL_MAX_IN),
        )
    if data.shape is Shape.POINTS:
        wanted = CATEGORY_WIDTH_IN * len(data.x_places) * (len(data.series) + 1)
        return min(max(wanted, PANEL_WIDTH_IN), PANEL_MAX_IN), PANEL_HEIGHT_IN
    return PANEL_WIDTH_IN, PANEL_HEIGHT_IN


def _draw_series(sheet: Sheet, data: PlotData, y_label: str) -> None:
    axes = sheet.axes
    rows = [row for series in data.series for row in series.rows]
    low, high = value_range([*rows, *data.references])
    axes.set_ylim(low, high)
    axes.set_ylabel(y_label)
    axes.set_xlabel(data.x_name + (" (log scale)" if data.log_x else ""))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    if data.log_x:
        axes.set_xscale("log")
    axes.set_xlim(*_x_range(data))
    if data.shape is Shape.LINES:
        sheet.set_x_ticks(data.x_places, data.x_texts)
    else:
        sheet.set_x_categories(data.x_places, data.x_texts)
    style = NumberStyle(_means(data), decimals=data.decimals)
    _draw_references(sheet, data, style, low, high)
    handles: list[Artist] = []
    names: list[str] = []
    for number, series in enumerate(data.series):
        places = _dodged(data, series.places, number)
        handle = _draw_one_series(axes, data, series, places, number)
        if len(data.series) > 1:
            handles.append(handle)
            names.append(series.label)
    _add_mark_legend(axes, data, handles, names)
    sheet.legend(handles, names, with_lines=data.shape is Shape.LINES and len(data.series) > 1)
    if not _means(data):
        any_rows = any(series.rows for series in data.series) or data.references
        sheet.say_empty("no values yet" if any_rows else "no jobs in this sweep")
        axes.set_yticks([])


def _draw_one_series(
    axes: Axes, data: PlotData, series: Series, places: Sequence[float], number: int
) -> Artist:
    colour = COLOURS[number % len(COLOURS)]
    marker = MARKERS[number % len(MARKERS)]
    line_style = LINE_STYLES[number % len(LINE_STYLES)]
    points = sorted(zip(places, series.rows, strict=True), key=lambda point: point[0])
    lines = data.shape is Shape.LINES
    alone = len(data.series) == 1
    if lines:
        _draw_line(axes, points, colour, line_style, band=alone)
    _draw_runs(axes, points, colour, beside=0.0 if lines else 0.24 / (len(data.series) + 1))
    _draw_means(axes, points, colour, marker)
    if alone and _least_gap_in(data) > COUNT_TEXT_IN:
        _write_counts(axes, points)
    return _handle(
        color=colour,
        marker=marker,
        linestyle=line_style if lines else "none",
        linewidth=1.8,
        markersize=6,
    )


def _draw_line(
    axes: Axes, points: Sequence[Point], colour: str, line_style: Any, *, band: bool
) -> None:
    """The line of the means, broken where one is missing, and the band of their spread."""
    xs = [x for x, _ in points]
    means = [math.nan if row.mean is None else row.mean for _, row in points]
    axes.plot(xs, means, color=colour, linestyle=line_style, linewidth=1.8, zorder=4)
    if band:
        stds = [row.std or 0.0 for _, row in points]
        axes.fill_between(
            xs,
            [mean - std for mean, std in zip(means, stds, strict=True)],
            [mean + std for mean, std in zip(means, stds, strict=True)],
            color=colour,
            alpha=0.15,
            linewidth=0,
            zorder=2,
        )


def _draw_runs(axes: Axes, points: Sequence[Point], colour: str, *, beside: float) -> None:
    """The bars of the spread, and a dot for each single run, `beside` them."""
    spread = [
        (x, row.mean, row.std) for x, row in points if row.mean is not None and row.std is not None
    ]
    axes.errorbar(
        [x for x, _, _ in spread],
        [mean for _, mean, _ in spread],
        yerr=[std for _, _, std in spread],
        fmt="none",
        ecolor=colour,
        elinewidth=1.1,
        capsize=3,
        zorder=3,
    )
    dots = [(x + beside, c.value) for x, row in points if row.n > 1 for c in row.measured]
    axes.scatter(
        [x for x, _ in dots],
        [y for _, y in dots],
        s=11,
        color=colour,
        alpha=0.5,
        linewidths=0,
        zorder=5,
    )


def _draw_means(axes: Axes, points: Sequence[Point], colour: str, marker: str) -> None:
    """A mark for each mean: hollow where runs are missing; a cross where there is none."""
    for x, row in points:
        if row.mean is None:
            _mark_missing(axes, x, colour)
            continue
        axes.plot(
            [x],
            [row.mean],
            marker=marker,
            markersize=6.5,
            color=colour,
            markerfacecolor=colour if row.n == row.expected else "white",
            markeredgewidth=1.4,
            linestyle="none",
            zorder=6,
        )


def _write_counts(axes: Axes, points: Sequence[Point]) -> None:
    """Above the x axis, how many runs an incomplete mean has."""
    for x, row in points:
        if 0 < row.n < row.expected:
            axes.text(
                x,
                0.02,
                count_text(row),
                transform=axes.get_xaxis_transform(),
                ha="center",
                fontsize=7.5,
                color=QUIET,
                zorder=7,
            )


def _handle(**style: Any) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def _mark_missing(axes: Axes, x: float, colour: str) -> None:
    axes.plot(
        [x],
        [0.03],
        marker="x",
        markersize=7,
        markeredgewidth=1.8,
        color=colour,
        linestyle="none",
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        zorder=7,
    )


def _add_mark_legend(axes: Axes, data: PlotData, handles: list[Artist], names: list[str]) -> None:
    """Adds what the hollow and the crossed marks mean, when there are any."""
    rows = [row for series in data.series for row in series.rows]
    if any(0 < row.n < row.expected for row in rows):
        handles.append(
            _handle(
                color=QUIET,
                marker="o",
                markerfacecolor="white",
                markeredgewidth=1.4,
                linestyle="none",
                markersize=6.5,
            )
        )
        names.append("hollow: some runs missing")
    if any(row.n == 0 for row in rows):
        handles.append(
            _handle(color=QUIET, marker="x", markeredgewidth=1.8, linestyle="none", markersize=6.5)
        )
        names.append("no value")


def _draw_references(
    sheet: Sheet, data: PlotData, style: NumberStyle, low: float, high: float
) -> None:
    axes = sheet.axes
    labels: list[tuple[float, str]] = []
    for number, row in enumerate(data.references):
        if row.mean is None:
            labels.append((low, f"{reference_label(row, style).splitlines()[0]}\nno value"))
            continue
        if row.std is not None:
            axes.axhspan(
                row.mean - row.std,
                row.mean + row.std,
                color=REFERENCE_COLOUR,
                alpha=0.08,
                linewidth=0,
                zorder=0,
            )
        axes.axhline(
            row.mean,
            color=REFERENCE_COLOUR,
            linestyle=REFERENCE_STYLES[number % len(REFERENCE_STYLES)],
            linewidth=1.3,
            zorder=1,
        )
        labels.append((row.mean, reference_label(row, style)))
    if not labels:
        return
    share = 0.3 / sheet.panel_in[1]
    wanted = [(mean - low) / (high - low) for mean, _ in labels]
    placed = spread_apart(wanted, share, 0.03, 0.97)
    rows = zip(data.references, wanted, placed, labels, strict=True)
    for row, at, label_at, (_, label) in rows:
        sheet.label_right(at, label_at, label, leader=row.mean is not None)


def _means(data: PlotData) -> list[float]:
    rows = [*(row for series in data.series for row in series.rows), *data.references]
    return [row.mean for row in rows if row.mean is not None]


def _x_range(data: PlotData) -> tuple[float, float]:
    first, last = min(data.x_places), max(data.x_places)
    if data.shape is Shape.POINTS:
        return first - 0.6, last + 0.6
    if data.log_x:
        margin = (last / first) ** 0.06
        return first / margin, last * margin
    margin = (last - first) * 0.06
    return first - margin, last + margin


def _least_gap_in(data: PlotData) -> float:
    """The least distance of two neighbours on the x axis, in inches."""
    low, high = _x_range(data)
    places = sorted(data.x_places)
    if data.log_x:
        low, high, places = math.log(low), math.log(high), [math.log(p) for p in places]
    gaps = [b - a for a, b in itertools.pairwise(places)]
    return min(gaps, default=high - low) / (high - low) * _panel_size(data)[0]


def _dodged(data: PlotData, places: Sequence[float], number: int) -> list[float]:
    """The places of a series, moved aside a little so that error bars don't hide each other."""
    count = len(data.series)
    spread = any(row.std is not None for series in data.series for row in series.rows)
    if count == 1 or (data.shape is Shape.LINES and not spread):
        return list(places)
    side = (number - (count - 1) / 2) / count
    if data.shape is Shape.POINTS:
        return [place + side * 0.7 for place in places]
    low, high = _x_range(data)
    if data.log_x:
        return [place * (high / low) ** (side * 0.03) for place in places]
    return [place + (high - low) * side * 0.03 for place in places]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the plot of a results folder, and writes its report; 0 done, 1 failed, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="python -m meshtrain.results.plots",
        description="Draw plot.png and write report.html from a sweep's results folder.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, help="draw to this file alone, without a report")
    options = parser.parse_args(arguments)
    try:
        document = read_results(options.folder)
        if options.output is None and (options.folder / EXPERIMENTS_FILE).exists():
            # First: who waits for the plot then has both.
            print(write_report(options.folder, Made(wall_now_s(), version("meshtrain"))))
        path = options.output or options.folder / PLOT_FILE
        plot(document.table, path, title=document.title, y_label=document.header)
    except MeshtrainError as error:
        print(error, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
