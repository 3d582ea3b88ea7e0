"""The HTML report of one or several sweeps: one file that needs nothing else.

It holds no script and loads nothing: its content policy forbids both. Every text
that comes from people, programs or names is escaped where it is put in (`page`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from meshtrain.results import page
from meshtrain.results.compare import ComparedRow, Comparison, Verdict
from meshtrain.results.compare_text import (
    count_text,
    difference_texts,
    render_comparison,
    row_labels,
)
from meshtrain.results.formats import NOTHING, NumberStyle, axis_texts, cell_text, plain_text
from meshtrain.results.merge import MergedTable
from meshtrain.results.merged import Merged
from meshtrain.results.page import Cell, escaped, number
from meshtrain.results.plot_data import plot_data
from meshtrain.results.report_facts import (
    about_bases,
    about_cells,
    about_machines,
    about_parameters,
    about_versions,
    hours,
)
from meshtrain.results.report_style import STYLE
from meshtrain.results.rerun import NAMED_MAX
from meshtrain.results.saved import Saved, saved
from meshtrain.results.svg_chart import chart
from meshtrain.results.svg_forest import forest
from meshtrain.results.text import interval_texts, interval_title
from meshtrain.results.twice_text import twice_lines

ROWS_SHOWN_MAX = 1000
"""Rows of a table in the report; `--csv` has them all."""
DRAWN_MAX = 4000
"""Rows that one picture shows."""
MISSING_SHOWN_MAX = 200
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Made(msgspec.Struct, frozen=True):
    """When a report was made, and by what."""

    at_s: float
    """Seconds since 1970."""
    version: str
    """Of meshtrain."""
    command: str = ""


def report(
    sweeps: Sequence[Merged],
    comparisons: Sequence[Comparison],
    made: Made,
    *,
    together: MergedTable | None = None,
) -> str:
    """The whole page. There is at least one sweep.

    `together` is the table of all sweeps at once, for a picture; None draws none.
    """
    *firsts, last = [plain_text(sweep.results.name) for sweep in sweeps]
    names = f"{', '.join(firsts)} and {last}" if firsts else last
    total = saved([sweep.results for sweep in sweeps])
    body = [_head(sweeps, names, made), _tiles(sweeps, comparisons, total)]
    if together is not None:
        body.append(_section("All sweeps", _plot(together, sweeps[0].header), "together"))
    body += [_comparison(comparison, sweeps[0].header) for comparison in comparisons]
    for place, sweep in enumerate(sweeps):
        body.append(_sweep(sweep, place, alone=len(sweeps) == 1))
    body.append(_section("Parameters", about_parameters([s.results for s in sweeps]), "parameters"))
    body.append(_section("Bases and compute saved", about_bases(total), "bases"))
    body.append(_section("Machines", about_machines([s.results for s in sweeps]), "machines"))
    cells = "".join(about_cells(sweep.results, sweep.table) for sweep in sweeps)
    body.append(_section("Cells", cells, "cells"))
    versions = about_versions([s.results for s in sweeps], made.version, made.command)
    body.append(_section("Versions and sources", versions, "versions"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(names)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )


# --- the top -----------------------------------------------------------------------------


def _head(sweeps: Sequence[Merged], names: str, made: Made) -> str:
    when = _moment(made.at_s)
    links = [(f"sweep-{place}", sweep.results.name) for place, sweep in enumerate(sweeps)]
    if len(links) == 1:
        links = [("sweep-0", "Results")]
    links += [("parameters", "Parameters"), ("bases", "Bases"), ("machines", "Machines")]
    links += [("cells", "Cells"), ("versions", "Versions")]
    nav = "".join(f'<a href="#{anchor}">{escaped(plain_text(text))}</a>' for anchor, text in links)
    told = f"{sweeps[0].header or 'results'} · {when} · meshtrain {made.version}"
    return f"<h1>{escaped(names)}</h1>{page.paragraph(told, 'quiet')}<nav>{nav}</nav>"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _tiles(sweeps: Sequence[Merged], comparisons: Sequence[Comparison], total: Saved) -> str:
    rows = [row for s in sweeps for row in (*s.table.rows, *s.table.references)]
    there, expected = sum(row.n for row in rows), sum(row.expected for row in rows)
    missing = expected - there
    tiles = [
        (
            f"{there:,} of {expected:,}",
            "cells have a value"
            + (f"; {missing:,} {'is' if missing == 1 else 'are'} missing" if missing else ""),
        )
    ]
    for sweep in sweeps:
        table = sweep.table
        if table.best is None:
            continue
        row = table.rows[table.best]
        style = NumberStyle([r.mean for r in table.rows if r.mean is not None])
        mean = style(row.mean) + ("" if row.std is None else f" ± {style(row.std)}")
        of = "" if len(sweeps) == 1 else f" of {sweep.results.name}"
        tiles.append((mean, f"best{of}: {_point(row.axes) or 'all cells'}"))
    for comparison in comparisons:
        if comparison.overall is not None:
            text = difference_texts([comparison.overall])[0].strip()
            tiles.append((text, f"{comparison.other} less {comparison.one}, over all pairs"))
    if total.by_base:
        of_time = f", about {hours(total.saved_s)} of training" if total.saved_s else ""
        tiles.append((f"{total.avoided:,}", f"base trainings avoided{of_time}"))
    if total.spent_s:
        tiles.append((hours(total.spent_s), "of running, bases and cells together"))
    items = "".join(
        f"<li><b>{escaped(plain_text(big))}</b><span>{escaped(plain_text(small))}</span></li>"
        for big, small in tiles
    )
    return f'<ul class="tiles">{items}</ul>'


def _point(cell: dict[str, Any]) -> str:
    """A point of the matrix in running text, which may break between its parameters."""
    return ", ".join(cell_text({axis: value}) for axis, value in cell.items())


def _section(title: str, inner: str, anchor: str) -> str:
    return f'<h2 id="{anchor}">{escaped(plain_text(title))}</h2>\n{inner}' if inner else ""


# --- a sweep ------------------------------------------------------------------------------


def _sweep(sweep: Merged, place: int, *, alone: bool) -> str:
    table = sweep.table
    parts = [_plot(table, sweep.header), _table(sweep)]
    if table.best_cell is not None and sum(row.n for row in table.rows) > len(table.rows):
        best = table.best_cell
        style = NumberStyle([row.mean for row in table.rows if row.mean is not None])
        name = _point(best.cell) or best.name
        parts.append(page.paragraph(f"Best single cell: {name}, {style(best.value)}."))
    if table.direction:
        parts.append(page.paragraph(f"{table.direction[0].upper()}{table.direction[1:]}.", "quiet"))
    parts.append(_missing(sweep))
    parts.append(page.notes([*sweep.results.notes, *table.notes]))
    if sweep.twice:
        lines = twice_lines(sweep.twice)
        parts.append(page.details(lines[0], page.preformatted("\n".join(lines[1:])), is_open=True))
    parts += [page.details(other.metric, _plot(other, other.metric)) for other in sweep.more]
    title = "Results" if alone else sweep.results.name
    return _section(title, "\n".join(filter(None, parts)), f"sweep-{place}")


def _plot(table: MergedTable, header: str) -> str:
    rows = len(table.rows) + len(table.references)
    if not rows:
        return page.paragraph("No jobs in this sweep.")
    if rows > DRAWN_MAX:
        return page.paragraph(
            f"{rows:,} rows are too many for one picture: draw fewer with --by.", "quiet"
        )
    data = plot_data(table)
    caption = f"{header or 'value'}: {'. '.join([*data.fixed, *data.caption])}."
    return page.figure(chart(data, header or table.metric or "value"), caption)


def _table(sweep: Merged) -> str:
    table = sweep.table
    rows = [*table.rows, *table.references]
    shown = rows[:ROWS_SHOWN_MAX]
    axes = list(dict.fromkeys([*table.axes, *(axis for row in shown for axis in row.axes)]))
    style = NumberStyle([row.mean for row in rows if row.mean is not None])
    intervals = interval_texts(shown)
    titles: list[str | Cell] = [*map(plain_text, axes)] or [""]
    titles += [number(sweep.header or "value"), number("std")]
    titles += [number(interval_title(table)), number("n"), "missing"]
    lines: list[list[str | Cell]] = []
    classes = []
    texts = {
        axis: iter(axis_texts([row.axes[axis] for row in shown if axis in row.axes]))
        for axis in axes
    }
    for place, row in enumerate(shown):
        label = [next(texts[axis]) if axis in row.axes else "" for axis in axes] or ["all"]
        if row.group:
            label[0] = f"{plain_text(row.group)} {label[0]}".strip()
        states = sorted({cell.state for cell in row.missing})
        gone = f"{len(row.missing)} {', '.join(states)}" if row.missing else NOTHING
        count = str(row.n) if row.n == row.expected else f"{row.n} of {row.expected}"
        lines.append(
            [
                *label,
                number(style(row.mean)),
                number(style(row.std)),
                number(intervals[place] or NOTHING),
                number(count),
                gone,
            ]
        )
        is_best = place == table.best and len(table.rows) > 1
        classes.append("reference" if row.group else "best" if is_best else "")
    told = page.table(titles, lines, classes=classes)
    if len(rows) > len(shown):
        told += page.paragraph(
            f"The first {len(shown):,} of {len(rows):,} rows; all of them: --csv.", "quiet"
        )
    return told


def _missing(sweep: Merged) -> str:
    """What is missing, by name, and what runs it again."""
    if not sweep.rerun:
        return ""
    parts = ["<h3>Missing cells</h3>"]
    for again in sweep.rerun:
        count = len(again.cells)
        told = f"{count:,} {'cell' if count == 1 else 'cells'}: {again.says}."
        parts.append(page.paragraph(told))
        if again.command:
            parts.append(page.preformatted(again.command))
        names = list(again.cells[:MISSING_SHOWN_MAX])
        if count > len(names):
            names.append(f"… and {count - len(names):,} more")
        if count > NAMED_MAX:
            parts.append(page.details("their names", page.preformatted("\n".join(names))))
        elif not again.command:
            parts.append(page.notes(names))
    reasons: dict[str, int] = {}
    for row in (*sweep.table.rows, *sweep.table.references):
        for cell in row.missing:
            if cell.reason and cell.reason != cell.state:
                told = f"{cell.state}: {plain_text(cell.reason)}"
                reasons[told] = reasons.get(told, 0) + 1
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:20]
    parts.append(page.notes(f"{count} {told}" for told, count in most))
    return "".join(parts)


# --- several sweeps -------------------------------------------------------------------------


def _comparison(comparison: Comparison, header: str) -> str:
    title = f"{comparison.other} less {comparison.one}"
    drawing = forest(comparison)
    parts = []
    if drawing:
        caption = (
            f"{header or comparison.metric}: differences with their "
            f"{comparison.confidence * 100:g} % intervals; hollow where cells don't pair."
        )
        parts.append(page.figure(drawing, caption))
    rows = list(comparison.rows)[:ROWS_SHOWN_MAX]
    if comparison.overall is not None:
        rows.append(comparison.overall)
    labels = row_labels(comparison, rows)
    differences = difference_texts(rows)
    style = NumberStyle(
        [v for row in rows for v in (row.one.mean, row.other.mean) if v is not None]
    )
    titles: list[str | Cell] = [", ".join(map(plain_text, comparison.axes)), comparison.one]
    titles += [comparison.other, number("difference"), "n", "", "without partner"]
    lines = [
        _compared(row, labels[place], differences[place], style) for place, row in enumerate(rows)
    ]
    classes = [
        "total" if row is comparison.overall else "reference" if row.group else "" for row in rows
    ]
    parts.append(page.table(titles, lines, classes=classes))
    parts.append(page.notes(comparison.notes))
    parts.append(page.details("as text", page.preformatted(render_comparison(comparison))))
    return _section(title, "\n".join(filter(None, parts)), "")


def _compared(
    row: ComparedRow, label: str, difference: str, style: NumberStyle
) -> list[str | Cell]:
    sides = [
        (style(s.mean) + ("" if s.std is None else f" ± {style(s.std)}"))
        if s.mean is not None or not s.n
        else ""
        for s in (row.one, row.other)
    ]
    word = "" if row.verdict is Verdict.UNCLEAR else str(row.verdict)
    left_out = row.one.left_out + row.other.left_out
    return [
        Cell(label, "nowrap"),
        *(Cell(side, "nowrap") for side in sides),
        number(difference.strip()),
        Cell(count_text(row), "nowrap"),
        Cell(word or NOTHING, word),
        str(left_out) if left_out else NOTHING,
    ]
