"""A merged table as text, CSV and JSON, and the files of a sweep's results."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.results.atomic import write_atomic
from meshtrain.results.axes import axis_names, plain_value
from meshtrain.results.copies import Twice
from meshtrain.results.errors import ResultsError
from meshtrain.results.merge import CellResult, CellState, MergedRow, MergedTable, in_sweep_order
from meshtrain.results.rerun import Rerun
from meshtrain.results.text import render_text

TABLE_CSV = "table.csv"
CELLS_CSV = "cells.csv"
TABLE_JSON = "table.json"
TABLE_TEXT = "table.txt"
TABLE_JSON_VERSION = 1
TABLE_JSON_SIZE_MAX_BYTES = 64 * 1024 * 1024


class TableDocument(msgspec.Struct, frozen=True):
    """What `table.json` holds."""

    version: int
    title: str
    header: str
    """What the values are, for people: `accuracy on writer w07`."""
    table: MergedTable
    rerun: tuple[Rerun, ...] = ()
    """What runs the missing cells again."""
    twice: tuple[Twice, ...] = ()
    """Cells that several folders have."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the cells were put together."""


def table_csv(table: MergedTable) -> str:
    """A row of CSV for each row of the table, references last, numbers in full.

    `ci_low` and `ci_high` are the ends of the mean's confidence interval.
    """
    axes = _all_axes(table)
    lines: list[list[object]] = [
        [
            *axes,
            "reference",
            "metric",
            "mean",
            "std",
            "ci_low",
            "ci_high",
            "n",
            "expected",
            "missing",
        ]
    ]
    lines += [
        [
            *_axis_fields(row.axes, axes),
            row.group,
            table.metric,
            _number(row.mean),
            _number(row.std),
            *_ends(row),
            row.n,
            row.expected,
            "; ".join(f"{cell.name}: {cell.reason}" for cell in row.missing),
        ]
        for row in (*table.rows, *table.references)
    ]
    return _csv_text(lines)


def cells_csv(table: MergedTable, cells: Sequence[CellResult]) -> str:
    """A row of CSV for each cell and metric; a cell without any has a row with its reason."""
    cells = in_sweep_order(cells)
    axes = axis_names(cell.cell for cell in cells)
    lines: list[list[object]] = [
        ["job_id", "name", *axes, "reference", "state", "metric", "value", "reason"]
    ]
    for cell in cells:
        head = [
            cell.job_id,
            cell.name,
            *_axis_fields(cell.cell, axes),
            cell.group,
            str(cell.state),
        ]
        lines += [[*head, metric, _number(value), ""] for metric, value in cell.metrics.items()]
        lines += [[*head, metric, "", reason] for metric, reason in cell.absent.items()]
        if not cell.metrics and not cell.absent:
            no_value = "no metrics were written" if cell.state == CellState.SUCCEEDED else ""
            lines.append([*head, table.metric, "", cell.reason or no_value or str(cell.state)])
    return _csv_text(lines)


def table_json(table: MergedTable, *, title: str = "", header: str = "") -> bytes:
    """The table as indented JSON, with what `plot` needs."""
    return document_json(TableDocument(TABLE_JSON_VERSION, title, header or table.metric, table))


def document_json(document: TableDocument) -> bytes:
    """The document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write_results(
    folder: Path,
    table: MergedTable,
    cells: Sequence[CellResult],
    *,
    title: str = "",
    header: str = "",
) -> None:
    """Writes table.csv, cells.csv, table.json and table.txt, each whole or not at all.

    `title` and `header` (what the values are, the metric's name by default)
    are kept for the plot. Raises ResultsError when the folder can't be written.
    """
    write_atomic(folder / TABLE_CSV, _encoded(table_csv(table)))
    write_atomic(folder / CELLS_CSV, _encoded(cells_csv(table, cells)))
    write_atomic(folder / TABLE_JSON, table_json(table, title=title, header=header))
    write_atomic(folder / TABLE_TEXT, _encoded(render_text(table, header=header) + "\n"))


_document_decoder = msgspec.json.Decoder(TableDocument)


def read_results(folder: Path) -> TableDocument:
    """Reads back the table.json of a results folder.

    Raises ResultsError when it is absent, too large, broken or of another version.
    """
    path = folder / TABLE_JSON
    try:
        with path.open("rb") as file:
            data = file.read(TABLE_JSON_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise ResultsError(
            f"{path} can't be read: {error.strerror or error}; name a sweep's folder below results/"
        ) from error
    if len(data) > TABLE_JSON_SIZE_MAX_BYTES:
        raise ResultsError(f"{path} is larger than {TABLE_JSON_SIZE_MAX_BYTES} bytes")
    try:
        document = _document_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsError(f"{path} is no results table: {error}; have it written again") from error
    if document.version != TABLE_JSON_VERSION:
        raise ResultsError(
            f"{path} has version {document.version}, this meshtrain reads "
            f"{TABLE_JSON_VERSION}; use the meshtrain that wrote it"
        )
    return document


def _all_axes(table: MergedTable) -> list[str]:
    rows: Sequence[MergedRow] = (*table.rows, *table.references)
    return list(dict.fromkeys([*table.axes, *(axis for row in rows for axis in row.axes)]))


def _axis_fields(cell: dict[str, Any], axes: Sequence[str]) -> list[object]:
    return [plain_value(cell[axis]) if axis in cell else "" for axis in axes]


def _ends(row: MergedRow) -> tuple[str, str]:
    if row.mean is None or row.half_width is None:
        return "", ""
    return _number(row.mean - row.half_width), _number(row.mean + row.half_width)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _csv_text(lines: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")
