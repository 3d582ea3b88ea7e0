"""`meshtrain why` as people read it; the command and the dashboard print the same lines."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator

from meshtrain.core.job import BaseState, JobState
from meshtrain.core.refusal import Because
from meshtrain.core.span import Span
from meshtrain.core.why import NodeReason, Why
from meshtrain.ids import short

NODES_SHOWN_MAX = 12
"""Nodes that are listed one by one; the others are counted by their reason."""
FACT_WIDTH = 10
GAP = "   "

_VERBS = {JobState.WAITING: "waiting", JobState.RUNNING: "running"}


def why_lines(
    why: Why,
    *,
    clock: Callable[[float], str],
    duration: Callable[[float], str],
    width: int = 80,
) -> list[str]:
    """The answer in lines of at most `width` columns, commands apart.

    Args:
        clock: writes a moment of the wall clock, as `14:20`.
        duration: writes a span of seconds, as `12 min`.
    """
    lines = _head(why, duration, width)
    if why.nodes:
        lines.append("")
        if why.subject:
            lines.append(f"  {why.subject}")
        lines += _node_lines(why.nodes, clock, width)
    facts = list(_facts(why, clock))
    if facts:
        lines.append("")
    for name, text, command in facts:
        lines += _fact(name, text, command, width)
    return lines


def _head(why: Why, duration: Callable[[float], str], width: int) -> list[str]:
    verb = _VERBS.get(why.state)
    if verb is None:
        told = why.headline
    elif why.state is JobState.WAITING:
        told = f"{verb} {duration(max(0.0, why.now_wall_s - why.since_wall_s))}: {why.headline}"
    else:
        told = f"{why.headline}, for {duration(max(0.0, why.now_wall_s - why.since_wall_s))}"
    return textwrap.wrap(told, width, break_long_words=False) or [""]


# --- nodes --------------------------------------------------------------------------------


def _node_lines(
    nodes: tuple[NodeReason, ...], clock: Callable[[float], str], width: int
) -> list[str]:
    """Those that may take it soonest first; what is the same of very many is counted."""
    ordered = sorted(nodes, key=_nearness)
    shown = ordered if len(ordered) <= NODES_SHOWN_MAX else ordered[: NODES_SHOWN_MAX - 1]
    name_width = max(len(node.node_id) for node in shown)
    lines: list[str] = []
    for node in shown:
        parts = [node.text]
        if node.frees_wall_s is not None:
            ends = f" ({node.frees_job} ends)" if node.frees_job else ""
            parts.append(f"frees enough about {clock(node.frees_wall_s)}{ends}")
        if node.ahead:
            parts.append(f"behind {_count(node.ahead, 'job')}")
        lines += _joined(f"  {node.node_id:<{name_width}}", parts, width)
    rest = ordered[len(shown) :]
    if rest:
        counted = Counter(str(node.because) for node in rest).most_common()
        told = ", ".join(f"{number} {because}" for because, number in counted)
        text = f"  … and {_count(len(rest), 'more node')}: {told}"
        lines += textwrap.wrap(text, width, subsequent_indent="    ")
    return lines


def _nearness(node: NodeReason) -> tuple[bool, bool, float, str]:
    away = node.because in (Because.AWAY, Because.DRAINED, Because.CLOSED)
    at_s = float("inf") if node.frees_wall_s is None else node.frees_wall_s
    return node.refusal.is_lasting, away, at_s, node.node_id


def _joined(head: str, parts: list[str], width: int) -> list[str]:
    """Parts behind a head, on as many lines as they need; a part is wrapped where it must be."""
    indent = " " * (len(head) + len(GAP))
    lines: list[str] = []
    line = head + GAP
    for place, part in enumerate(parts):
        glue = GAP if place and line.strip() else ""
        if place and len(line) + len(glue) + len(part) > width:
            lines.append(line.rstrip())
            line, glue = indent, ""
        wrapped = textwrap.wrap(
            part,
            max(20, width - len(line) - len(glue)),
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
        line += glue + wrapped[0]
        for more in wrapped[1:]:
            lines.append(line.rstrip())
            line = indent + more
    return [*lines, line.rstrip()]


# --- facts --------------------------------------------------------------------------------


def _facts(why: Why, clock: Callable[[float], str]) -> Iterator[tuple[str, str, str]]:
    """Each with its name, its text, and the command that goes with it."""
    if why.state is JobState.WAITING:
        yield "starts", _starts_text(why, clock), ""
        for place, advice in enumerate(why.advice):
            when = "now" if advice.starts is None else f"about {clock(advice.starts.mid_s)}"
            at = f" on {advice.node_id}" if advice.node_id else ""
            what = f"{why.subject} starts" if why.subject else "it starts"
            yield (
                "sooner" if place == 0 else "",
                f"{advice.words} {what} {when}{at}",
                advice.command,
            )
    if why.base is not None and not why.state.is_terminal:
        yield "base", _base_text(why, clock), ""
    if why.budget:
        yield "budget", why.budget, ""
    if why.sweep_ends is not None:
        yield "sweep", f"ends {span_text(why.sweep_ends, clock)}", ""


def _starts_text(why: Why, clock: Callable[[float], str]) -> str:
    starts = why.starts
    if starts.span is None:
        return f"nobody knows when: {starts.unknown}"
    at = f" on {starts.node_id}" if starts.node_id else ""
    rough = "; roughly, as very many wait before it" if starts.is_rough else ""
    if starts.untimed:
        rough += f"; nobody knows how long {_count(starts.untimed, 'job')} will run"
    low, mid, high = (clock(s) for s in (starts.span.low_s, starts.span.mid_s, starts.span.high_s))
    if low == high:
        return f"about {mid}{at}{rough}"
    return f"about {mid}{at} ({low} to {high}{rough})"


def span_text(span: Span, clock: Callable[[float], str]) -> str:
    """A span as people read it: `about 14:20 (13:55 to 14:50)`."""
    low, mid, high = clock(span.low_s), clock(span.mid_s), clock(span.high_s)
    return f"about {mid}" if low == high else f"about {mid} ({low} to {high})"


def _base_text(why: Why, clock: Callable[[float], str]) -> str:
    base = why.base
    assert base is not None
    name = f"{base.label} {short(base.recipe_hash)}"
    if base.state is BaseState.COMMITTED:
        if not base.holders:
            return f"{name} is there, and nobody who is there holds it"
        nothing = ": nothing to fetch there"
        return f"{name} is on {_listed(base.holders)}{nothing}"
    if base.state is not BaseState.NEEDED:
        return f"{name} {base.state}"
    if base.node_id:
        ready = "" if base.there is None else f", there {span_text(base.there, clock)}"
        return f"{name} is trained on {base.node_id}{ready}"
    return f"{name} waits to be trained: meshtrain why {base.job}"


def _fact(name: str, text: str, command: str, width: int) -> list[str]:
    head = f"  {name:<{FACT_WIDTH - 2}}"
    indent = " " * FACT_WIDTH
    if command and len(head) + len(text) + len(GAP) + len(command) <= width:
        return [f"{head}{text}{GAP}{command}"]
    lines = textwrap.wrap(
        text,
        max(20, width - FACT_WIDTH),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
    told = [head + lines[0], *(indent + line for line in lines[1:])]
    return [*told, f"{indent}  {command}"] if command else told


def _listed(names: tuple[str, ...]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
