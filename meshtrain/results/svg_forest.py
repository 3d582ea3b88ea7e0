"""Draws the differences of two sweeps, each with its interval, beside the line of no difference."""

from __future__ import annotations

from meshtrain.results.compare import Comparison, Verdict
from meshtrain.results.compare_text import count_text, difference_texts, row_labels
from meshtrain.results.formats import clip, clip_middle
from meshtrain.results.svg import Scale, Svg, text_width, tick_texts, ticks

WIDTH = 860.0
ROW_HEIGHT = 26.0
TOP = 30.0
LABEL_LEN_MAX = 38
ROWS_MAX = 400
"""Rows drawn; all are in the table below."""
VERDICT_CLASSES = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.UNCLEAR: "quiet"}


def forest(comparison: Comparison) -> str:
    """The drawing as SVG; empty where no row has a difference."""
    rows = list(comparison.rows)[:ROWS_MAX]
    if comparison.overall is not None:
        rows.append(comparison.overall)
    ends = [
        row.difference + side * (row.half_width or 0.0)
        for row in rows
        if row.difference is not None
        for side in (-1, 1)
    ]
    if not ends:
        return ""
    low, high = min(0.0, *ends), max(0.0, *ends)
    margin = (high - low) * 0.06 or 0.5
    low, high = low - margin, high + margin
    labels = [clip_middle(text, LABEL_LEN_MAX) for text in row_labels(comparison, rows)]
    differences = difference_texts(rows)
    left = max(text_width(text) for text in labels) + 18
    right = WIDTH - max(text_width(text) for text in differences) - 130
    bottom = TOP + ROW_HEIGHT * len(rows)
    svg = Svg(WIDTH, bottom + 46, f"{comparison.other} less {comparison.one}")
    x = Scale(low, high, left, right)
    marks = ticks(low, high, count=6)
    for value, text in zip(marks, tick_texts(marks), strict=True):
        svg.line(x(value), TOP - 6, x(value), bottom, "grid")
        svg.text(x(value), bottom + 13, text.replace("-", "−"), anchor="middle", class_="tick")
    svg.line(x(0.0), TOP - 6, x(0.0), bottom, "zero")
    name = clip(f"{comparison.metric}: {comparison.other} less {comparison.one}", 90)
    svg.text((left + right) / 2, bottom + 34, name, anchor="middle")
    svg.text(right + 14, TOP - 14, "difference", class_="small quiet")
    for place, row in enumerate(rows):
        y = TOP + ROW_HEIGHT * (place + 0.5)
        is_overall = row is comparison.overall
        if is_overall:
            svg.line(0, y - ROW_HEIGHT / 2, WIDTH, y - ROW_HEIGHT / 2, "axis")
        strong = "label strong" if is_overall else "label"
        svg.text(left - 10, y, labels[place], anchor="end", class_=strong)
        told = count_text(row)
        if row.verdict is not Verdict.UNCLEAR:
            told = f"{row.verdict} · {told}"
        svg.text(right + 14, y, differences[place].strip(), class_=strong)
        svg.text(WIDTH, y, told, anchor="end",
                 class_="small quiet")  # fmt: skip
        if row.difference is None:
            continue
        colour = VERDICT_CLASSES[row.verdict]
        if row.half_width is not None:
            ends_at = [x(row.difference - row.half_width), x(row.difference + row.half_width)]
            svg.line(ends_at[0], y, ends_at[1], y, f"span {colour}")
            for end in ends_at:
                svg.line(end, y - 4, end, y + 4, f"span {colour}")
        hollow = "" if row.pairs else " hollow"
        shape = 3 if is_overall else 0
        title = f"{labels[place]}: {differences[place].strip()}, {count_text(row)}"
        svg.mark(x(row.difference), y, shape, class_=f"mean {colour}{hollow}", title=title)
    return str(svg)
