"""Reads the metrics that a job left in its result folder.

Whatever a program wrote is met with a value or with a reason, never with an
exception: a run that went wrong must show as a gap, and must not take the
other runs' table down.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec

METRICS_FILE = "metrics.json"
SIZE_MAX_BYTES = 4 * 1024 * 1024
VALUES_MAX = 10_000
DEPTH_MAX = 32
NAME_LEN_MAX = 200
NAMES_SHOWN_MAX = 6
CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}


class Metrics(msgspec.Struct, frozen=True):
    """What one job measured, and why the rest is missing."""

    values: dict[str, float] = {}
    """Finite numbers by dotted name, in the file's order."""
    absent: dict[str, str] = {}
    """Names that the file has without a usable number, each with its reason."""
    reason: str = ""
    """Why there is nothing at all; empty when the file could be read."""
    file: str = METRICS_FILE
    """The file that was read, relative to the result folder."""

    def find(self, wanted: str) -> Found:
        """The value of `wanted`, also by the last parts of its name, or why there is none."""
        if self.reason:
            return Found(reason=self.reason)
        name = resolve_metric([*self.values, *self.absent], wanted)
        if name.reason:
            return name
        if name.name in self.values:
            return Found(name=name.name, value=self.values[name.name])
        return Found(name=name.name, reason=self.absent[name.name])


class Found(msgspec.Struct, frozen=True):
    """The answer to a search for a metric: a name, perhaps a value, or a reason."""

    name: str = ""
    value: float | None = None
    reason: str = ""


def resolve_metric(names: Collection[str], wanted: str) -> Found:
    """The full name that `wanted` means among `names`.

    An exact name comes first; else the one name that ends in `.wanted`. Several
    such names, or none, are told as the reason.
    """
    if wanted in names:
        return Found(name=wanted)
    matches = sorted({name for name in names if name.endswith("." + wanted)})
    if len(matches) == 1:
        return Found(name=matches[0])
    if matches:
        return Found(reason=f"{wanted} may mean {_listed(matches, ' or ')}: name one of them")
    if not names:
        return Found(reason=f"no {wanted}: no metrics were written")
    close = difflib.get_close_matches(wanted, list(dict.fromkeys(names))[:500], n=1)
    if close:
        return Found(reason=f"no {wanted}; did you mean {close[0]}?")
    return Found(reason=f"no {wanted}; there is {_listed(sorted(set(names)), ', ')}")


def read_metrics(folder: Path, result_file: str | None = None) -> Metrics:
    """Reads `metrics.json`, or the command's own `result_file`, below `folder`.

    JSON may be nested to any shape; its numbers get dotted names. A file that
    ends in .csv or .tsv has a header and one row. Never raises for what the
    file holds or is: `reason` and `absent` tell what could not be used.
    """
    name = result_file or METRICS_FILE
    text, reason = _read_text(folder, name)
    if reason:
        return Metrics(reason=reason, file=name)
    separator = CSV_SUFFIXES.get(Path(name).suffix.lower())
    document, reason = _parse_csv(text, separator, name) if separator else _parse_json(text, name)
    if reason:
        return Metrics(reason=reason, file=name)
    return _collect(document, name)


def _read_text(folder: Path, name: str) -> tuple[str, str]:
    try:
        root = folder.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            return "", f"{name} lies outside the result folder: write it below {{output}}"
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return "", f"{name} is not a plain file"
        with path.open("rb") as file:
            data = file.read(SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        return "", f"no {name} in the result{_what_is_there(folder)}"
    except (OSError, ValueError, RuntimeError) as error:
        return "", f"{name} can't be read: {_why(error)}"
    if len(data) > SIZE_MAX_BYTES:
        return "", f"{name} is larger than {SIZE_MAX_BYTES // 1024**2} MiB: write the totals alone"
    if not data.strip():
        return "", f"{name} is empty"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        return "", f"{name} is not UTF-8 text (byte {error.start})"


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _what_is_there(folder: Path) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return ""
    return f"; it holds {_listed(names, ', ')}" if names else "; it is empty"


def _parse_json(text: str, name: str) -> tuple[dict[str, Any], str]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        return {}, f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except RecursionError:
        return {}, f"{name} is nested too deeply"
    except ValueError as error:
        return {}, f"{name} is not JSON: {error}"
    if not isinstance(document, dict):
        return {}, f"{name} holds {_kind(document)}, not an object of metrics"
    return document, ""


def _parse_csv(text: str, separator: str, name: str) -> tuple[dict[str, Any], str]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [row for row in _first(reader, 4) if any(field.strip() for field in row)]
    except csv.Error as error:
        return {}, f"{name} is not CSV: {error}"
    if len(rows) != 2:
        found = "more than one row" if len(rows) > 2 else "no row"
        return {}, f"{name} has {found} below its header; one is expected"
    header, row = ([field.strip() for field in line] for line in rows)
    if len(header) != len(row):
        return {}, f"{name} has {len(header)} names and {len(row)} values"
    if len(set(header)) != len(header):
        return {}, f"{name} names a column twice"
    return {key: _csv_number(field) for key, field in zip(header, row, strict=True) if key}, ""


def _first(reader: Iterator[list[str]], rows_max: int) -> Iterator[list[str]]:
    kept = 0
    for row in reader:
        yield row
        kept += any(field.strip() for field in row)
        if kept == rows_max:
            return


def _csv_number(field: str) -> float | str | None:
    if not field:
        return None
    try:
        return float(field)
    except ValueError:
        return field


def _collect(document: dict[str, Any], name: str) -> Metrics:
    values: dict[str, float] = {}
    absent: dict[str, str] = {}
    for key, leaf in _leaves(document):
        if len(values) + len(absent) >= VALUES_MAX:
            return Metrics(reason=f"{name} has more than {VALUES_MAX:,} values", file=name)
        number, reason = as_metric(key, leaf)
        if key in values or key in absent:
            if number is None or values.get(key) != number:
                values.pop(key, None)
                absent[key] = f"{key} stands in {name} twice, with two values"
        elif number is None:
            absent[key] = reason
        else:
            values[key] = number
    if not values and not absent:
        return Metrics(reason=f"{name} holds no metrics", file=name)
    return Metrics(values=values, absent=absent, file=name)


def _leaves(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every leaf with its dotted name, in the file's order, without recursion."""
    levels: list[tuple[str, Iterator[tuple[Any, Any]]]] = [("", iter(document.items()))]
    while levels:
        prefix, items = levels[-1]
        for key, value in items:
            dotted = f"{prefix}{key}"
            if len(dotted) > NAME_LEN_MAX:
                dotted = dotted[: NAME_LEN_MAX - 1] + "…"
            if isinstance(value, dict) and len(levels) < DEPTH_MAX:
                levels.append((dotted + ".", iter(value.items())))
                break
            yield dotted, value
        else:
            levels.pop()


def as_metric(name: str, value: object) -> tuple[float | None, str]:
    """`value` as a finite float, or None with the reason why it is no metric."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"{name} is {_kind(value)}, not a number"
    try:
        number = float(value)
    except OverflowError:
        return None, f"{name} is too large a number"
    if math.isnan(number):
        return None, f"{name} is NaN"
    if math.isinf(number):
        return None, f"{name} is infinite"
    return number, ""


def _kind(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "nested too deeply"
    return "a number" if isinstance(value, int | float) else type(value).__name__


def _listed(names: list[str], separator: str) -> str:
    shown = separator.join(names[:NAMES_SHOWN_MAX])
    more = len(names) - NAMES_SHOWN_MAX
    return f"{shown} and {more} more" if more > 0 else shown
