"""Renders a merged table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.cells import cell_len

from meshtrain.results.formats import (
    NOTHING,
    NumberStyle,
    axis_texts,
    cell_text,
    clip,
    clip_middle,
    pad,
    plain_text,
)
from meshtrain.results.merge import (
    MergedRow,
    MergedTable,
    MissingCell,
    rows_within_spread_of_best,
)

WIDTH_MAX = 80
GAP = 3
AXIS_WIDTH_MIN = 4
MISSING_WIDTH_MIN = 9
MISSING_WIDTH_USEFUL = 21
MISSING_WIDTH_BESIDE = 14
"""What missing names keep beside a column of intervals."""
REASONS_SHOWN_MAX = 8
NAMES_SHOWN_MAX = 12
NAME_LINES_MAX = 4


def render_text(
    table: MergedTable, *, header: str = "", width: int = WIDTH_MAX, details: bool = True
) -> str:
    """The table as lines of at most `width` columns, without a final newline.

    `header` says what the values are (`accuracy on writer w07`), the metric's
    name by default. Intervals have a column where there is room for it.
    `details` adds the best row and cell and the reasons of what is missing.
    """
    lines = _table_lines(table, plain_text(header) or table.metric or "value", width)
    if details:
        lines += _detail_lines(table, width)
    return "\n".join(clip(line, width).rstrip() for line in lines)


class _Widths(msgspec.Struct, frozen=True):
    axes: list[int]
    value: int
    counts: int
    missing: int

    @property
    def label(self) -> int:
        return sum(self.axes) + GAP * max(len(self.axes) - 1, 0)


def _table_lines(table: MergedTable, header: str, width: int) -> list[str]:
    rows = (*table.rows, *table.references)
    if not rows:
        return ["No jobs in this sweep."]
    columns = _axis_columns(table, rows)
    labels = [plain_text(row.group) if not row.axes else "" for row in rows]
    values = _value_texts(rows)
    counts = [_count_text(row) for row in rows]
    missing = [_missing_texts(row, table.axes) for row in rows]
    lines = []
    room = width - _width_beside_values(columns, labels, counts, missing)
    with_intervals = _with_intervals(table, rows, header, values, room)
    if with_intervals is not None:
        if cell_len(header) > cell_len(with_intervals[0]):
            lines = [header, ""]
        header, *values = with_intervals
    widths = _widths(columns, labels, [header, *values], ["n", *counts], missing, width)
    if cell_len(header) > widths.value:
        lines = [header, ""]
        header = "mean ± std" if any(row.std is not None for row in rows) else "value"
    lines.append(_line([column[0] for column in columns], "", header, "n", "missing", widths))
    for place in range(len(rows)):
        axes = [column[place + 1] for column in columns]
        names = _fit_names(missing[place], widths.missing)
        lines.append(_line(axes, labels[place], values[place], counts[place], names, widths))
    return lines


def _width_beside_values(
    columns: Sequence[Sequence[str]],
    labels: Sequence[str],
    counts: Sequence[str],
    missing: Sequence[Sequence[str]],
) -> int:
    """What axes and counts take in full, and the missing names in short."""
    axes = sum(max(map(cell_len, column)) + GAP for column in columns)
    label = max(map(cell_len, labels)) + GAP
    names = max(cell_len(", ".join(texts)) for texts in missing)
    names = min(max(names, MISSING_WIDTH_MIN), MISSING_WIDTH_BESIDE)
    return max(axes, label) + GAP + max(map(cell_len, counts)) + GAP + names


def _with_intervals(
    table: MergedTable, rows: Sequence[MergedRow], header: str, values: Sequence[str], room: int
) -> list[str] | None:
    """The column of values, header first, with that of intervals beside it, where both fit."""
    intervals = interval_texts(rows)
    if not any(intervals):
        return None
    title = interval_title(table)
    right = max(cell_len(title), *map(cell_len, intervals))
    least = max(map(cell_len, values))
    left = max(least, cell_len(header))
    if left + GAP + right > room:
        header, left = "mean ± std", max(least, cell_len("mean ± std"))
    if left + GAP + right > room:
        return None
    texts = zip([header, *values], [title, *intervals], strict=True)
    return [f"{pad(value, left)}{' ' * GAP}{pad(interval, right)}" for value, interval in texts]


def interval_title(table: MergedTable) -> str:
    """The head of the column of intervals: `95 % interval`."""
    return f"{table.confidence * 100:g} % interval"


def interval_texts(rows: Sequence[MergedRow]) -> list[str]:
    """Each row's interval, `0.757 to 0.945`; empty for a row without."""
    style = NumberStyle([row.mean for row in rows if row.mean is not None])
    ends = [
        ("", "")
        if row.mean is None or row.half_width is None
        else (style(row.mean - row.half_width), style(row.mean + row.half_width))
        for row in rows
    ]
    low_width = max((len(low) for low, _ in ends), default=0)
    high_width = max((len(high) for _, high in ends), default=0)
    return [f"{low:>{low_width}} to {high:>{high_width}}" if low else "" for low, high in ends]


def _line(
    axes: Sequence[str], label: str, value: str, count: str, missing: str, widths: _Widths
) -> str:
    """One line; a `label` stands across all axes."""
    gap = " " * GAP
    cells = zip(axes, widths.axes, strict=True)
    head = gap.join(pad(clip_middle(text, size), size) for text, size in cells)
    if label:
        head = pad(clip_middle(label, widths.label), widths.label)
    parts = [head, pad(clip(value, widths.value), widths.value), pad(count, widths.counts), missing]
    return gap.join(parts)


def _widths(
    columns: Sequence[Sequence[str]],
    labels: Sequence[str],
    values: Sequence[str],
    counts: Sequence[str],
    missing: Sequence[Sequence[str]],
    width: int,
) -> _Widths:
    """Shares the line: numbers in full, then axes, then the header and the missing names."""
    header, *numbers = map(cell_len, values)
    value = max(numbers)
    count = max(map(cell_len, counts))
    names = max(MISSING_WIDTH_MIN, *(cell_len(", ".join(texts)) for texts in missing))
    room = width - value - count - MISSING_WIDTH_MIN - GAP * (len(columns) + 2)
    axes = _fit([max(map(cell_len, column)) for column in columns], room)
    label = sum(axes) + GAP * (len(axes) - 1)
    wider = min(max(map(cell_len, labels)) - label, room - sum(axes))
    axes[-1] += max(wider, 0)
    rest = width - sum(axes) - GAP * (len(axes) + 2) - count
    short_names = min(names, MISSING_WIDTH_USEFUL)
    names = max(min(names, rest - max(value, header)), min(short_names, rest - value))
    names = max(names, MISSING_WIDTH_MIN)
    return _Widths(axes, max(value, min(header, rest - names)), count, names)


def _axis_columns(table: MergedTable, rows: Sequence[MergedRow]) -> list[list[str]]:
    """The texts of each axis, header first; a reference's own axes stand in theirs."""
    columns = []
    axes = table.axes or ("",)
    extra = [axis for row in rows for axis in row.axes if axis not in axes]
    for place, axis in enumerate([*axes, *dict.fromkeys(extra)]):
        present = [row.axes[axis] for row in rows if axis in row.axes]
        texts = iter(axis_texts(present))
        column = [plain_text(axis)]
        for row in rows:
            text = next(texts) if axis in row.axes else ""
            if row.group and row.axes and place == 0:
                text = f"{plain_text(row.group)} {text}".strip()
            elif not text and not row.group:
                text = "all" if not table.axes else NOTHING
            column.append(text)
        columns.append(column)
    return columns


def _fit(widths: list[int], room: int) -> list[int]:
    """Takes columns from the widest first until they fit, none below its least width."""
    fitted = list(widths)
    while fitted and sum(fitted) > room and max(fitted) > AXIS_WIDTH_MIN:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _value_texts(rows: Sequence[MergedRow]) -> list[str]:
    numbers = [row.mean for row in rows if row.mean is not None]
    style = NumberStyle(numbers)
    if all(row.std is None for row in rows):
        return [style(row.mean) for row in rows]
    means = [style(row.mean) for row in rows]
    stds = [style(row.std) for row in rows]
    mean_width = max(map(len, means))
    std_width = max(map(len, stds))
    return [
        f"{mean:>{mean_width}} ± {std:>{std_width}}" if row.n else f"{NOTHING:>{mean_width}}"
        for row, mean, std in zip(rows, means, stds, strict=True)
    ]


def _count_text(row: MergedRow) -> str:
    return str(row.n) if row.n == row.expected else f"{row.n} of {row.expected}"


def _missing_texts(row: MergedRow, axes: Sequence[str]) -> list[str]:
    if not row.missing:
        return [NOTHING]
    states = {cell.state for cell in row.missing}
    if row.n == 0 and len(states) == 1:
        return [f"all {states.pop()}" if row.expected > 1 else states.pop()]
    return [f"{_short_name(cell, axes)} {cell.state}".strip() for cell in row.missing]


def _short_name(cell: MissingCell, axes: Sequence[str]) -> str:
    """What tells the cell from the others of its row: the axes that are averaged over."""
    return cell_text({axis: value for axis, value in cell.cell.items() if axis not in axes})


def _fit_names(texts: Sequence[str], width: int) -> str:
    whole = ", ".join(texts)
    if cell_len(whole) <= width:
        return whole
    for shown in range(len(texts) - 1, 0, -1):
        line = f"{', '.join(texts[:shown])} +{len(texts) - shown}"
        if cell_len(line) <= width:
            return line
    return clip(texts[0] if len(texts) == 1 else f"{len(texts)}: {texts[0]}", width)


def _detail_lines(table: MergedTable, width: int) -> list[str]:
    lines: list[str] = []
    best = _best_lines(table, width)
    if best:
        lines += ["", *best]
    for note in table.notes:
        lines += ["", *wrapped("note   ", plain_text(note), width)]
    reasons = _by_reason(table)
    if reasons:
        lines.append("")
    for (state, reason), cells in reasons[:REASONS_SHOWN_MAX]:
        lines += _reason_lines(state, reason, cells, width)
    if len(reasons) > REASONS_SHOWN_MAX:
        lines.append(f"and {len(reasons) - REASONS_SHOWN_MAX} more reasons: see cells.csv")
    return lines


def _best_lines(table: MergedTable, width: int) -> list[str]:
    """The best row, the best single run, and which way better is."""
    if table.best is None:
        return []
    row = table.rows[table.best]
    style = NumberStyle([other.mean for other in table.rows if other.mean is not None])
    lines = []
    if len(table.rows) > 1:
        text = f"{cell_text(row.axes)}: {style(row.mean)}"
        within = rows_within_spread_of_best(table)
        if within:
            word = "row lies" if within == 1 else "rows lie"
            text += f"; {within} other {word} within one std of it"
        lines += wrapped("best   ", text, width)
    best = table.best_cell
    runs = sum(other.n for other in table.rows)
    if best is not None and runs > sum(other.n > 0 for other in table.rows):
        name = cell_text(best.cell) or best.name.rpartition("/")[2]
        lines += wrapped("cell   ", f"{name}: {style(best.value)}, the best single one", width)
    if runs > 1 and table.direction:
        lines += wrapped("       ", table.direction, width)
    return lines


def _by_reason(table: MergedTable) -> list[tuple[tuple[str, str], list[MissingCell]]]:
    grouped: dict[tuple[str, str], list[MissingCell]] = {}
    for row in (*table.rows, *table.references):
        for cell in row.missing:
            grouped.setdefault((cell.state, plain_text(cell.reason)), []).append(cell)
    return list(grouped.items())


def _reason_lines(state: str, reason: str, cells: list[MissingCell], width: int) -> list[str]:
    named = [_cell_name(cell) for cell in cells[:NAMES_SHOWN_MAX]]
    while True:
        more = len(cells) - len(named)
        names = ", ".join(named) + (f" and {more:,} more" if more else "")
        lines = wrapped("  ", names, width, lines_max=len(cells) + 2)
        if len(lines) <= NAME_LINES_MAX or len(named) == 1:
            break
        named.pop()
    said = state if not reason or reason == state else f"{state}: {reason}"
    return [*wrapped("", f"{len(cells)} {said}", width), *lines[:NAME_LINES_MAX]]


def _cell_name(cell: MissingCell) -> str:
    """The cell's name without its sweep's, which all of them share."""
    return plain_text(cell.name.split("/", 1)[-1])


def wrapped(prefix: str, text: str, width: int, lines_max: int = 3) -> list[str]:
    """`text` broken at spaces, the first line after `prefix`, the others indented as deep."""
    room = max(width - len(prefix), 8)
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) > room and line:
            lines.append(line)
            line = word
        else:
            line = joined
    lines.append(line)
    if len(lines) > lines_max:
        lines = [*lines[: lines_max - 1], clip(lines[lines_max - 1] + " …", room)]
    indent = " " * len(prefix)
    return [f"{indent if place else prefix}{clip(line, room)}" for place, line in enumerate(lines)]
