"""What a plot of a merged table shows, decided before anything is drawn."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from meshtrain.results.axes import AxisKey, axis_key
from meshtrain.results.formats import (
    NumberStyle,
    axis_texts,
    clip_middle,
    decimals_for,
    is_number,
    plain_text,
)
from meshtrain.results.merge import MergedRow, MergedTable

SERIES_MAX = 7
"""More lines than this can't be told apart: they become a heat map."""
HEAT_CELLS_MIN = 12
LOG_SPAN_MIN = 30.0
"""An axis that spans at least this factor, about evenly, is drawn logarithmic."""
NAME_LEN_MAX = 36


class Shape(StrEnum):
    """The kind of picture."""

    LINES = "lines"
    POINTS = "points"
    HEAT = "heat"


class Series(msgspec.Struct, frozen=True):
    """The rows that share a line: `places[i]` is where `rows[i]` stands on the x axis."""

    label: str
    places: tuple[float, ...]
    rows: tuple[MergedRow, ...]


class PlotData(msgspec.Struct, frozen=True):
    """All that is drawn, without a word on how."""

    shape: Shape
    x_name: str
    x_places: tuple[float, ...]
    x_texts: tuple[str, ...]
    log_x: bool
    series_name: str
    """The axes that tell the series apart: `backbone, shots`."""
    series: tuple[Series, ...]
    references: tuple[MergedRow, ...]
    fixed: tuple[str, ...]
    """Axes with one value, as `axis value`."""
    decimals: int
    caption: tuple[str, ...]


def plot_data(table: MergedTable) -> PlotData:
    """Chooses the shape of the plot and sorts the rows into it."""
    varying = [axis for axis in table.axes if len(_values(table.rows, axis)) > 1]
    fixed = tuple(
        f"{plain_text(axis)} {axis_texts(values)[0]}"
        for axis in table.axes
        if axis not in varying and (values := list(_values(table.rows, axis).values()))
    )
    x_axis = varying[0] if varying else ""
    x_values = _values(table.rows, x_axis)
    numeric = bool(x_axis) and all(is_number(row.axes.get(x_axis)) for row in table.rows)
    series_axes = varying[1:]
    grouped = _grouped(table.rows, series_axes)
    labels = _series_labels(table.rows, series_axes, grouped)
    shape = _shape(table, varying, numeric, len(x_values), len(grouped))
    ordered = sorted(x_values.values(), key=float) if numeric else list(x_values.values())
    log_x = shape is Shape.LINES and _is_logarithmic(ordered)
    places: dict[AxisKey, float] = {
        axis_key({"x": value}, "x"): float(value) if shape is Shape.LINES else float(place)
        for place, value in enumerate(ordered)
    }
    return PlotData(
        shape=shape,
        x_name=plain_text(x_axis),
        x_places=tuple(places.values()) or (0.0,),
        x_texts=tuple(axis_texts(ordered)) or (", ".join(fixed),),
        log_x=log_x,
        series_name=", ".join(map(plain_text, series_axes)),
        series=tuple(
            Series(
                label,
                tuple(_place(row, x_axis, places) for row in rows),
                tuple(rows),
            )
            for label, rows in zip(labels, grouped.values(), strict=True)
        ),
        references=table.references,
        fixed=fixed if varying else (),
        decimals=decimals_for(
            [row.mean for row in (*table.rows, *table.references) if row.mean is not None]
        ),
        caption=_caption(table, heat=shape is Shape.HEAT),
    )


def reference_label(row: MergedRow, style: NumberStyle) -> str:
    """A reference as its line is labelled: `base alone 0.808 ± 0.085 (n 3)`."""
    name = clip_middle(plain_text(row.group), NAME_LEN_MAX)
    if row.axes:
        name += " " + " ".join(axis_texts([value])[0] for value in row.axes.values())
    spread = "" if row.std is None else f" ± {style(row.std)}"
    return f"{name}\n{style(row.mean)}{spread} ({count_text(row)})"


def count_text(row: MergedRow) -> str:
    """How many values a row has: `n 3`, or `n 2 of 3`."""
    return f"n {row.n}" if row.n == row.expected else f"n {row.n} of {row.expected}"


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, as near to the `wanted` ones as that allows.

    They stay between `low` and `high` unless there are too many to fit, when
    they are spread evenly over that range.
    """
    count = len(wanted)
    if count < 2:
        return [min(max(place, low), high) for place in wanted]
    gap = min(gap, (high - low) / (count - 1))
    order = sorted(range(count), key=lambda i: wanted[i])
    # Least squares under order: subtract the gaps, average runs that go down, clamp.
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        blocks.append((wanted[i] - rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, one_n), (other, other_n) = blocks[-2:]
            blocks[-2:] = [((one * one_n + other * other_n) / (one_n + other_n), one_n + other_n)]
    top = high - (count - 1) * gap
    placed = [min(max(mean, low), top) for mean, size in blocks for _ in range(size)]
    result = [0.0] * count
    for rank, i in enumerate(order):
        result[i] = placed[rank] + rank * gap
    return result


def _values(rows: Sequence[MergedRow], axis: str) -> dict[AxisKey, Any]:
    values: dict[AxisKey, Any] = {}
    for row in rows:
        if axis:
            values.setdefault(axis_key(row.axes, axis), row.axes.get(axis, "–"))
    return values


def _grouped(
    rows: Sequence[MergedRow], axes: Sequence[str]
) -> dict[tuple[AxisKey, ...], list[MergedRow]]:
    grouped: dict[tuple[AxisKey, ...], list[MergedRow]] = {}
    for row in rows:
        grouped.setdefault(tuple(axis_key(row.axes, axis) for axis in axes), []).append(row)
    ranks = [{key: rank for rank, key in enumerate(_values(rows, axis))} for axis in axes]
    ordered = sorted(grouped, key=lambda keys: [r[k] for r, k in zip(ranks, keys, strict=True)])
    return {keys: grouped[keys] for keys in ordered}


def _series_labels(
    rows: Sequence[MergedRow],
    axes: Sequence[str],
    grouped: dict[tuple[AxisKey, ...], list[MergedRow]],
) -> list[str]:
    texts: list[dict[AxisKey, str]] = []
    for axis in axes:
        values = _values(rows, axis)
        words = axis_texts(list(values.values()))
        # "5" says nothing; "resnet50" speaks for itself.
        bare = [
            w if not is_number(v) else f"{plain_text(axis)} {w}"
            for w, v in zip(words, values.values(), strict=True)
        ]
        texts.append(dict(zip(values, bare, strict=True)))
    return [
        clip_middle(", ".join(t[key] for t, key in zip(texts, keys, strict=True)), NAME_LEN_MAX)
        for keys in grouped
    ]


def _shape(
    table: MergedTable, varying: Sequence[str], numeric: bool, x_count: int, series_count: int
) -> Shape:
    if series_count > SERIES_MAX:
        return Shape.HEAT
    if numeric:
        return Shape.LINES
    other_numeric = len(varying) == 2 and all(
        is_number(row.axes.get(varying[1])) for row in table.rows
    )
    if len(varying) == 2 and not other_numeric and x_count * series_count >= HEAT_CELLS_MIN:
        return Shape.HEAT
    return Shape.POINTS


def _is_logarithmic(values: Sequence[Any]) -> bool:
    if len(values) < 3 or min(values) <= 0 or max(values) / min(values) < LOG_SPAN_MIN:
        return False
    steps = [math.log(b / a) for a, b in itertools.pairwise(values)]
    return max(steps) < 4 * min(steps)


def value_range(rows: Sequence[MergedRow]) -> tuple[float, float]:
    """The lowest and the highest value that a chart of these rows shows, with some room around."""
    ends: list[float] = []
    for row in rows:
        if row.mean is not None:
            std = row.std or 0.0
            ends += [row.mean - std, row.mean + std, *(cell.value for cell in row.measured)]
    ends = [end for end in ends if math.isfinite(end)]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.07 or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def _place(row: MergedRow, x_axis: str, places: dict[AxisKey, float]) -> float:
    if not x_axis:
        return 0.0
    return places[axis_key({"x": row.axes.get(x_axis, "–")}, "x")]


def _caption(table: MergedTable, *, heat: bool) -> tuple[str, ...]:
    rows = (*table.rows, *table.references)
    counts = sorted({row.n for row in rows if row.n})
    n_text = (
        f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else ""
    )
    lines = []
    if counts and counts[-1] > 1:
        over = f" over {', '.join(map(plain_text, table.over))}" if table.over else ""
        dots = "" if heat else "; small dots are single runs"
        lines.append(f"mean ± sample std{over}, n = {n_text}{dots}")
    elif counts:
        lines.append("single runs (n = 1)" if len(rows) > 1 else "a single run (n = 1)")
    missing = Counter(cell.state for row in rows for cell in row.missing)
    if missing:
        expected = sum(row.expected for row in rows)
        states = ", ".join(f"{count} {state}" for state, count in missing.items())
        lines.append(f"{sum(missing.values())} of {expected} runs missing: {states}")
    lines += [plain_text(note) for note in table.notes]
    return tuple(lines)
