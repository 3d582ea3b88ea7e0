"""A comparison of two sweeps for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.cells import cell_len

from meshtrain.results.axes import plain_value
from meshtrain.results.compare import ComparedRow, Comparison, Side, Verdict
from meshtrain.results.formats import (
    NOTHING,
    NumberStyle,
    axis_texts,
    clip,
    clip_middle,
    pad,
    plain_text,
)
from meshtrain.results.text import WIDTH_MAX, wrapped

GAP = 3
LABEL_WIDTH_MAX = 36
NAME_WIDTH_MIN = 8
NOTES_SHOWN_MAX = 20


def render_comparison(comparison: Comparison, *, header: str = "", width: int = WIDTH_MAX) -> str:
    """The comparison as lines of at most `width` columns, without a final newline.

    `header` says what the values are, the metric's name by default.
    """
    metric = plain_text(header) or comparison.metric or "value"
    one, other = plain_text(comparison.one), plain_text(comparison.other)
    lines = [*wrapped("", f"{metric}: {other} less {one}", width), ""]
    rows = list(comparison.rows)
    if comparison.overall is not None:
        rows.append(comparison.overall)
    if not rows:
        return "\n".join([*lines, "No jobs in these sweeps."])
    columns = _columns(comparison, rows, one, other, width)
    widths = [max(map(cell_len, column)) for column in columns]
    for place in range(len(rows) + 1):
        texts = [pad(column[place], size) for column, size in zip(columns, widths, strict=True)]
        lines.append((" " * GAP).join(texts))
    lines.append("")
    lines += wrapped("", _legend(comparison), width)
    for note in comparison.notes[:NOTES_SHOWN_MAX]:
        lines += wrapped("note   ", plain_text(note), width)
    return "\n".join(clip(line, width).rstrip() for line in lines)


def _columns(
    comparison: Comparison, rows: Sequence[ComparedRow], one: str, other: str, width: int
) -> list[list[str]]:
    labels = [", ".join(map(plain_text, comparison.axes)), *row_labels(comparison, rows)]
    numbers = [v for row in rows for v in (row.one.mean, row.other.mean) if v is not None]
    style = NumberStyle(numbers)
    sides = [
        [name, *(_side_text(side, style) for side in found)]
        for name, found in (
            (one, [row.one for row in rows]),
            (other, [row.other for row in rows]),
        )
    ]
    differences = ["difference", *difference_texts(rows)]
    counts = ["n", *(count_text(row) for row in rows)]
    verdicts = ["", *(verdict_text(row) for row in rows)]
    fixed = [differences, counts, verdicts]
    taken = sum(max(map(cell_len, column)) + GAP for column in fixed)
    values = [max(map(cell_len, column[1:])) for column in sides]
    label = min(max(map(cell_len, labels)), LABEL_WIDTH_MAX)
    # Names of sweeps may be cut; numbers aren't.
    room = width - taken - sum(values) - 2 * GAP
    label = max(min(label, room), NAME_WIDTH_MIN)
    for column, least in zip(sides, values, strict=True):
        column[0] = clip_middle(column[0], max(least, NAME_WIDTH_MIN))
    return [[clip_middle(text, label) for text in labels], *sides, *fixed]


def row_labels(comparison: Comparison, rows: Sequence[ComparedRow]) -> list[str]:
    """What tells each row from the others: `0.10, resnet50`, `base alone`, `all pairs`."""
    by_axis: dict[str, list[str]] = {}
    for axis in comparison.axes:
        texts = iter(axis_texts([row.axes[axis] for row in rows if axis in row.axes]))
        by_axis[axis] = [next(texts) if axis in row.axes else "" for row in rows]
    labels = []
    for place, row in enumerate(rows):
        point = ", ".join(t for axis in comparison.axes if (t := by_axis[axis][place]))
        label = " ".join(filter(None, [plain_text(row.group), point]))
        labels.append(label or ("all pairs" if row is comparison.overall else "all"))
    return labels


def difference_texts(rows: Sequence[ComparedRow]) -> list[str]:
    """Each row's difference with its sign and half its interval."""
    found = [row.difference for row in rows if row.difference is not None]
    halves = [row.half_width for row in rows if row.half_width is not None]
    style = NumberStyle(found)
    texts = [NOTHING if d is None else f"{'+' if d >= 0 else '−'}{style(abs(d))}" for d in
             (row.difference for row in rows)]  # fmt: skip
    size = max(map(len, texts), default=0)
    if not halves:
        return [f"{text:>{size}}" for text in texts]
    tails = [NOTHING if row.half_width is None else style(row.half_width) for row in rows]
    tail_size = max(map(len, tails))
    return [
        f"{text:>{size}} ± {tail:>{tail_size}}" if row.difference is not None else f"{text:>{size}}"
        for row, text, tail in zip(rows, texts, tails, strict=True)
    ]


def count_text(row: ComparedRow) -> str:
    """`3 pairs`, or `3 and 2` values that don't pair."""
    if row.pairs:
        return f"{row.pairs} {'pair' if row.pairs == 1 else 'pairs'}"
    return f"{row.one.n} and {row.other.n}"


def verdict_text(row: ComparedRow) -> str:
    """`better`, `worse`, or `–` where the interval bears neither."""
    return NOTHING if row.verdict is Verdict.UNCLEAR else str(row.verdict)


def _side_text(side: Side, style: NumberStyle) -> str:
    if side.mean is None:
        return "" if side.n else NOTHING
    return style(side.mean) if side.std is None else f"{style(side.mean)} ± {style(side.std)}"


def _legend(comparison: Comparison) -> str:
    text = (
        f"difference ± half its {comparison.confidence * 100:g} % interval; better and worse "
        "where that leaves out 0"
    )
    return f"{text}; {comparison.direction}" if comparison.direction else text


def comparisons_csv(comparisons: Sequence[Comparison]) -> str:
    """A row of CSV for each row of each comparison, numbers in full."""
    axes = list(dict.fromkeys(axis for found in comparisons for axis in found.axes))
    of_sides = [f"{side}_{what}" for side in ("one", "other") for what in ("mean", "std", "n")]
    of_pairs = ["difference", "ci_low", "ci_high", "pairs", "verdict"]
    lines: list[list[object]] = [
        ["one", "other", *axes, "reference", "metric", *of_sides, *of_pairs]
    ]
    lines += [
        [
            found.one,
            found.other,
            *(plain_value(row.axes[axis]) if axis in row.axes else "" for axis in axes),
            row.group,
            found.metric,
            *_side_fields(row.one),
            *_side_fields(row.other),
            _number(row.difference),
            *_ends(row),
            row.pairs,
            str(row.verdict),
        ]
        for found in comparisons
        for row in found.rows
    ]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _side_fields(side: Side) -> list[object]:
    return [_number(side.mean), _number(side.std), side.n]


def _ends(row: ComparedRow) -> list[str]:
    if row.difference is None or row.half_width is None:
        return ["", ""]
    return [_number(row.difference - row.half_width), _number(row.difference + row.half_width)]


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
