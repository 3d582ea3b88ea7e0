"""A sweep's merged results as a grid over two axes, or over one against all others together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from meshtrain.results.axes import AxisKey, axis_key, axis_names, ordered_keys
from meshtrain.results.formats import NumberStyle, axis_texts, decimals_for, is_number
from meshtrain.results.merge import CellResult, CellState, MergedRow, MergedTable, merge
from meshtrain.spec.jobs import ResultsSpec

AGAIN = (CellState.FAILED, CellState.CANCELLED)
"""States of jobs that `retry` runs again."""


class ToldResults(msgspec.Struct, frozen=True):
    """What the master's query `results` tells of a sweep."""

    sweep_id: str
    name: str
    results: ResultsSpec
    cells: tuple[CellResult, ...]
    folder: str = ""
    target: str | None = None


class Shape(msgspec.Struct, frozen=True):
    """Which axes lie where; all others are averaged over."""

    y: str = ""
    """Empty: one row."""
    x: tuple[str, ...] = ()
    """Several are taken together; empty: one column."""

    @property
    def by(self) -> tuple[str, ...]:
        """The axes that are shown."""
        return (self.y, *self.x) if self.y else self.x


class Grid(msgspec.Struct, frozen=True):
    """Merged results by place: `cells[y][x]`, None where the sweep has no such cell."""

    table: MergedTable
    shape: Shape
    y_labels: tuple[str, ...]
    x_labels: tuple[str, ...]
    cells: tuple[tuple[MergedRow | None, ...], ...]
    expected: int
    """Jobs in the fullest cell: the n that each could come to."""
    low: float | None
    high: float | None
    best: tuple[int, int] | None
    """The place of the best mean."""

    def share(self, mean: float) -> float:
        """Where a mean lies between the worst, 0, and the best, 1."""
        if self.low is None or self.high is None or self.high <= self.low:
            return 1.0
        part = (mean - self.low) / (self.high - self.low)
        return part if self.table.higher_is_better else 1.0 - part


def sweep_axes(cells: Sequence[CellResult]) -> list[str]:
    """The axes of a sweep, in its order; references don't count while there are others."""
    matrix = [cell.cell for cell in cells if not cell.group]
    return axis_names(matrix or [cell.cell for cell in cells])


def default_shape(cells: Sequence[CellResult], spec: ResultsSpec) -> Shape:
    """The longest axis downwards, all others but those averaged over across."""
    axes = sweep_axes(cells)
    shown = [axis for axis in axes if axis not in spec.over] or axes[:1]
    if not shown:
        return Shape()
    values = {axis: len({axis_key(cell.cell, axis) for cell in cells}) for axis in shown}
    # Of axes alike the last one: a sweep's first axes are what people put side by side.
    y = max(reversed(shown), key=lambda axis: values[axis])
    return Shape(y, tuple(axis for axis in shown if axis != y))


def x_choices(axes: Sequence[str], y: str, over: Sequence[str]) -> list[tuple[str, ...]]:
    """What may lie across when `y` lies downwards: all that is shown together, then each alone."""
    others = [axis for axis in axes if axis != y]
    shown = tuple(axis for axis in others if axis not in over)
    choices = [shown, *((axis,) for axis in others), ()]
    return list(dict.fromkeys(choices))


def grid_of(results: ToldResults, shape: Shape, metric: str | None = None) -> Grid:
    """The grid of a sweep's cells.

    Raises NotFoundError when the shape names an axis that the sweep doesn't have.
    """
    cells = results.cells
    table = merge(cells, results.results, by=shape.by, metric=metric)
    values = [cell.cell for cell in cells if not cell.group]
    indexed = all(cell.index is not None for cell in cells)
    ranks: dict[str, dict[AxisKey, int]] = {}
    for axis in shape.by:
        keys = ordered_keys(values, axis, in_sweep_order=indexed)
        ranks[axis] = {key: rank for rank, key in enumerate(keys)}
    rows = [row for row in table.rows if not row.group]
    y_axes = (shape.y,) if shape.y else ()
    ys, y_values = _places(rows, y_axes, ranks)
    xs, x_values = _places(rows, shape.x, ranks)
    by_place = {(_key(row, y_axes), _key(row, shape.x)): row for row in rows}
    grid = tuple(tuple(by_place.get((y, x)) for x in xs) for y in ys)
    means = [row.mean for row in rows if row.mean is not None]
    best = None
    if table.best is not None:
        row = table.rows[table.best]
        best = (ys.index(_key(row, y_axes)), xs.index(_key(row, shape.x)))
    return Grid(
        table=table,
        shape=shape,
        y_labels=_labels(y_values, y_axes),
        x_labels=_labels(x_values, shape.x),
        cells=grid,
        expected=max((row.expected for row in rows), default=0),
        low=min(means, default=None),
        high=max(means, default=None),
        best=best,
    )


_PlaceKey = tuple[AxisKey, ...]


def _key(row: MergedRow, axes: Sequence[str]) -> _PlaceKey:
    return tuple(axis_key(row.axes, axis) for axis in axes)


def _places(
    rows: Sequence[MergedRow], axes: Sequence[str], ranks: dict[str, dict[AxisKey, int]]
) -> tuple[list[_PlaceKey], list[dict[str, Any]]]:
    """The points that occur on some axes, in the sweep's order, and their values."""
    found: dict[_PlaceKey, dict[str, Any]] = {}
    for row in rows:
        point = {axis: row.axes[axis] for axis in axes if axis in row.axes}
        found.setdefault(_key(row, axes), point)

    def rank(key: _PlaceKey) -> list[int]:
        return [ranks[axis][part] for axis, part in zip(axes, key, strict=True)]

    keys = sorted(found, key=rank)
    return keys, [found[key] for key in keys]


def _labels(points: Sequence[dict[str, Any]], axes: Sequence[str]) -> tuple[str, ...]:
    """Each point's values; numbers say their axis where several axes stand together."""
    parts: list[list[str]] = [[] for _ in points]
    for axis in axes:
        texts = iter(axis_texts([point[axis] for point in points if axis in point]))
        for place, point in enumerate(points):
            if axis not in point:
                continue
            text = next(texts)
            named = len(axes) > 1 and is_number(point[axis])
            parts[place].append(f"{axis} {text}" if named else text)
    return tuple(" ".join(part) if part else "all" for part in parts)


# --- the words of a cell ---------------------------------------------------------------


class CellWords:
    """How the cells of one grid read, all in one style."""

    def __init__(self, grid: Grid) -> None:
        rows = [row for line in grid.cells for row in line if row is not None]
        rows += grid.table.references
        means = [row.mean for row in rows if row.mean is not None]
        self._number = NumberStyle(means, decimals=decimals_for(means) if means else 3)
        self._expected = grid.expected

    def number(self, value: float | None) -> str:
        """A value of the metric."""
        return self._number(value)

    def of(self, row: MergedRow | None) -> str:
        """`61.2 ± 0.8 (4)`, `62.9 ± 0.7 (3) ✗`, `·· running 2`, `– waiting`."""
        if row is None:
            return ""
        states = Counter(cell.state for cell in row.missing)
        if row.mean is None:
            return _absent(states)
        spread = f" ± {self._number(row.std)}" if row.std is not None else ""
        count = f"{row.n}" if row.expected == self._expected else f"{row.n}/{row.expected}"
        return " ".join([f"{self._number(row.mean)}{spread} ({count})", *_signs(states)])


_SIGNS = {
    CellState.FAILED: "✗",
    CellState.CANCELLED: "⊘",
    CellState.RUNNING: "··",
    CellState.WAITING: "–",
}
NO_VALUE_SIGN = "?"


def legend(grid: Grid) -> str:
    """What the signs mean that the grid has."""
    rows = [row for line in grid.cells for row in line if row is not None]
    states = Counter(cell.state for row in (*rows, *grid.table.references) for cell in row.missing)
    told = ["★ best"] if grid.best is not None else []
    told += [f"{sign} {state}" for state, sign in _SIGNS.items() if states[state]]
    if states.total() > sum(states[state] for state in _SIGNS):
        told.append(f"{NO_VALUE_SIGN} no value")
    return "  ".join(told)


def _signs(states: Counter[str]) -> list[str]:
    known = [sign for state, sign in _SIGNS.items() if states[state]]
    others = states.total() - sum(states[state] for state in _SIGNS)
    return [*known, NO_VALUE_SIGN] if others else known


def _absent(states: Counter[str]) -> str:
    """What to say of a cell without any value: what somebody must act on comes first."""
    running = states[CellState.RUNNING]
    if failed := states[CellState.FAILED]:
        return f"✗ failed {failed}" + (f" ·· {running}" if running else "")
    if running:
        return f"·· running {running}"
    if states[CellState.WAITING]:
        return "– waiting"
    if states[CellState.CANCELLED]:
        return "⊘ cancelled"
    return f"{NO_VALUE_SIGN} no value"


def to_run_again(rows: Sequence[MergedRow | None]) -> list[str]:
    """The names of the jobs among these that failed or were cancelled."""
    return [cell.name for row in rows if row for cell in row.missing if cell.state in AGAIN]


# --- colours ---------------------------------------------------------------------------

_RAMP = ((68, 40, 110), (52, 94, 141), (32, 144, 140), (94, 201, 98), (253, 231, 37))
"""Dark to light, as matplotlib's viridis: the order shows without colours too."""


def heat_style(share: float) -> str:
    """The style of a cell whose mean lies at `share` between the worst, 0, and the best, 1."""
    at = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    place = min(int(at), len(_RAMP) - 2)
    part = at - place
    red, green, blue = (
        round(low + (high - low) * part)
        for low, high in zip(_RAMP[place], _RAMP[place + 1], strict=True)
    )
    # Luminance as ITU-R BT.601 weighs it.
    light = 0.299 * red + 0.587 * green + 0.114 * blue > 125
    ink = "#000000" if light else "#ffffff"
    return f"{ink} on #{red:02x}{green:02x}{blue:02x}"
