"""A time that is not known exactly: when something is likely to happen, and within what."""

from __future__ import annotations

import msgspec


class Span(msgspec.Struct, frozen=True):
    """The middle of what may come, and a range that it comes to in 8 cases of 10."""

    low_s: float
    mid_s: float
    high_s: float

    def after(self, from_s: float) -> Span:
        """The same, counted from another moment."""
        return Span(self.low_s + from_s, self.mid_s + from_s, self.high_s + from_s)


LOW_SHARE = 0.1
HIGH_SHARE = 0.9


def span_of(values_s: list[float]) -> Span:
    """The span of what came out when the same was tried several times; at least once."""
    ordered = sorted(values_s)
    return Span(quantile(ordered, LOW_SHARE), quantile(ordered, 0.5), quantile(ordered, HIGH_SHARE))


def quantile(ordered: list[float] | tuple[float, ...], share: float) -> float:
    """The value below which a share of `ordered` lies, between neighbours in proportion."""
    place = share * (len(ordered) - 1)
    below = int(place)
    if below + 1 >= len(ordered):
        return ordered[-1]
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])
