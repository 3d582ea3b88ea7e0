"""Metrics as Prometheus reads them: families of samples, and their text format 0.0.4.

Counts are kept where things happen, and read when they are asked for: a scrape
costs as much as there are families, whatever there is of jobs and nodes. Names
say the unit; what labels may say is listed where a family is made, so that no
name from outside ever becomes one.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

SHORT_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Bounds, in seconds, for what a process does by itself."""
LONG_S: Final = (
    *(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0),
    *(3600.0, 10_800.0, 43_200.0, 86_400.0),
)
"""Bounds, in seconds, for what people wait for."""


class FamilyKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(msgspec.Struct, frozen=True):
    """One number."""

    value: float
    labels: tuple[tuple[str, str], ...] = ()
    suffix: str = ""
    """What follows the family's name: `_bucket`, `_sum`, `_count`; empty for most."""


class Family(msgspec.Struct, frozen=True):
    """All numbers of one name."""

    name: str
    kind: FamilyKind
    told: str
    """What it counts, in a line."""
    samples: tuple[Sample, ...]


def counter(name: str, told: str, value: float) -> Family:
    """A number that only rises; its name ends in `_total`."""
    return Family(name, FamilyKind.COUNTER, told, (Sample(value),))


def gauge(name: str, told: str, value: float) -> Family:
    """A number that rises and falls."""
    return Family(name, FamilyKind.GAUGE, told, (Sample(value),))


def counters(name: str, told: str, label: str, values: Mapping[str, float]) -> Family:
    """Numbers that only rise, one for each value of a label."""
    return Family(name, FamilyKind.COUNTER, told, _by_label(label, values))


def gauges(name: str, told: str, label: str, values: Mapping[str, float]) -> Family:
    """Numbers that rise and fall, one for each value of a label."""
    return Family(name, FamilyKind.GAUGE, told, _by_label(label, values))


def _by_label(label: str, values: Mapping[str, float]) -> tuple[Sample, ...]:
    return tuple(Sample(value, ((label, key),)) for key, value in values.items())


class Histogram:
    """How long things took, in buckets; observing one costs a search among the bounds.

    Args:
        bounds_s: upper bounds of the buckets in seconds, rising.
    """

    __slots__ = ("_bounds_s", "_counts", "sum_s")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(self._bounds_s) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one that took so long; clocks that went back count as no time."""
        seconds = max(0.0, seconds)
        self._counts[bisect_left(self._bounds_s, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def samples(self, labels: tuple[tuple[str, str], ...] = ()) -> tuple[Sample, ...]:
        """Its buckets, each with all below it, then the sum and the count."""
        below = 0
        made = []
        for bound_s, count in zip((*self._bounds_s, math.inf), self._counts, strict=True):
            below += count
            made.append(Sample(below, (*labels, ("le", _number(bound_s))), "_bucket"))
        made.append(Sample(self.sum_s, labels, "_sum"))
        made.append(Sample(below, labels, "_count"))
        return tuple(made)


def histogram(name: str, told: str, seconds: Histogram) -> Family:
    """One histogram as a family."""
    return Family(name, FamilyKind.HISTOGRAM, told, seconds.samples())


def histograms(name: str, told: str, label: str, by_label: Mapping[str, Histogram]) -> Family:
    """Histograms, one for each value of a label."""
    samples = tuple(
        sample for key, seconds in by_label.items() for sample in seconds.samples(((label, key),))
    )
    return Family(name, FamilyKind.HISTOGRAM, told, samples)


def expose(families: Iterable[Family]) -> bytes:
    """The families in the text format."""
    return "".join(_lines(families)).encode()


def _lines(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        yield f"# HELP {family.name} {_escaped(family.told)}\n"
        yield f"# TYPE {family.name} {family.kind.value}\n"
        for sample in family.samples:
            labels = ""
            if sample.labels:
                pairs = (f'{key}="{_escaped(text, quotes=True)}"' for key, text in sample.labels)
                labels = f"{{{','.join(pairs)}}}"
            yield f"{family.name}{sample.suffix}{labels} {_number(sample.value)}\n"


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
