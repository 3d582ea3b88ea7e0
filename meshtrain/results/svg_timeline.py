"""Draws which node ran what and when."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

from meshtrain.results.formats import clip_middle
from meshtrain.results.svg import Scale, Svg, text_width, ticks

WIDTH = 860.0
LANE_HEIGHT = 11.0
LANES_MAX = 16
"""Lanes of one node; more at once share the last one."""
NODES_MAX = 40
SPANS_MAX = 4000
NODE_GAP = 8.0
TOP = 8.0

_UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))


class Span(msgspec.Struct, frozen=True):
    """One run on one node."""

    node: str
    started_s: float
    ended_s: float
    name: str
    kind: str
    """`base`, `good` or `bad`: how it is painted."""


def timeline(spans: Sequence[Span]) -> str:
    """The drawing as SVG; empty where there is nothing to draw, or too much to see."""
    nodes = sorted({span.node for span in spans})
    if not spans or len(spans) > SPANS_MAX or len(nodes) > NODES_MAX:
        return ""
    start = min(span.started_s for span in spans)
    end = max(max(span.ended_s for span in spans), start + 1e-3)
    names = [clip_middle(node, 24) for node in nodes]
    left = max(map(text_width, names)) + 18
    lanes = {node: _lanes([span for span in spans if span.node == node]) for node in nodes}
    heights = {node: LANE_HEIGHT * (1 + max(lane for _, lane in lanes[node])) for node in nodes}
    bottom = TOP + sum(heights.values()) + NODE_GAP * len(nodes)
    svg = Svg(WIDTH, bottom + 40, "which node ran what and when")
    x = Scale(0.0, end - start, left, WIDTH - 12)
    unit, seconds = next(((u, s) for u, s in _UNITS if end - start >= 2 * s), _UNITS[-1])
    marks = ticks(0.0, (end - start) / seconds, count=8)
    for value in marks:
        at = x(value * seconds)
        svg.line(at, TOP, at, bottom, "grid")
        svg.text(at, bottom + 12, f"{value:g}", anchor="middle", class_="tick")
    svg.text((left + WIDTH) / 2, bottom + 31, f"{unit} since the first start", anchor="middle")
    y = TOP
    for node, name in zip(nodes, names, strict=True):
        svg.text(left - 10, y + heights[node] / 2, name, anchor="end", title=node)
        for span, lane in lanes[node]:
            at = x(span.started_s - start)
            width = max(x(span.ended_s - start) - at, 1.2)
            svg.add(
                "rect",
                title=f"{span.name}, {span.ended_s - span.started_s:.3g} s on {node}",
                x=at,
                y=y + lane * LANE_HEIGHT + 1,
                width=width,
                height=LANE_HEIGHT - 2,
                rx=1.5,
                class_=f"run-{span.kind}",
            )
        y += heights[node] + NODE_GAP
        svg.line(left, y - NODE_GAP / 2, WIDTH - 12, y - NODE_GAP / 2, "grid")
    return str(svg)


def _lanes(spans: Sequence[Span]) -> list[tuple[Span, int]]:
    """Each run in the lowest lane that is free when it starts."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    used = 0
    placed = []
    for span in sorted(spans, key=lambda one: (one.started_s, one.ended_s, one.name)):
        while busy and busy[0][0] <= span.started_s + 1e-6:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane = min(used, LANES_MAX - 1)
            used += 1
        placed.append((span, lane))
        heapq.heappush(busy, (span.ended_s, lane))
    return placed
