"""The numbers of the stream `metrics`: JSON lines, each an object, in the order in which they came.

A series keeps so many points at most; when it has more, neighbours are joined two
by two, each with the least and the greatest value in it, so that no spike is lost.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

POINTS_MAX = 2048
SERIES_MAX = 64
LINE_BYTES_MAX = 64 << 10
DEPTH_MAX = 4
X_NAMES = ("step", "global_step", "iteration", "iter", "epoch")
"""What counts a training's progress; the first that a line has. Else lines are counted."""
CLOCK_NAMES = ("time", "timestamp", "wall_time")
"""When a line was written: no metric, and a straight line over anything."""


class Point(NamedTuple):
    """Values that lie next to each other."""

    x: float
    mean: float
    low: float
    high: float


class Series:
    """One metric over a training's progress."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        #: values that are no finite numbers
        self.odd = 0
        self.last = math.nan
        self._stride = 1
        self._in_last = 0
        self._x = array("d")
        self._mean = array("d")
        self._low = array("d")
        self._high = array("d")

    def __len__(self) -> int:
        return len(self._x)

    def points(self) -> Iterator[Point]:
        """What is kept, in order."""
        return map(Point, self._x, self._mean, self._low, self._high)

    def add(self, x: float, value: float) -> None:
        """Take in one value."""
        self.count += 1
        self.last = value
        if self._x and self._in_last < self._stride:
            self._in_last += 1
            # The mean of huge numbers must not overflow on its way.
            self._mean[-1] += value / self._in_last - self._mean[-1] / self._in_last
            self._x[-1] = x
            self._low[-1] = min(self._low[-1], value)
            self._high[-1] = max(self._high[-1], value)
            return
        if len(self._x) >= POINTS_MAX:
            self._join()
        self._in_last = 1
        for column, entry in zip(
            (self._x, self._mean, self._low, self._high), (x, value, value, value), strict=True
        ):
            column.append(entry)

    def _join(self) -> None:
        self._stride *= 2
        self._x = self._x[1::2]
        self._mean = array(
            "d", [a / 2 + b / 2 for a, b in zip(self._mean[::2], self._mean[1::2], strict=True)]
        )
        self._low = array("d", map(min, self._low[::2], self._low[1::2]))
        self._high = array("d", map(max, self._high[::2], self._high[1::2]))


class MetricSeries:
    """All series of a stream, as its bytes come."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}
        self.lines = 0
        #: lines that are no JSON objects, or too long
        self.bad_lines = 0
        #: names that there was no room for
        self.left_out: set[str] = set()
        self.x_name = ""
        self._rest = b""
        self._skips = False

    def feed(self, data: bytes) -> None:
        """Take in the next bytes of the stream."""
        *whole, rest = (self._rest + data).split(b"\n")
        for line in whole:
            if self._skips:
                # The end of a line whose beginning was too long to keep.
                self._skips = False
                continue
            self._take(line)
        self._rest = rest
        if len(rest) > LINE_BYTES_MAX:
            self._rest = b""
            if not self._skips:
                self.bad_lines += 1
            self._skips = True

    def _take(self, line: bytes) -> None:
        if not line.strip(b"\0\r\t "):
            return
        self.lines += 1
        record = _parsed(line)
        if record is None:
            self.bad_lines += 1
            return
        x_name = next((name for name in X_NAMES if _is_number(record.get(name))), "")
        self.x_name = self.x_name or x_name
        x = float(record[x_name]) if x_name else float(self.lines)
        for name, value in _flat(record):
            if name in X_NAMES or name in CLOCK_NAMES:
                continue
            series = self.series.get(name)
            if series is None:
                if len(self.series) >= SERIES_MAX:
                    if len(self.left_out) < SERIES_MAX:
                        self.left_out.add(name)
                    continue
                series = self.series[name] = Series(name)
            if _is_number(value):
                series.add(x, float(value))
            else:
                series.odd += 1


def _parsed(line: bytes) -> dict[str, Any] | None:
    if len(line) > LINE_BYTES_MAX:
        return None
    try:
        # Not msgspec: Python's own json writes NaN, and so do programs that use it.
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _flat(record: dict[str, Any], before: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Numbers by dotted name; what is neither a number nor an object says nothing over time."""
    for name, value in record.items():
        if isinstance(value, dict):
            if depth < DEPTH_MAX:
                yield from _flat(value, f"{before}{name}.", depth + 1)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}", value


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
